"""Arithmetic within prose: `12 + 5 = 17` in "So he has 12 + 5 = 17 apples."

Only equations that are right are found: a number after `=`, and before it a sum that comes to it.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from factory.math.arithmetic import NUMBER, Token, decimal, parse, value

MAX_CHARS = 120
"""Most characters of a sum within prose."""
_BULLET = re.compile(r"\s*(?:[-*•]|[0-9]{1,3}[.)])\s+")
_RESULT = re.compile(rf"=\s*[$€£]?\s?((?:-\s?)?(?:{NUMBER}))(?![0-9.,]*[0-9%])")
_NUMBER = re.compile(rf"((?:-\s?)?(?:{NUMBER}))")
_GOES_ON = re.compile(r"\s?[-+*/×÷\u2212(]\s?[$€£]?\s?[0-9(]")
_OF_A_SUM = frozenset("0123456789.,()+-*/×÷x\u2212 \t$€£")
_CURRENCY = str.maketrans("$€£", "   ")
_START = re.compile(r"[0-9.(\-\u2212]")
_ANNOTATION = re.compile(r"<<[^<>]*>>")


class Shown(NamedTuple):
    """A number and its place in a line."""

    value: Fraction
    start: int
    end: int


class Equation(NamedTuple):
    """A sum and its value."""

    tokens: list[Token]
    shown: Shown


def equations(line: str) -> list[Equation]:
    """The right equations in a line, in their order."""
    bullet = _BULLET.match(line)
    first = bullet.end() if bullet else 0
    found = []
    for match in _RESULT.finditer(line, first):
        if _GOES_ON.match(line, match.end()):
            continue  # 12 = 5 + 7
        start = match.start()
        while start > max(first, match.start() - MAX_CHARS) and line[start - 1] in _OF_A_SUM:
            start -= 1
        tokens = _sum(line[start : match.start()])
        try:
            shown = _shown(match)
            if tokens is not None and value(tokens) == shown.value:
                found.append(Equation(tokens, shown))
        except ValueError:  # division by zero, or a number of thousands of digits
            continue
    return found


def _sum(text: str) -> list[Token] | None:
    """The longest sum, of an operation at least, that the text ends with."""
    text = text.translate(_CURRENCY)
    for start in (match.start() for match in _START.finditer(text)):
        if start and text[start - 1] in "0123456789.," and text[start] in "0123456789.":
            continue  # the inside of a number
        try:
            tokens = parse(text[start:])
        except ValueError:
            continue
        return tokens if len(tokens) > 1 else None
    return None


def numbers(text: str) -> set[Fraction]:
    """All numbers in a text, without their signs."""
    found = re.findall(NUMBER, text)
    return {Fraction(item.replace(",", "")) for item in found if len(item) <= MAX_CHARS}


def number_in(line: str) -> Shown | None:
    """The only number in a line. None: there are none, or several."""
    found = list(_NUMBER.finditer(line))
    return _shown(found[0]) if len(found) == 1 and len(found[0][1]) <= MAX_CHARS else None


def _shown(found: re.Match[str]) -> Shown:
    text = found[1].replace(",", "").replace(" ", "")
    return Shown(Fraction(text), found.start(1), found.end(1))


def put(line: str, shown: Shown, number: Fraction) -> str:
    """The line with another number, written as the one it had: 1,200.0 as 1,300.0."""
    before = line[shown.start : shown.end]
    whole, _, part = decimal(number).partition(".")
    part = part.ljust(len(before.partition(".")[2]), "0")
    if "," in before:
        whole = f"{int(whole):,}"
    return line[: shown.start] + whole + ("." + part if part else "") + line[shown.end :]


def without_annotations(text: str) -> str:
    """GSM8K's solutions without their calculator's notes: `48/2 = <<48/2=24>>24`."""
    return _ANNOTATION.sub("", text)
