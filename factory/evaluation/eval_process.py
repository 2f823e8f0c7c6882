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
    about,
    evaluation,
    number,
    readable,
    score_each,
    unread,
    work_folder,
)
from factory.evaluation.process import process_report
from factory.evaluation.results import Result
from factory.evaluation.rows import Rows, labels_of, sample_of, shape_of, steps_of
from factory.evaluation.score import for_shape
from factory.evaluation.scorer import Scorer
from factory.evaluation.step_scores import ProcessRow
from factory.pipeline.outcomes import reason_of
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
    """`score` names the scorer's, or without a scorer the column <score>_steps, or <score> itself.

    Of PRM800K the solutions count, not the single alternatives to their steps.
    """
    if (shape := shape_of(rows)) != "process":
        raise RecipeError(
            f"eval process needs prompt, completions and labels; {rows.name} is a {shape} dataset"
        )
    bad: Counter[str] = Counter()
    found: list[ProcessRow] = []
    numbers: set[int] = set()  # labels that are ratings, not claims

    def add(row: Mapping[str, Any], prompt_id: str, given: Any) -> None:
        try:
            steps = steps_of(row)
            labels = labels_of(row, steps)
            scores = _step_scores(given, len(steps))
        except SampleError as error:
            bad[str(error)] += 1
            return
        numbers.update(label for label in row["labels"] if type(label) is int)
        subset, is_right = row.get("subset"), row.get("is_right")
        found.append(
            ProcessRow(
                prompt_id=prompt_id,
                scores=scores,
                labels=labels,
                subset=None if subset is None else str(subset),
                words=[words(step) for step in steps],
                is_right=is_right if isinstance(is_right, bool) else None,
            )
        )

    if scorer is None:
        column = _step_column(rows, score)
        for row, sample in readable(rows, "process", bad):
            if _is_alternative(row):
                bad[_ALTERNATIVE] += 1
            else:
                add(row, sample.id, row[column])
        _refuse_zero_and_one(rows, numbers)
        report = process_report(found, threshold=threshold)
        return evaluation("process", rows, {"columns": [column]}, report, bad, len(found))

    name = _process_stage(scorer, score)
    # Alternatives are not asked about.
    read, alternatives = rows.read, sum(_is_alternative(row) for row in rows.read())
    if alternatives:
        bad[_ALTERNATIVE] += alternatives
        rows = msgspec.structs.replace(
            rows,
            read=lambda: (row for row in read() if not _is_alternative(row)),
            count=None,
        )

    def each(row: Mapping[str, Any], index: int, result: Result) -> None:
        sample = result.sample
        if sample is not None:
            bad.update(unread(sample, name))
            add(row, sample.id, steps_scored(sample, name))
            return
        assert result.failure is not None
        bad[reason_of(result.failure)] += 1
        whole = sample_of(row, index, "process")
        if isinstance(whole, Sample):
            add(row, whole.id, None)

    folder = work or work_folder("process", rows, scorer)
    pipeline, convert = for_shape(scorer, "process"), partial(sample_of, shape="process")
    calls = score_each(rows, pipeline, folder, convert, each, engines)
    _refuse_zero_and_one(rows, numbers)
    report = process_report(found, threshold=threshold)
    return evaluation("process", rows, about(scorer, name), report, bad, len(found), calls)


def _refuse_zero_and_one(rows: Rows, numbers: set[int]) -> None:
    if numbers == {0, 1} and "shared" not in rows.features:
        raise RecipeError(f"{rows.name}: {prm800k.ZERO_AND_ONE}")


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
