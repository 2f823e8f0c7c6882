"""The tokens of a formula, and the numbers among them: `1,234.50`, `1.2e-3`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple


class UnreadError(ValueError):
    """The text is no formula that we read."""


DIGITS = (
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?(?![0-9,])"  # 1,234,567.89
    r"|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?:\.[0-9]+)?(?![0-9,])"  # 12,34,567, as in India
    r"|[0-9]{1,3}(?:\.[0-9]{3}){2,}(?![0-9.])"  # 1.234.567
    r"|[0-9]{1,3}(?:[ '][0-9]{3})+(?:\.[0-9]+)?(?![0-9]|\s?/)"  # 1 234 567; 1 112/113 is mixed
    r"|[0-9]+(?:\.[0-9]+|\.(?=\\overline))?|\.[0-9]+)"
)
"""A number without sign. A comma or point groups thousands only where all groups are of their size;
one point alone is a decimal point."""
EXPONENT = r"(?:[eE][-+]?[0-9]{1,3}(?![\w.]))?"


def digits_value(text: str) -> Fraction:
    """The value of what `DIGITS` and `EXPONENT` match."""
    text = re.sub(r"[, ']", "", text)
    if text.count(".") > 1:
        text = text.replace(".", "")
    return Fraction(text.replace(".e", "e").replace(".E", "E"))


_TOKEN = re.compile(
    rf"\s*(?:(?P<number>{DIGITS}{EXPONENT})|(?P<begin>\\begin\s*\{{[a-zA-Z*]+\}}|\\end\s*\{{[a-zA-Z*]+\}})"
    r"|(?P<macro>\\[a-zA-Z]+)|(?P<row>\\\\)|(?P<brace>\\[{}])|(?P<word>[^\W\d_]+)"
    r"|(?P<sign>[-+*/÷^_!()\[\]{},;=<>≤≥≈±|%&]))"
)


class Token(NamedTuple):
    """A piece of a formula. The last one is of the kind `end`, without text."""

    kind: str
    text: str
    at: int
    end: int


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a text without white space at its end. Raises `UnreadError`."""
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found or not found.lastgroup:
            raise UnreadError(f"{text[at:][:10]!r} is not understood")
        kind = found.lastgroup
        yield Token(kind, found[kind], found.start(kind), found.end())
        at = found.end()
    yield Token("end", "", len(text), len(text))
