"""`factory eval process`: are the wrong steps of solutions with labeled steps found?

Of PRM800K the solutions count, not the single alternatives to their steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from factory.core.errors import RecipeError, SampleError
from factory.core.records import Sample
from factory.core.words import words
from factory.engines.base import Engine
from factory.evaluation.columns import steps_scored
from factory.evaluation.evaluate import (
    Evaluation,
    each_sample,
    evaluation,
    number,
    unread,
    work_folder,
)
from factory.evaluation.process import process_report
from factory.evaluation.rows import Rows, labels_of, sample_of, shape_of, steps_of
from factory.evaluation.score import for_shape
from factory.evaluation.scorer import Scorer
from factory.evaluation.step_scores import ProcessRow
from factory.scorers.process_reward import ProcessReward
from factory.sources import prm800k

_ALTERNATIVE = "an alternative step of PRM800K, which is no solution"


def evaluate_process(
    rows: Rows,
    scorer: Scorer | None,
    work: Path | None = None,
    *,
    score: str | None = None,
    threshold: float = 0.5,
    engines: Mapping[str, Engine] | None = None,
) -> Evaluation:
    """`score` names the scorer's, or without a scorer the column <score>_steps, or <score> itself."""
    if (shape := shape_of(rows)) != "process":
        raise RecipeError(
            f"eval process needs prompt, completions and labels; {rows.name} is a {shape} dataset"
        )
    name = _process_stage(scorer, score) if scorer else ""
    column = "" if scorer else _step_column(rows, score)
    bad: Counter[str] = Counter()
    found: list[ProcessRow] = []
    numbers: set[int] = set()  # labels that are ratings, not claims

    def add(row: Mapping[str, Any], sample: Sample) -> None:
        bad.update(unread(sample, name))
        try:
            steps = steps_of(row)
            labels = labels_of(row, steps)
            given = row[column] if column else steps_scored(sample, name)
            scores = _step_scores(given, len(steps))
        except SampleError as error:
            bad[str(error)] += 1
            return
        numbers.update(label for label in row["labels"] if type(label) is int)
        subset, is_right = row.get("subset"), row.get("is_right")
        found.append(
            ProcessRow(
                prompt_id=sample.id,
                scores=scores,
                labels=labels,
                subset=None if subset is None else str(subset),
                words=[words(step) for step in steps],
                is_right=is_right if isinstance(is_right, bool) else None,
            )
        )

    if alternatives := sum(_is_alternative(row) for row in rows.read()):
        bad[_ALTERNATIVE] += alternatives
    read = rows.read
    solutions = msgspec.structs.replace(
        rows,
        read=lambda: (row for row in read() if not _is_alternative(row)),
        count=None if alternatives else rows.count,
    )
    convert = partial(sample_of, shape="process")
    if scorer:
        folder = work or work_folder("process", rows, scorer)
        pipeline = for_shape(scorer, "process")
        calls = each_sample(solutions, convert, add, bad, pipeline, folder, engines)
    else:
        calls = each_sample(solutions, convert, add, bad)
    if numbers == {0, 1} and "shared" not in rows.features:
        raise RecipeError(f"{rows.name}: {prm800k.ZERO_AND_ONE}")
    report = process_report(found, threshold=threshold)
    return evaluation("process", rows, scorer or [column], name, report, bad, len(found), calls)


def _is_alternative(row: Mapping[str, Any]) -> bool:
    return bool(row.get("is_alternative"))


def _process_stage(scorer: Scorer, score: str | None) -> str:
    names = [stage.name for stage in scorer.pipeline.stages if isinstance(stage, ProcessReward)]
    if score in names:
        return str(score)
    if score is None and len(names) == 1:
        return names[0]
    raise RecipeError(
        f"eval process needs one process stage; the scorer has {', '.join(names) or 'none'}"
        + (f", and none is named '{score}'" if score else "; name one with --score")
    )


def _step_column(rows: Rows, score: str | None) -> str:
    if score is None:
        raise RecipeError(
            "eval process needs --model, --recipe, or --score of a column in the data"
        )
    column = f"{score}_steps" if f"{score}_steps" in rows.features else score
    rows.require([column], f"--score {score}")
    return column


def _step_scores(given: Any, steps: int) -> list[float | None]:
    """P(correct) of each step; all unknown, if there is none. Raises `SampleError`."""
    if given is None:
        return [None] * steps
    if not isinstance(given, list) or len(given) != steps:
        raise SampleError("not as many step scores as steps")
    scores = [number(value) for value in given]
    if any(score is not None and not 0 <= score <= 1 for score in scores):
        raise SampleError("a step score is outside [0, 1]")
    return scores
