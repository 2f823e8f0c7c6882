"""`factory eval reward`: does the chosen answer of each pair score higher than the rejected one?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from factory.core.errors import RecipeError
from factory.core.records import Sample
from factory.core.words import words
from factory.engines.base import Engine
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
from factory.evaluation.results import Result
from factory.evaluation.reward import RewardRow, reward_report
from factory.evaluation.rows import Rows, sample_of, shape_of
from factory.evaluation.scorer import Scorer
from factory.pipeline.outcomes import reason_of


def evaluate_reward(
    rows: Rows,
    scorer: Scorer | None,
    work: Path | None = None,
    *,
    score: str | None = None,
    subset: str | None = None,
    engines: Mapping[str, Engine] | None = None,
) -> Evaluation:
    """`score` names the scorer's score, or without a scorer the columns chosen_<score> and
    rejected_<score>. `subset`: the column that names the part of the benchmark."""
    if (shape := shape_of(rows)) != "preference":
        raise RecipeError(
            f"eval reward needs chosen and rejected; {rows.name} is a {shape} dataset"
        )
    if subset is not None:
        rows.require([subset], "--subset")
    bad: Counter[str] = Counter()
    found: list[RewardRow] = []

    def part(row: Mapping[str, Any]) -> str | None:
        return None if subset is None or row[subset] is None else str(row[subset])

    def add(row: Mapping[str, Any], sample: Sample, chosen: Any, rejected: Any) -> None:
        lengths = [words(c.text) for c in sample.candidates]
        scores = [number(value) for value in (chosen, rejected)]
        found.append(RewardRow(sample.id, part(row), scores[0], scores[1], *lengths))

    if scorer is None:
        columns = _score_columns(rows, score)
        for row, sample in readable(rows, "preference", bad):
            add(row, sample, *(row[column] for column in columns))
        return evaluation(
            "reward", rows, {"columns": columns}, reward_report(found), bad, len(found)
        )

    name = scorer.main_score(score)

    def each(row: Mapping[str, Any], index: int, result: Result) -> None:
        sample = result.sample
        if sample is None:
            assert result.failure is not None
            bad[reason_of(result.failure)] += 1
            whole = sample_of(row, index, "preference")
            if isinstance(whole, Sample):
                add(row, whole, None, None)
            return
        bad.update(unread(sample, name))
        of = {s.candidate: s.value for s in sample.scores if s.name == name}
        add(row, sample, of.get(0), of.get(1))

    folder = work or work_folder("reward", rows, scorer)
    convert = partial(sample_of, shape="preference")
    calls = score_each(rows, scorer.pipeline, folder, convert, each, engines)
    return evaluation(
        "reward", rows, about(scorer, name), reward_report(found), bad, len(found), calls
    )


def _score_columns(rows: Rows, score: str | None) -> list[str]:
    if score is None:
        raise RecipeError("eval reward needs --model, --recipe, or --score of columns in the data")
    columns = [f"chosen_{score}", f"rejected_{score}"]
    rows.require(columns, f"--score {score}")
    return columns
