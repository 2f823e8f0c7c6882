"""Word diffs: the words that two texts have in common, and those that only one of them has.

In scripts without spaces (`core.words`) each character counts as a word.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from factory.core.words import UNSPACED

_WORD = re.compile(rf"{UNSPACED.pattern}\s*|(?:(?!{UNSPACED.pattern})\S)+\s*")
_ALIKE = 0.3
"""Share of words in common, in [0, 1], below which two texts are no edit of each other: single words
that they share by chance would only be in the reader's way."""
_COMPARED = 4_000_000
"""Most pairs of words that are compared; so many take seconds."""
_MARKS = {"same": ("", ""), "removed": ("[-", "-]"), "added": ("{+", "+}")}


class Piece(NamedTuple):
    kind: Literal["same", "removed", "added"]
    text: str
    """Consecutive words, with the white space between and after them."""


def word_diff(old: str, new: str) -> list[Piece]:
    """Both texts in pieces: those `same` and `removed` are the old text's words in order, those `same`
    and `added` the new one's. White space alone makes no difference. Texts with little in common, and
    very long ones, are removed and added whole."""
    if are_too_long(old, new):
        return [Piece("removed", old), Piece("added", new)]
    before, after = _WORD.findall(old), _WORD.findall(new)
    matcher = difflib.SequenceMatcher(
        None, [word.rstrip() for word in before], [word.rstrip() for word in after], autojunk=False
    )
    if before and after and matcher.ratio() < _ALIKE:
        return [Piece("removed", "".join(before)), Piece("added", "".join(after))]
    pieces: list[Piece] = []
    for operation, i, j, k, m in matcher.get_opcodes():
        was, became = "".join(before[i:j]), "".join(after[k:m])
        if (
            operation == "equal"
        ):  # at the end of one text, only the other has the space that follows
            pieces.append(Piece("same", max(was, became, key=_space_after)))
            continue
        if was:
            pieces.append(Piece("removed", was))
        if became:
            pieces.append(Piece("added", became))
    return pieces


def are_too_long(old: str, new: str) -> bool:
    """True if comparing them would take many seconds."""
    return len(_WORD.findall(old)) * len(_WORD.findall(new)) > _COMPARED


def _space_after(text: str) -> int:
    return len(text) - len(text.rstrip())


def marked(pieces: list[Piece]) -> Iterator[tuple[str, str]]:
    """(kind, text) of each piece as `git diff --word-diff` marks it, `[-removed-]` or `{+added+}`, and
    white space as `same`."""
    for i, (kind, text) in enumerate(pieces):
        begin, end = _MARKS[kind]
        words = text.rstrip()
        space = text[len(words) :]
        is_replaced = kind == "removed" and i + 1 < len(pieces) and pieces[i + 1].kind == "added"
        yield kind, f"{begin}{words}{end}"
        if space or is_replaced:
            yield "same", space or " "
