"""How well a process reward model tells right steps from wrong ones, and wrong solutions from right.

A step without score or label is in no figure of steps. A solution whose labels are all unknown is
unlabelled; one in which an unscored step comes before a first error can be told is unscored: both are
counted, and in no figure of first errors. In F1 every solution counts once, in step figures every step;
prompts are what the intervals resample; a rate of nothing is None, not zero.

Read the step AUC beside those of position and length: where errors come late, or in long steps, a
scorer that knows nothing else is above 0.5 too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from factory.evaluation.first_error import RIGHT, best_threshold, f1, predicted, truth
from factory.evaluation.step_scores import Outcomes, ProcessRow, Steps, outcomes_of, steps_of
from factory.evaluation.tables import aligned, few_prompts
from factory.stats.bootstrap import SHARE, Estimate, interval_of, mean_of


class FirstErrors(msgspec.Struct, frozen=True):
    """Predictions of the first wrong step. Shares are of solutions, in [0, 1]."""

    subset: str | None
    """None: all solutions."""
    wrong: int
    """Solutions with a wrong step."""
    right: int
    unscored: int
    unlabelled: int
    on_wrong: Estimate
    """Share of the wrong ones in which that very step is predicted."""
    on_right: Estimate
    """Share of the right ones in which no error is predicted."""
    f1: Estimate
    """Harmonic mean of the two. One answer for all solutions gives 0."""


class ProcessReport(msgspec.Struct, frozen=True):
    """What a process reward model's scores say of it."""

    prompts: int
    threshold: float
    """A step scored below it is taken to be wrong."""
    overall: FirstErrors
    subsets: list[FirstErrors]
    """By name. Empty where no solution names one."""
    mean_f1: Estimate
    """Mean of the subsets' F1: what ProcessBench publishes as its average."""
    best_threshold: float | None
    """That of the highest F1, at best threshold (on these rows), so `best_f1` flatters."""
    best_f1: float | None
    steps: Steps
    minimum_is_last: Estimate
    """Share of solutions of two steps or more, all scored, in which the last step alone is the
    lowest. Far above `last_by_chance`: the scorer judges the answer, not the steps."""
    last_by_chance: float | None
    """Mean of 1 / number of steps, over the same solutions."""
    outcomes: Outcomes

    def text(self) -> str:
        s, o, every = self.steps, self.outcomes, self.overall
        head = ["first error", "wrong", "right", "F1", "on wrong ones", "on right ones"]
        table = [head, *(_cells(errors) for errors in [every, *self.subsets])]
        if self.subsets:
            table.append(["mean of subsets", "", "", str(self.mean_f1)])
        lines = [
            f"process reward on {every.wrong + every.right:,} solutions, threshold "
            f"{self.threshold:g} ({every.unscored:,} unscored and {every.unlabelled:,} unlabelled "
            "left out)",
            "",
            aligned(table),
        ]
        if self.best_threshold is not None and self.best_f1 is not None:
            lines.append(
                f"F1 at best threshold (on these rows): {self.best_f1:.2f} "
                f"at {self.best_threshold:.3g}"
            )
        chance = "" if self.last_by_chance is None else f"by chance {self.last_by_chance:.2f}"
        lines += [
            "",
            aligned(
                [
                    [f"steps ({s.steps:,}, {s.wrong:,} wrong)"],
                    ["AUC", str(s.auc)],
                    ["AUC of earlier", str(s.auc_earlier)],
                    ["AUC of shorter", str(s.auc_shorter)],
                    ["accuracy", str(s.accuracy)],
                    ["balanced accuracy", str(s.balanced_accuracy)],
                    ["lowest step is the last", str(self.minimum_is_last), chance],
                ]
            ),
        ]
        if o.solutions:
            title = f"final answers ({o.solutions:,}, {o.right:,} right)"
            names = ("product", "minimum", "last", "mean", "fewer_steps")
            rows = [[f"AUC of {name.replace('_', ' ')}", str(getattr(o, name))] for name in names]
            lines += ["", aligned([[title], *rows])]
        return "\n".join([*lines, *few_prompts(self.prompts)])


