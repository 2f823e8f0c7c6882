"""Findings about a constitution's file: what is wrong or weak in it, with line and remedy.

An error makes a judge's verdicts wrong or useless; a warning is a reason to look again. No model is
asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path
from typing import Literal

import msgspec

from factory.core.constitution import Constitution, Principle
from factory.core.errors import RecipeError
from factory.core.validation import validate
from factory.core.words import spelling, words
from factory.core.yamlfile import Loc, YamlFile, dotted
from factory.workbench.contexts import Context, too_long
from factory.workbench.verdicts import alike

_ALIKE = 0.9
"""Least similarity of two texts, in [0, 1], to call them nearly the same."""
_LONGER = 1.2
"""Ratio of words from which an answer is the longer one."""
# "Answer A", "option 2" and "the first one", but not "the answer a child could read".
_OPTION = re.compile(
    r"\([AB]\)|\b(?i:answer|option|response|reply|choice) (?:[AB]|[12]|One|Two)\b"
    r"|\b(?i:first|second|former|latter) (?i:answer|option|response|reply|one)\b"
)
_OPPOSITES = [
    {"more", "less"}, {"more", "fewer"}, {"longer", "shorter"}, {"better", "worse"}, {"most", "least"},
    {"safer", "riskier"}, {"formal", "informal"}, {"simpler", "richer"}, {"do", "avoid"},
]  # fmt: skip
_LINE = re.compile(r"^(?P<path>.*?):(?P<line>\d+) (?:(?P<field>[\w\[\].-]+): )?(?P<said>.*)$")


class Finding(msgspec.Struct, frozen=True):
    """One thing to mend."""

    severity: Literal["error", "warning"]
    path: str
    line: int
    """From 1."""
    field: str
    message: str
    """What was found, and what to write instead."""

    def text(self) -> str:
        field = f"{self.field}: " if self.field else ""
        return f"{self.path}:{self.line} {self.severity}: {field}{self.message}"


Odd = tuple[Literal["error", "warning"], Loc, str]
"""Severity, place and message of a finding."""


def lint(path: Path, *, run: Path | None = None, context: Context | None = None) -> list[Finding]:
    """All findings, by line. `run`: its verdicts tell which principles never differ. `context`: the
    model that the texts must fit.

    Raises `RecipeError` if there is no file, or the run cannot be read.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; name a constitution")
    try:
        file = YamlFile(path)
        made = validate(Constitution, file, file.data)
    except RecipeError as error:
        return [_schema(path, line) for line in str(error).splitlines()]
    odd = [*_comparisons(made), *_duplicates(made), *_tests(made)]
    if run is not None:
        odd += alike(made, run)
    if context is not None:
        odd += too_long(made, context)
    found = [
        Finding(severity, str(path), file.line(loc), dotted(loc), message)
        for severity, loc, message in odd
    ]
    return sorted(found, key=lambda each: each.line)


def _schema(path: Path, text: str) -> Finding:
    match = _LINE.match(text)
    if match is None or match["path"] != str(path):
        return Finding("error", str(path), 1, "", text)
    return Finding("error", str(path), int(match["line"]), match["field"] or "", match["said"])


def _comparisons(made: Constitution) -> Iterator[Odd]:
    first: dict[str, int] = {}
    for i, principle in enumerate(made.principles):
        loc: Loc = ("principles", i, "compare")
        if (named := _OPTION.search(principle.compare)) is not None:
            yield (
                "error", loc,
                f"'{named[0]}' names an option or an order, and answers are shown in both orders; "
                "ask without it, as 'Which answer is kinder?'",
            )  # fmt: skip
        if spelling(principle.compare) == spelling(principle.critique):
            yield (
                "error", loc,
                "is the text of critique, which asks about one answer; ask which of two is better, as "
                "'Which answer is kinder?'",
            )  # fmt: skip
        if (j := first.setdefault(spelling(principle.compare), i)) != i:
            yield (
                "error", loc,
                f"asks the same as '{made.principles[j].id}', so a judge cannot tell the two apart; "
                "ask what only this principle is about, or remove it",
            )  # fmt: skip


def _duplicates(made: Constitution) -> Iterator[Odd]:
    for (_, one), (j, other) in combinations(enumerate(made.principles), 2):
        loc: Loc = ("principles", j)
        if _opposed(one.compare, other.compare):
            yield (
                "warning", (*loc, "compare"),
                f"asks the opposite of '{one.id}', so the two cancel out; keep one, or give each "
                "applies_when",
            )  # fmt: skip
            continue
        for field in ("compare", "critique", "revision"):
            texts = spelling(getattr(one, field)), spelling(getattr(other, field))
            is_same = field == "compare" and texts[0] == texts[1]  # an error already
            if not is_same and _similar(*texts) >= _ALIKE:
                yield (
                    "warning", (*loc, field),
                    f"is nearly the same as that of '{one.id}'; merge the two principles, or say "
                    "what only this one asks",
                )  # fmt: skip


def _similar(a: str, b: str) -> float:
    one, other = re.findall(r"\w+", a), re.findall(r"\w+", b)
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _opposed(a: str, b: str) -> bool:
    """True if two questions differ in a word and its opposite alone."""
    one, other = (re.findall(r"\w+", spelling(text)) for text in (a, b))
    if len(one) != len(other):
        return False
    differing = [{x, y} for x, y in zip(one, other, strict=True) if x != y]
    return len(differing) == 1 and differing[0] in _OPPOSITES


def _tests(made: Constitution) -> Iterator[Odd]:
    for i, principle in enumerate(made.principles):
        loc: Loc = ("principles", i)
        if len(principle.tests) < 2:
            have = "has no tests" if not principle.tests else "has one test"
            where = (*loc, "tests") if principle.tests else loc
            yield (
                "warning", where,
                f"'{principle.id}' {have}; write two or more: a prompt, a better and a worse answer "
                "of about equal length",
            )  # fmt: skip
        for k, test in enumerate(principle.tests):
            where = (*loc, "tests", k)
            if spelling(test.better) == spelling(test.worse):
                yield "error", where, "better and worse are the same text; write two answers"
            elif _by_length_alone(test.better, test.worse):
                yield (
                    "warning", where,
                    "better and worse differ by length alone: one holds all of the other; write a "
                    "worse answer that breaks the principle in about as many words",
                )  # fmt: skip
        yield from _one_direction(principle, (*loc, "tests"))


def _by_length_alone(a: str, b: str) -> bool:
    short, long = sorted((spelling(text).split() for text in (a, b)), key=len)
    short[-1] = short[-1].rstrip(".,;:!?")
    begin = long[: len(short)]
    return [*begin[:-1], begin[-1].rstrip(".,;:!?")] == short


def _one_direction(principle: Principle, loc: Loc) -> Iterator[Odd]:
    lengths = [(words(test.better), words(test.worse)) for test in principle.tests]
    if len(lengths) < 2:
        return
    for which, is_so in (
        ("longer", all(better > _LONGER * worse for better, worse in lengths)),
        ("shorter", all(worse > _LONGER * better for better, worse in lengths)),
    ):
        if is_so:
            other = "shorter" if which == "longer" else "longer"
            yield (
                "warning", loc,
                f"better is the {which} answer in all {len(lengths)} tests, so a judge that likes "
                f"{which} answers passes them; add one in which better is {other} or as long",
            )  # fmt: skip
