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
    each_sample,
    evaluation,
    number,
    unread,
    work_folder,
)
from factory.evaluation.reward import RewardRow, reward_report
from factory.evaluation.rows import Rows, sample_of, shape_of
from factory.evaluation.scorer import Scorer


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
    name = scorer.main_score(score) if scorer else ""
    columns = [] if scorer else _score_columns(rows, score)

    def add(row: Mapping[str, Any], sample: Sample) -> None:
        bad.update(unread(sample, name))
        of = {s.candidate: s.value for s in sample.scores if s.name == name}
        chosen, rejected = (row[c] for c in columns) if columns else (of.get(0), of.get(1))
        part = None if subset is None or row[subset] is None else str(row[subset])
        lengths = [words(c.text) for c in sample.candidates]
        found.append(RewardRow(sample.id, part, number(chosen), number(rejected), *lengths))

    convert = partial(sample_of, shape="preference")
    if scorer:
        folder = work or work_folder("reward", rows, scorer)
        calls = each_sample(rows, convert, add, bad, scorer.pipeline, folder, engines)
    else:
        calls = each_sample(rows, convert, add, bad)
    report = reward_report(found)
    return evaluation("reward", rows, scorer or columns, name, report, bad, len(found), calls)


def _score_columns(rows: Rows, score: str | None) -> list[str]:
    if score is None:
        raise RecipeError("eval reward needs --model, --recipe, or --score of columns in the data")
    columns = [f"chosen_{score}", f"rejected_{score}"]
    rows.require(columns, f"--score {score}")
    return columns
