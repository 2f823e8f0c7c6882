"""Benchmarks, read from the files they are published in.

In: a local file. Out: its records in order, and a `BadRow` with line and reason for every row of the
wrong shape. No row is skipped silently or raises. A file that cannot be read raises `RecipeError`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from factory.core.errors import RecipeError, SampleError, SourceError
from factory.core.records import BadRow
from factory.sources.formats.base import RAW_CHARS
from factory.sources.formats.text import Json

MAX_CODES = 12
"""Most label codes that a message lists."""
HUMAN_LABELS = {
    1: ("1", "a", "[[a]]", "answer_a", "model_a", "first", "left", "chosen"),
    2: ("2", "b", "[[b]]", "answer_b", "model_b", "second", "right", "rejected"),
    0: ("0", "c", "[[c]]", "tie", "tie (bothbad)", "both_bad", "both", "equal", "same", "neither"),
}
"""Words for people's labels, in lower case and with _ for blanks -> 1: the first answer is better; 2:
the second is; 0: a tie. `chosen` is the first of a pair stored as chosen, rejected."""


def _form(word: str) -> str:
    return "_".join(word.lower().split())


_LABELS = {_form(word): label for label, words in HUMAN_LABELS.items() for word in words}


class Solution(msgspec.Struct, frozen=True):
    """A solution in steps, with the first wrong step as people marked it."""

    id: str
    subset: str | None
    """Name of the benchmark's part: for the id `gsm8k-12`, `gsm8k`."""
    prompt: str
    """The problem. Several solutions may share it; intervals cluster by it."""
    completions: list[str]
    labels: list[bool | None]
    """For each step: True before the first error, False at it, None after it (not labeled)."""
    is_right: bool | None
    """True if its final answer is correct, regardless of the steps. None: unknown."""


def read_processbench(path: Path) -> tuple[list[Solution], list[BadRow]]:
    """ProcessBench (arXiv 2412.06559): JSONL, or one JSON list, of `{id, generator, problem, steps,
    final_answer_correct, label}`, where `label` is the index of the first wrong step, or -1."""
    solutions: list[Solution] = []
    bad: list[BadRow] = []
    try:
        for index, (line, raw) in enumerate(Json(path).records()):
            try:
                solutions.append(_solution(_decoded(raw)))
            except SampleError as error:
                text = raw.decode("utf-8", "backslashreplace")
                bad.append(BadRow(index, line, str(error), text[:RAW_CHARS]))
    except SourceError as error:
        raise RecipeError(str(error)) from error
    return solutions, bad


def human_label(value: object) -> int | None:
    """A person's label. 1: the first answer is better; 2: the second is; 0: a tie. None: no label.

    Accepts 1, 2, 0 and the words of `HUMAN_LABELS`. Raises `SampleError` for anything else, fractions
    and true/false included, since in some files 0 and 1 mean the reverse.
    """
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value in HUMAN_LABELS:
        return value
    label = _LABELS.get(_form(value)) if isinstance(value, str) else None
    if label is None:
        raise SampleError(
            f"human label {str(value)[:40]!r} is not known; write 1 or 'a' (the first answer is "
            "better), 2 or 'b' (the second is), 0 or 'tie'"
        )
    return label


class Labels:
    """The labels of one file, in which every code has one meaning.

    `coding`: code -> meaning (a, b, tie or another word of `HUMAN_LABELS`), such as
    `{1: "a", 0: "b"}`. Without it, accepts words, and the codes 1, 2 and 0 if the file has a 2, or has
    only 1. If a file has only 0 and 1, their meanings are ambiguous.
    """

    def __init__(self, coding: Mapping[Any, str] | None = None) -> None:
        """Raises `RecipeError` for an unknown meaning."""
        self._coding: dict[str, int] = {}
        for code, meaning in (coding or {}).items():
            label = _LABELS.get(_form(str(meaning)))
            if label is None:
                raise RecipeError(f"labels: {code} means {meaning!r}, expected a, b or tie")
            self._coding[_code(code)] = label
        self._seen: dict[str, object] = {}

    def look(self, value: object) -> None:
        """Record a label's code. Call it for all labels before any is read."""
        if _is_code(value) and len(self._seen) <= MAX_CODES:
            self._seen.setdefault(repr(value), value)

    def check(self, where: str) -> None:
        """Raise `RecipeError` if the meanings of the recorded codes are ambiguous."""
        codes = list(self._seen.values())
        if self._coding:
            unknown = [code for code in codes if _code(code) not in self._coding]
            if not unknown or len(unknown) < len(codes):
                return  # rows with unknown codes are bad rows
        whole = {_code(code) for code in codes}
        is_whole = not any(isinstance(code, float | bool) or "." in str(code) for code in codes)
        if not codes or (is_whole and ("2" in whole or whole == {"1"}) and whole <= set("012")):
            return
        shown = ", ".join(sorted(self._seen)[:MAX_CODES])
        raise RecipeError(
            f"{where} has the labels {shown}, whose meanings are ambiguous (by default 1: the first "
            "is better, 2: the second, 0: a tie); name their meanings with --labels "
            "1=a,0=b or --labels 1=a,2=b,0=tie"
        )

    def read(self, value: object) -> int | None:
        """A label. 1: the first answer is better; 2: the second is; 0: a tie. None: no label.

        Raises `SampleError` for anything that is not a label of this file.
        """
        if isinstance(value, float) and math.isnan(value):
            return None
        if self._coding and (label := self._coding.get(_code(value))) is not None:
            return label
        if self._coding and _is_code(value):
            have = ", ".join(self._coding)
            raise SampleError(f"human label {str(value)[:40]!r} is not one of the codes {have}")
        return human_label(value)


def parse_labels(text: str) -> dict[str, str]:
    """The value of --labels as code -> meaning. Raises `RecipeError`.

    >>> parse_labels("1=a, 0=b")
    {'1': 'a', '0': 'b'}
    """
    pairs = [entry.partition("=") for entry in text.split(",") if entry.strip()]
    if not pairs or any(not mark or not code.strip() for code, mark, _ in pairs):
        raise RecipeError(f"--labels {text}: expected CODE=ANSWER,..., e.g. 1=a,0=b")
    return {code.strip(): meaning.strip() for code, _, meaning in pairs}


def _is_code(value: object) -> bool:
    """True for a number, or a text or truth value that stands for one."""
    if isinstance(value, float) and math.isnan(value):
        return False
    if isinstance(value, str):
        return re.fullmatch(r"\s*[+-]?\d+(\.\d*)?\s*", value) is not None
    return isinstance(value, int | float | Decimal)


def _code(value: object) -> str:
    """A code as text. With a coding, 1, 1.0, "1" and true are the same code."""
    text = str(value).strip().lower()
    if text in ("true", "false"):
        return str(int(text == "true"))
    return re.sub(r"\.0*$", "", text) if re.fullmatch(r"[+-]?\d+\.0*", text) else text


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        row = msgspec.json.decode(raw)
    except (ValueError, RecursionError) as error:
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
        completions=steps,
        labels=[*labels, *[None] * (len(steps) - len(labels))],
        is_right=is_right,
    )


def _wrong(field: str, value: object, expected: str) -> SampleError:
    found = "missing or null" if value is None else f"{value!r:.60}"
    return SampleError(f"field {field!r} is {found}, expected {expected}")
