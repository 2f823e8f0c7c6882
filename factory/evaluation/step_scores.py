"""A process reward model's scores as numbers: AUCs of single steps and of whole solutions.

In: solutions with their scores, labels and outcomes. Out: `Steps` and `Outcomes`. An AUC needs no
threshold: it is P(a right one is scored above a wrong one), ties half, over all pairs of rows,
whatever prompts they come from; 0.5: the scores say nothing. Prompts are what the intervals resample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from factory.stats.bootstrap import SHARE, Estimate, interval_of, mean_of, weighted_mean
from factory.stats.ranks import Ranks, auc


class ProcessRow(msgspec.Struct, frozen=True):
    """One solution. Lists run over its steps, at least one."""

    prompt_id: str
    scores: list[float | None]
    """P(the step is correct), in [0, 1]. None, NaN, infinite: unscored."""
    labels: list[bool | None]
    """True: correct. None: unknown, as of steps after the first error."""
    subset: str | None = None
    words: list[int] = []
    """Length of each step, for a baseline. Empty: unknown."""
    is_right: bool | None = None
    """Its final answer is correct. None: unknown."""


class Steps(msgspec.Struct, frozen=True):
    """Single steps with a known label and a score. AUCs are P(a right step is above a wrong one)."""

    steps: int
    wrong: int
    auc: Estimate
    auc_earlier: Estimate
    """Of preferring the earlier step."""
    auc_shorter: Estimate
    """Of preferring the shorter step; undefined where a solution's words are unknown."""
    accuracy: Estimate
    """Share on the right side of the threshold."""
    balanced_accuracy: Estimate
    """Mean of that among right and among wrong steps; 0.5: guessing."""


class Outcomes(msgspec.Struct, frozen=True):
    """Whole solutions, all steps scored, against their final answer: AUCs of each way to sum up."""

    solutions: int
    right: int
    product: Estimate
    minimum: Estimate
    last: Estimate
    mean: Estimate
    fewer_steps: Estimate
    """Of preferring the solution with fewer steps: what the product does without reading."""


def steps_of(rows: Sequence[ProcessRow], threshold: float) -> Steps:
    """Scores are finite, or None."""
    steps = [
        (row.prompt_id, score, label, -at, -row.words[at] if row.words else None)
        for row in rows
        for at, (score, label) in enumerate(zip(row.scores, row.labels, strict=True))
        if score is not None and label is not None
    ]
    prompts = [prompt for prompt, *_ in steps]
    is_right = np.array([label for _, _, label, _, _ in steps], dtype=bool)
    area = partial(_area, prompts, is_right)
    is_hit = np.array([(s >= threshold) == label for _, s, label, _, _ in steps], dtype=bool)
    shortness = [short for *_, short in steps if short is not None]

    def balanced(weights: NDArray[Any]) -> float | None:
        on_right = weighted_mean(is_hit, weights * is_right)
        on_wrong = weighted_mean(is_hit, weights * ~is_right)
        return None if on_right is None or on_wrong is None else (on_right + on_wrong) / 2

    return Steps(
        steps=len(steps),
        wrong=int((~is_right).sum()),
        auc=area([score for _, score, *_ in steps]),
        auc_earlier=area([earliness for *_, earliness, _ in steps]),
        auc_shorter=area(shortness) if len(shortness) == len(steps) else Estimate(None),
        accuracy=mean_of(prompts, list(is_hit), SHARE),
        balanced_accuracy=interval_of(prompts, balanced),
    )


def outcomes_of(cases: Sequence[tuple[ProcessRow, list[float]]]) -> Outcomes:
    """Of (row, its scores); every `is_right` is known."""
    prompts = [row.prompt_id for row, _ in cases]
    is_right = np.array([row.is_right for row, _ in cases], dtype=bool)
    area = partial(_area, prompts, is_right)
    return Outcomes(
        solutions=len(cases),
        right=int(is_right.sum()),
        product=area([_log_product(known) for _, known in cases]),
        minimum=area([min(known) for _, known in cases]),
        last=area([known[-1] for _, known in cases]),
        mean=area([math.fsum(known) / len(known) for _, known in cases]),
        fewer_steps=area([-len(known) for _, known in cases]),
    )


def _area(prompts: Sequence[str], is_right: NDArray[Any], values: Sequence[float]) -> Estimate:
    ranks = Ranks(values)
    return interval_of(prompts, lambda weights: auc(ranks, is_right, weights))


def _log_product(scores: Sequence[float]) -> float:
    # The product of some hundred steps would be zero for all.
    return math.fsum(math.log(score) if score else -math.inf for score in scores)
