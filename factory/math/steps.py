"""Splitting of a solution into steps, the units that process reward models read and label.

The steps hold all of the text: without white space, the steps one after the other are the solution.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import regex

from factory.core.words import UNSPACED

Split = Literal["newline", "blank_line", "numbered", "sentence"]
"""End of a step. `newline`: at the end of a line. `blank_line`: of a paragraph. `numbered`:
before a line that begins with "Step 2", or, where none does, with "2." or "2)". `sentence`: of a
sentence, or of a line."""

_BLANK_LINE = re.compile(r"\n\s*\n")
# At the start of a line; Markdown's bold, headings and quotes may stand before: "**Step 1:**".
_STEP_WORD = re.compile(r"^(?=[ \t>#*]*step[ \t]+\d+\b)", re.MULTILINE | re.IGNORECASE)
_STEP_NUMBER = re.compile(r"^(?=[ \t>#*]*\d+[.)]\**\s)", re.MULTILINE)  # not "2.5 apples"
# Marks and what closes after them; what follows can begin a sentence ("5! = 120" goes on). Marks of
# other scripts end one without white space, and so do these beside a script without spaces.
_CLOSING = r"[\"'”’»›)\]）」』】》〉*$]*+"
_SENTENCE_END = regex.compile(
    rf"[.!?]+{_CLOSING}\s+(?=[\"'“‘(\[*$\\]*\w)"
    rf"|[\p{{Sentence_Terminal}}--[.!?]][\p{{Sentence_Terminal}}…]*+{_CLOSING}\s*(?=\S)"
    rf"|…++{_CLOSING}\s*(?=[\"'“‘「『（(]*{UNSPACED.pattern})"
    rf"|(?<={UNSPACED.pattern})[!?…]++{_CLOSING}\s*(?=\w)"
    rf"|…++{_CLOSING}\s+(?=[\"'“‘(]*\p{{Lu}})",
    flags=regex.V1,
)
_ENUMERATOR = re.compile(r"[\W_]*(\d+|[A-Za-z])[.)][\W_]*")  # "2." or "(b)." by itself
_FACTORIAL = re.compile(r"[\d)]!$")
_ABBREVIATIONS = frozenset(
    "e.g. i.e. cf. vs. approx. eq. eqs. fig. figs. resp. mr. mrs. ms. dr. prof. st.".split()  # noqa: SIM905
)


def split_steps(text: str, how: Split) -> list[str]:
    """The steps in order, each stripped and none empty; a blank text has none.

    `numbered`: what stands before the first number is in the first step; without numbers there is one step.
    """
    match how:
        case "newline":
            parts = text.splitlines()
        case "blank_line":
            parts = _BLANK_LINE.split(text)
        case "numbered":
            parts = _numbered(text)
        case "sentence":
            parts = [sentence for line in text.splitlines() for sentence in _sentences(line)]
    return [step for part in parts if (step := part.strip())]


def _numbered(text: str) -> list[str]:
    starts = [m.start() for m in _STEP_WORD.finditer(text)]
    starts = starts or [m.start() for m in _STEP_NUMBER.finditer(text)]
    edges = [0, *starts[1:], len(text)]
    return [text[begin:end] for begin, end in pairwise(edges)]


def _sentences(line: str) -> Iterator[str]:
    begin = 0
    for end in _SENTENCE_END.finditer(line):
        sentence = line[begin : end.end()].rstrip()
        if not _goes_on(sentence, line[end.end()]):
            yield sentence
            begin = end.end()
    yield line[begin:]


def _goes_on(sentence: str, following: str) -> bool:
    """The mark at the end is no end: of an abbreviation, "2." before an item, "5!" in a formula."""
    words = sentence.split()
    return (
        words[-1].lstrip("([\"'“‘").lower() in _ABBREVIATIONS
        or _ENUMERATOR.fullmatch(sentence) is not None
        or (_FACTORIAL.search(sentence) is not None and not following.isupper())
    )
