"""Conversion of rows of all forms to the one form that trainers read.

In: rows of a dataset, as written. Out: the same rows with their conversations as `{role, content}`
messages, prompt and answers separate. If every row of a dataset has a prompt and answers that are plain
texts, these stay texts, since a model without a chat template is trained on them unchanged. The forms
are those of `factory.sources.conversation`. A row that cannot be trained on raises `SampleError`, with
one of a few messages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from factory.core.errors import SampleError
from factory.core.records import Message
from factory.sources.conversation import (
    WITH_TOOL,
    is_transcript,
    read_exchange,
    read_prompt,
    read_text,
    wrong_type,
)
from factory.sources.formats.base import text_of
from factory.training import TRAINERS

TEXT, TRANSCRIPT, MESSAGES = "strings", "Human/Assistant transcripts", "messages"
"""Forms that a row's conversations come in."""

Row = dict[str, Any]


class Shape(NamedTuple):
    """The parts of a dataset that are read as conversations."""

    columns: tuple[str, ...]
    """`prompt`, and those that hold answers to it."""
    has_steps: bool = False
    """completions are the steps of one solution, with their labels."""


def shape_of(kind: str, columns: Collection[str]) -> Shape:
    """The shape in which a training of this kind reads a dataset with these columns."""
    takes, has = set(TRAINERS[kind].takes), set(columns)
    if "process" in takes:
        return Shape(("prompt",), has_steps=True)
    if "completion" in has and takes & {"sft", "kto"}:
        return Shape(("prompt", "completion"))
    pairs, lists = {"chosen", "rejected"} <= has, {"responses", "scores"} <= has
    answers = ("chosen", "rejected") if pairs and "preference" in takes else ()
    return Shape(("prompt", *answers, *(("responses",) if lists and "reward" in takes else ())))


def read_row(row: Mapping[str, Any], shape: Shape) -> tuple[Row, str]:
    """The row with its conversations as messages, and their original form."""
    made: Row = {**row}
    prompt: list[Message] | None = None
    for name in shape.columns[1:]:
        before, made[name] = (
            _responses(row) if name == "responses" else read_exchange(row, row.get(name), name)
        )
        if name == "rejected" and before != prompt:
            raise SampleError("chosen and rejected do not follow the same conversation")
        prompt = before if prompt is None else prompt
    if prompt is None:
        prompt = read_prompt(row.get("prompt"), "prompt", roles=WITH_TOOL)
    if shape.has_steps:
        _check_steps(row)
    made["prompt"] = prompt
    for name, read in VALUES.items():
        if name in made:
            made[name] = read(made[name])
    return made, _form(row, shape)


def _responses(row: Mapping[str, Any]) -> tuple[list[Message], list[str]]:
    answers, scores = row.get("responses"), row.get("scores")
    for name, value in (("responses", answers), ("scores", scores)):
        if not isinstance(value, list):
            raise wrong_type(value, name, "a list")
    if not answers:
        raise SampleError("field 'responses' is an empty list")
    if len(answers) != len(scores or ()):
        found = f"{len(answers)} responses, {len(scores or ())} scores"
        raise SampleError(f"not as many scores as responses: {found}")
    read = [read_exchange(row, answer, "responses") for answer in answers]
    prompt = read[0][0]
    if any(other != prompt or len(turns) != 1 for other, turns in read):
        raise SampleError("the responses do not follow the same conversation")
    return prompt, [turns[0]["content"] for _, turns in read]


def _check_steps(row: Mapping[str, Any]) -> None:
    """Check the types of steps and labels. Other errors are counted when they are encoded."""
    steps, labels = row.get("completions"), row.get("labels")
    if not isinstance(steps, list) or not isinstance(labels, list) or len(steps) != len(labels):
        raise SampleError("no completions, or not as many labels")
    for step in steps:
        if step is not None:
            read_text(step, "completions[0]")
    for label in labels:
        if label is not None and (not isinstance(label, int) or label not in (-1, 0, 1)):
            raise SampleError("a label other than true, false, null, -1, 0 and 1")


def _form(row: Mapping[str, Any], shape: Shape) -> str:
    values: list[Any] = []
    for name in shape.columns:
        value = row.get(name)
        values += value if name == "responses" and isinstance(value, list) else [value]
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < sum(value is not None for value in values):
        return MESSAGES
    is_whole = row.get("prompt") is None or any(map(is_transcript, texts))
    return TRANSCRIPT if is_whole else TEXT


def _number(value: object) -> object:
    """The number in a cell. Anything else is returned unchanged; the trainer refuses it, naming the row."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if value.strip() else None
    except ValueError:
        return value


def _reference(value: object) -> object:
    text = text_of(value)
    return value if text is None else text


def _label(value: object) -> object:
    """A label of KTO. Anything else is returned unchanged; the trainer refuses it."""
    if isinstance(value, str):
        return _TRUTHS.get(value.strip().lower(), value)
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else value


_TRUTHS = {"true": True, "false": False, "1": True, "0": False, "": None}
# Numbers in cells are text, and a reference is text in every format.
VALUES: dict[str, Callable[[object], object]] = {
    "preference": _number,
    "margin": _number,
    "score": _number,
    "reference": _reference,
    "label": _label,
}