def process_report(rows: Sequence[ProcessRow], *, threshold: float = 0.5) -> ProcessReport:
    """Raises `ValueError` for lists of unequal length, no steps, or a score outside [0, 1]."""
    rows = [_checked(row) for row in rows]
    names = sorted({row.subset for row in rows if row.subset is not None})
    told = _told(rows, threshold)
    best = best_threshold([row.scores for row, _ in told], [t for _, t in told], threshold)
    scored = [(row, known) for row in rows if len(known := _known(row.scores)) == len(row.scores)]
    several = [(row, known) for row, known in scored if len(known) > 1]
    chances = [1 / len(known) for _, known in several]
    return ProcessReport(
        prompts=len({row.prompt_id for row in rows}),
        threshold=threshold,
        overall=_first_errors(None, rows, threshold),
        subsets=[
            _first_errors(name, [row for row in rows if row.subset == name], threshold)
            for name in names
        ],
        mean_f1=_mean_f1([(row, t) for row, t in told if row.subset is not None], threshold),
        best_threshold=None if best is None else best[0],
        best_f1=None if best is None else best[1],
        steps=steps_of(rows, threshold),
        minimum_is_last=mean_of(
            [row.prompt_id for row, _ in several],
            [known[-1] < min(known[:-1]) for _, known in several],
            SHARE,
        ),
        last_by_chance=sum(chances) / len(chances) if chances else None,
        outcomes=outcomes_of([case for case in scored if case[0].is_right is not None]),
    )


def _checked(row: ProcessRow) -> ProcessRow:
    """The row, with None for a score that is not finite."""
    sizes = {len(row.scores), len(row.labels), len(row.words) or len(row.scores)}
    if len(sizes) > 1 or not row.scores:
        raise ValueError(
            f"a solution of prompt {row.prompt_id} has {len(row.scores)} scores, {len(row.labels)} "
            f"labels and {len(row.words)} words; expected one of each a step, and a step at least"
        )
    scores = [s if s is not None and math.isfinite(s) else None for s in row.scores]
    if wrong := [score for score in _known(scores) if not 0 <= score <= 1]:
        raise ValueError(f"score {wrong[0]} of prompt {row.prompt_id} is not in [0, 1]")
    return msgspec.structs.replace(row, scores=scores)


def _known(scores: Sequence[float | None]) -> list[float]:
    return [score for score in scores if score is not None]


def _told(rows: Sequence[ProcessRow], threshold: float) -> list[tuple[ProcessRow, int]]:
    """The rows of which the first error is both known and predicted, with the known one."""
    return [
        (row, error)
        for row in rows
        if (error := truth(row.labels)) is not None and predicted(row.scores, threshold) is not None
    ]


def _hits(
    told: Sequence[tuple[ProcessRow, int]], threshold: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Whether each is predicted exactly, and whether it has a wrong step."""
    is_hit = np.array([predicted(row.scores, threshold) == t for row, t in told], dtype=bool)
    return is_hit, np.array([t != RIGHT for _, t in told], dtype=bool)


def _first_errors(subset: str | None, rows: Sequence[ProcessRow], threshold: float) -> FirstErrors:
    told = _told(rows, threshold)
    unlabelled = sum(truth(row.labels) is None for row in rows)
    prompts = [row.prompt_id for row, _ in told]
    is_hit, is_wrong = _hits(told, threshold)

    def share(among: NDArray[Any]) -> Estimate:
        of_them = [prompt for prompt, is_among in zip(prompts, among, strict=True) if is_among]
        return mean_of(of_them, list(is_hit[among]), SHARE)

    return FirstErrors(
        subset=subset,
        wrong=int(is_wrong.sum()),
        right=int((~is_wrong).sum()),
        unscored=len(rows) - len(told) - unlabelled,
        unlabelled=unlabelled,
        on_wrong=share(is_wrong),
        on_right=share(~is_wrong),
        f1=interval_of(prompts, lambda w: f1(is_hit, is_wrong, w)),
    )


def _mean_f1(told: Sequence[tuple[ProcessRow, int]], threshold: float) -> Estimate:
    """Undefined where one subset's F1 is."""
    is_hit, is_wrong = _hits(told, threshold)
    subsets = np.array([row.subset for row, _ in told])
    masks = [subsets == name for name in sorted(set(subsets.tolist()))]

    def mean(weights: NDArray[Any]) -> float | None:
        values = [f1(is_hit, is_wrong, weights * mask) for mask in masks]
        known = _known(values)
        return sum(known) / len(known) if known and len(known) == len(values) else None

    return interval_of([row.prompt_id for row, _ in told], mean)


def _cells(errors: FirstErrors) -> list[str]:
    name = "all" if errors.subset is None else errors.subset
    counts = [f"{errors.wrong:,}", f"{errors.right:,}"]
    return [name, *counts, str(errors.f1), str(errors.on_wrong), str(errors.on_right)]
