"""Sentences of a text, split after marks that end a sentence and at line breaks.

    Soak it, e.g. overnight. Then rinse.    2
    - eggs\\n- rice                          2, one per item
    1. Boil 0.5 l of water.                 1

These points end no sentence: in a number, after an item's number, after initials and titles (Dr. J.
Smith), and before a small letter (e.g. this one). Text after the last mark is a sentence not ended.
"""

from __future__ import annotations

import re

_CLOSING = r"[\"'”’»)\]*_]*"
_MARK = rf"(?:[.!?…]+{_CLOSING}(?=\s|$)|[。！？]+[」』”’）]*)"
_END = re.compile(_MARK)
_WHOLE = re.compile(rf"{_MARK}$")
_ITEM = re.compile(r"\s*(?:[-*•>#]+\s+|[0-9]{1,3}[.)]\s+)*")
_SHORT = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|e\.g|i\.e|cf|No)\.$"
    r"|(?:^|[A-Z]\.|[A-Z][\w.]*\s)[A-Z]\.$"  # J. Smith, U.S., George W., but not: vitamin C.
)
_SMALL = re.compile(r"\s+[a-z]")


def sentences(text: str) -> list[str]:
    """The sentences, without the marks of list items."""
    found: list[str] = []
    for line in text.splitlines():
        start = _ITEM.match(line).end()  # type: ignore[union-attr]  # it also matches the empty text
        for end in _END.finditer(line, start):
            so_far = line[start : end.end()]
            if not _SHORT.search(so_far) and not _SMALL.match(line, end.end()):
                found.append(so_far.strip())
                start = end.end()
        if rest := line[start:].strip():
            found.append(rest)
    return found


def has_ended(sentence: str) -> bool:
    """True if it closes with a mark that ends a sentence."""
    return _WHOLE.search(sentence.rstrip()) is not None
