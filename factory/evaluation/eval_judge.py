"""`factory eval judge`: does a judge prefer the answers that people prefer?

In: rows with a prompt, two answers and the labels of one or more people, as PandaLM's test set, or in
another form that `people.open_comparisons` knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from factory.core.errors import RecipeError, SampleError
from factory.core.records import BadRow, Message, Sample
from factory.core.words import words
from factory.engines.base import Engine
from factory.evaluation.agreement import JudgedRow, judge_report
from factory.evaluation.evaluate import Evaluation, each_sample, evaluation, work_folder
from factory.evaluation.people import PERSON
from factory.evaluation.rows import Rows, bad_row, made_sample
from factory.evaluation.scorer import Scorer
from factory.sources.benchmarks import Labels
from factory.sources.conversation import read_messages, read_prompt

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
    """The fields given, else PandaLM's names or a column a reviewer where the rows have these, else the
    defaults.

    Raises `RecipeError` if one is not there.
    """
    columns = Columns()
    if people := _pandalm_people(rows):
        more = "input" if "input" in rows.features else None
        columns = Columns(*_PANDALM, people, more)
    elif reviewers := tuple(c for c in rows.features if c.startswith(PERSON)):
        columns = Columns(labels=reviewers)
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
    labels: Mapping[Any, str] | None = None,
    tie_band: float = 0.0,
    engines: Mapping[str, Engine] | None = None,
) -> Evaluation:
    """`scorer`: of `scorer.judge_of`, one pairwise judge. `columns`: fields of `Columns`. `labels`:
    what the codes of labels mean, as `{1: "a", 0: "b"}`.

    Raises `RecipeError` for codes that could mean one thing or another.
    """
    where = judge_columns(rows, columns or {})
    coding = Labels(labels)
    people = {*where.labels, *_pandalm_people(rows)}
    for row in rows.read():
        for column in people:
            coding.look(row.get(column))
    coding.check(rows.name)
    bad: Counter[str] = Counter()
    found: list[JudgedRow] = []
    name = next(str(getattr(stage, "name", "")) for stage in scorer.pipeline.stages)

    def add(row: Mapping[str, Any], sample: Sample) -> None:
        verdict = next((v for v in sample.verdicts if v.judge == name), None)
        # Equal answers are a tie without a call: that says nothing of the judge.
        read = verdict if verdict and verdict.readings else None
        found.append(
            JudgedRow(
                prompt_id=sample.id,
                p=verdict.p if verdict else None,
                is_consistent=read.is_consistent if read else None,
                order_gap=read.order_gap if read else None,
                human=_people(row, where, coding),
                words_a=words(sample.candidates[0].text),
                words_b=words(sample.candidates[1].text),
            )
        )

    folder = work or work_folder("judge", rows, scorer)
    convert = partial(comparison, where=where, labels=coding)
    calls = each_sample(rows, convert, add, bad, scorer.pipeline, folder, engines)
    report = judge_report(found, tie_band=tie_band)
    return evaluation("judge", rows, scorer, name, report, bad, len(found), calls)


def comparison(
    row: Mapping[str, Any], index: int, where: Columns, labels: Labels
) -> Sample | BadRow:
    """A row as a sample of two candidates, a and b; a label that is none makes it a bad row."""
    try:
        prompt = read_prompt(row.get(where.prompt), where.prompt)
        more = row.get(where.more) if where.more else None
        if isinstance(more, str) and more.strip():
            last = prompt[-1]["content"]
            prompt[-1] = Message(role=prompt[-1]["role"], content=f"{last}\n\n{more}")
        if prompt[-1]["role"] != "user" or not prompt[-1]["content"].strip():
            raise SampleError(f"column '{where.prompt}' does not end with a user's message")
        answers = [_answer(row.get(column), column) for column in (where.a, where.b)]
        _people(row, where, labels)
        return made_sample(index, row, prompt, answers)
    except SampleError as error:
        return bad_row(row, index, str(error))


def _answer(value: Any, column: str) -> str:
    text = read_messages(value, column, "assistant")[-1]["content"]
    if not text.strip():
        raise SampleError(f"column '{column}' holds a blank answer")
    return text


def _people(row: Mapping[str, Any], where: Columns, labels: Labels) -> list[int]:
    read = (labels.read(row.get(column)) for column in where.labels)
    return [label for label in read if label is not None]


def _pandalm_people(rows: Rows) -> tuple[str, ...]:
    """PandaLM's columns of labels; none in other files."""
    if not set(_PANDALM) <= set(rows.features):
        return ()
    return tuple(sorted(c for c in rows.features if c.startswith(_ANNOTATOR)))
