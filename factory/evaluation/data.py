"""Benchmarks in the files they are published in.

In: a local file. Out: its records in order, and a `BadRow` with line and reason for every row of the
wrong shape: none is skipped in silence, none raises. A file that cannot be read at all raises
`RecipeError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from factory.errors import RecipeError, SampleError
from factory.records import BadRow

RAW_CHARS = 2000
HUMAN_LABELS = {
    1: ("1", "a", "[[a]]", "answer_a", "model_a", "first", "left", "chosen"),
    2: ("2", "b", "[[b]]", "answer_b", "model_b", "second", "right", "rejected"),
    0: ("0", "c", "[[c]]", "tie", "tie (bothbad)", "both_bad", "both", "equal", "same", "neither"),
}
"""What people's labels are written as, in small letters and with _ for blanks: 1, the first answer
is better; 2, the second is; 0, a tie. `chosen` is the first of a pair stored as chosen, rejected."""
_LABELS = {form.replace(" ", "_"): label for label, forms in HUMAN_LABELS.items() for form in forms}


class Solution(msgspec.Struct, frozen=True):
    """A solution in steps, of which people found the first that is wrong."""

    id: str
    subset: str | None
    """Of id `gsm8k-12`: `gsm8k`."""
    prompt: str
    """Several solutions may share it: it names the cluster of intervals."""
    steps: list[str]
    labels: list[bool | None]
    """True up to the first error, then False, then None: nobody labelled what follows."""
    is_right: bool | None
    """Its final answer is correct, whatever its steps. None: not said."""


def read_processbench(path: Path) -> tuple[list[Solution], list[BadRow]]:
    """ProcessBench (arXiv 2412.06559): JSONL, or one JSON list, of `{id, generator, problem, steps,
    final_answer_correct, label}`, where `label` is the index of the first wrong step, or -1."""
    solutions: list[Solution] = []
    bad: list[BadRow] = []
    for index, (line, raw) in enumerate(_json_rows(path)):
        try:
            solutions.append(_solution(_decoded(raw)))
        except SampleError as error:
            text = raw.decode("utf-8", "backslashreplace")
            bad.append(BadRow(index, line, str(error), text[:RAW_CHARS]))
    return solutions, bad


def human_label(value: object) -> int | None:
    """1: the first answer is better; 2: the second is; 0: a tie. None: no label was given.

    Takes 1, 2, 0 and the words of `HUMAN_LABELS`. Raises `SampleError` for anything else, fractions
    and true/false included: in some files 0 and 1 mean the reverse.
    """
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value in HUMAN_LABELS:
        return value
    form = "_".join(value.lower().split()) if isinstance(value, str) else None
    if form not in _LABELS:
        raise SampleError(
            f"human label {str(value)[:40]!r} is not known; write 1 or 'a' (the first answer is "
            "better), 2 or 'b' (the second is), 0 or 'tie'"
        )
    return _LABELS[form]


def _json_rows(path: Path) -> Iterator[tuple[int | None, bytes]]:
    """(line, JSON text) of each row. Of a JSON list, the line is None."""
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    if data.lstrip().startswith(b"["):
        try:
            rows = msgspec.json.decode(data, type=list[msgspec.Raw])
        except msgspec.DecodeError as error:
            raise RecipeError(f"{path}: not a JSON list: {error}; expected JSONL") from error
        yield from ((None, bytes(row)) for row in rows)
        return
    for line, text in enumerate(data.split(b"\n"), 1):
        if text.strip():
            yield line, text.strip()


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        row = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SampleError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise SampleError(f"a JSON {type(row).__name__}, expected an object")
    return row


def _solution(row: dict[str, Any]) -> Solution:
    name, problem, steps, label = (row.get(key) for key in ("id", "problem", "steps", "label"))
    is_right = row.get("final_answer_correct")
    if not isinstance(name, str) or not name:
        raise _wrong("id", name, "a string")
    if not isinstance(problem, str) or not problem.strip():
        raise _wrong("problem", problem, "a string that is not blank")
    if not isinstance(steps, list) or not steps:
        raise _wrong("steps", steps, "a list of strings, at least one")
    for at, step in enumerate(steps):
        if not isinstance(step, str) or not step.strip():
            raise _wrong(f"steps[{at}]", step, "a string that is not blank")
    if not isinstance(label, int) or isinstance(label, bool) or not -1 <= label < len(steps):
        raise _wrong("label", label, f"the index of a step, 0 to {len(steps) - 1}, or -1")
    if is_right is not None and not isinstance(is_right, bool):
        raise _wrong("final_answer_correct", is_right, "true or false")
    subset, _, number = name.rpartition("-")
    correct = len(steps) if label == -1 else label
    labels = [True] * correct + [False] * (label >= 0)
    return Solution(
        id=name,
        subset=subset if subset and number.isdigit() else None,
        prompt=problem,
        steps=steps,
        labels=[*labels, *[None] * (len(steps) - len(labels))],
        is_right=is_right,
    )


def _wrong(field: str, value: object, expected: str) -> SampleError:
    found = "missing or null" if value is None else f"{value!r:.60}"
    return SampleError(f"field {field!r} is {found}, expected {expected}")
