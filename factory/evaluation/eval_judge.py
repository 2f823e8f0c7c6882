"""`factory eval judge`: does a judge prefer the answers that people prefer?

In: rows with a prompt, two answers and the labels of one or more people, as PandaLM's test set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from factory.engines.base import Engine
from factory.errors import RecipeError, SampleError
from factory.evaluation.agreement import JudgedRow, judge_report
from factory.evaluation.data import human_label
from factory.evaluation.evaluate import Evaluation, about, evaluation, score_each, work_folder
from factory.records import BadRow, Message, Sample
from factory.runner.run import reason_of
from factory.scoring.results import Result
from factory.scoring.rows import Rows, bad_row, made_sample, messages
from factory.scoring.scorer import Scorer
from factory.words import words

_PANDALM = ("instruction", "response1", "response2")
_ANNOTATOR = "annotator"


class Columns(msgspec.Struct, frozen=True):
    """Where the comparisons of `eval judge` are."""

    prompt: str = "prompt"
    a: str = "response_a"
    b: str = "response_b"
    labels: tuple[str, ...] = ("label",)
    """One a person."""
    more: str | None = None
    """Goes under the prompt, where it is not blank."""


def judge_columns(rows: Rows, given: Mapping[str, Any]) -> Columns:
    """The fields given, else PandaLM's names where the rows have these, else the defaults.

    Raises `RecipeError` if one is not there.
    """
    columns = Columns()
    people = tuple(sorted(c for c in rows.features if c.startswith(_ANNOTATOR)))
    if people and set(_PANDALM) <= set(rows.features):
        more = "input" if "input" in rows.features else None
        columns = Columns(*_PANDALM, people, more)
    columns = msgspec.structs.replace(columns, **given)
    if not columns.labels:
        raise RecipeError("--label-columns names no column; give one or more, as label")
    needed = [columns.prompt, columns.a, columns.b, *columns.labels]
    rows.require(needed, "eval judge (name them with --prompt-column and its like)")
    return columns


def evaluate_judge(
    rows: Rows,
    scorer: Scorer,
    work: Path | None = None,
    *,
    columns: Mapping[str, Any] | None = None,
    tie_band: float = 0.0,
    engines: Mapping[str, Engine] | None = None,
) -> Evaluation:
    """`scorer`: of `scorer.judge_of`, one pairwise judge. `columns`: fields of `Columns`."""
    where = judge_columns(rows, columns or {})
    bad: Counter[str] = Counter()
    found: list[JudgedRow] = []
    name = next(str(getattr(stage, "name", "")) for stage in scorer.recipe.stages)

    def each(row: Mapping[str, Any], index: int, result: Result) -> None:
        sample = result.sample
        verdict = None
        if sample is None:
            assert result.failure is not None
            bad[reason_of(result.failure)] += 1
            whole = comparison(row, index, where)
            if isinstance(whole, BadRow):
                return
            sample = whole
        else:
            verdict = next((v for v in sample.verdicts if v.judge == name), None)
        found.append(
            JudgedRow(
                prompt_id=sample.id,
                p=verdict.p if verdict else None,
                # Equal answers are a tie without a call: that says nothing of the judge.
                is_consistent=verdict.is_consistent if verdict and verdict.readings else None,
                order_gap=verdict.order_gap if verdict and verdict.readings else None,
                human=_people(row, where),
                words_a=words(sample.candidates[0].text),
                words_b=words(sample.candidates[1].text),
            )
        )

    folder = work or work_folder("judge", rows, scorer)
    convert = partial(comparison, where=where)
    calls = score_each(rows, scorer.recipe, folder, convert, each, engines)
    report = judge_report(found, tie_band=tie_band)
    return evaluation("judge", rows, about(scorer, name), report, bad, len(found), calls)


def comparison(row: Mapping[str, Any], index: int, where: Columns) -> Sample | BadRow:
    """A row as a sample of two candidates, a and b; a label that is none makes it a bad row."""
    try:
        prompt = messages(row[where.prompt], where.prompt)
        more = row.get(where.more) if where.more else None
        if isinstance(more, str) and more.strip():
            last = prompt[-1]["content"]
            prompt[-1] = Message(role=prompt[-1]["role"], content=f"{last}\n\n{more}")
        if prompt[-1]["role"] != "user" or not prompt[-1]["content"].strip():
            raise SampleError(f"column '{where.prompt}' does not end with a user's message")
        answers = [_answer(row[column], column) for column in (where.a, where.b)]
        _people(row, where)
        return made_sample(index, row, prompt, answers)
    except SampleError as error:
        return bad_row(row, index, str(error))


def _answer(value: Any, column: str) -> str:
    text = value if isinstance(value, str) else messages(value, column)[-1]["content"]
    if not text.strip():
        raise SampleError(f"column '{column}' holds a blank answer")
    return text


def _people(row: Mapping[str, Any], where: Columns) -> list[int]:
    labels = (human_label(row[column]) for column in where.labels)
    return [label for label in labels if label is not None]
