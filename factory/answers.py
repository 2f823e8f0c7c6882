"""Is an answer right? Checked against a reference, without a model.

    math      the formula or number the answer ends with, equal by math-verify (1/2 = 0.5 = \\frac12)
    gsm8k     the number after the last `####`, as in GSM8K (Cobbe et al. 2021); without one, unparsed
    exact     the same words: case and spacing do not count
    pattern   what a regular expression finds last, the same number or the same words

In: the answer as it was written, and the reference: the answer alone, or a solution whose last line
is `#### <answer>`. An answer may end with such a line, or one with a bare number, under every check;
then only that is read. Elsewhere `####` is a heading.
Out: True, False, or None where nothing could be read (never a wrong answer), and what was read.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

from factory import math_check

How = Literal["math", "gsm8k", "exact", "pattern"]

MARK = "####"
LAST_CHARS = 2000
"""Of an answer, what is searched for its result: the end, where results stand."""
NUMBER = re.compile(
    r"(?P<sign>[-+\u2212]?)\s?[$€£]?\s?(?P<minus>-?)"
    r"(?P<over>[0-9]+(?:,[0-9]+)*(?:\.[0-9]+)?|\.[0-9]+)(?P<power>[eE][-+]?[0-9]{1,3}\b)?"
    r"(?:\s?/\s?(?P<under>[0-9]+))?"
)
"""A number as people write it: $1,234.50, -7, .5, 3/4, 1.2e+3. Of what follows (%, a unit, a dot)
nothing is read."""


def check(
    answer: str, reference: str, how: How, pattern: str | None = None
) -> tuple[bool | None, str]:
    """(whether the answer is right, what was read of it).

    Raises `ValueError` if the reference is blank or of the wrong form, whatever the answer is, and
    if `how` is `pattern` and none is given.
    """
    expected = _reduced(reference)
    if not expected:
        raise ValueError(f"the reference {reference[:100]!r} holds no answer")
    match how:
        case "math":
            return _math(answer, expected)
        case "gsm8k":
            return _gsm8k(answer, expected)
        case "exact":
            return _exact(_reduced(answer), expected)
        case "pattern":
            if pattern is None:
                raise ValueError("how: pattern needs a pattern")
            return _pattern(answer, expected, pattern)


def final_line(text: str) -> str | None:
    """What the last `####` of a text is followed by on its line. None: there is none."""
    _, mark, after = text.rpartition(MARK)
    return after.strip().partition("\n")[0].strip() if mark else None


def number(text: str) -> Fraction | None:
    """The text as a number, if it is one and nothing else but a trailing dot, `%` or `$`."""
    text = text.strip().rstrip(".%$ ")
    found = NUMBER.fullmatch(text) if len(text) <= LAST_CHARS else None
    return _value(found) if found else None


def _value(found: re.Match[str]) -> Fraction | None:
    over = found["over"].replace(",", "") + (found["power"] or "")
    under = int(found["under"] or 1)
    is_negative = (found["sign"] in ("-", "\u2212")) != (found["minus"] == "-")
    return (-1 if is_negative else 1) * Fraction(over) / under if under else None


def _reduced(text: str) -> str:
    """The answer that a last `####` gives: where it stands on the last line, or is a bare number.
    Elsewhere it is a heading, and the text stays whole."""
    _, mark, after = text.rpartition(MARK)
    last, _, more = after.strip().partition("\n")
    is_answer = mark and (not more or number(last) is not None)
    return last.strip() if is_answer else text.strip()


def _math(answer: str, expected: str) -> tuple[bool | None, str]:
    shown = _reduced(answer[-LAST_CHARS:])
    if not shown:
        return None, ""
    value = number(shown)
    if value is not None and value == number(expected):
        return True, shown  # most right answers to sums: no need for algebra
    return math_check.compare(shown, expected)


def _gsm8k(answer: str, expected: str) -> tuple[bool | None, str]:
    wanted = [_value(found) for found in NUMBER.finditer(expected)]
    if len(wanted) != 1 or wanted[0] is None:
        raise ValueError(f"the reference {expected[:100]!r} is not one number; use another `how`")
    found = NUMBER.search((final_line(answer) or "")[:LAST_CHARS])
    value = _value(found) if found else None
    return (None, "") if value is None or not found else (value == wanted[0], found[0].strip())


def _exact(answer: str, expected: str) -> tuple[bool | None, str]:
    if not answer:
        return None, ""
    return _words(answer) == _words(expected), answer


def _pattern(answer: str, expected: str, pattern: str) -> tuple[bool | None, str]:
    compiled = re.compile(pattern)
    group = 1 if compiled.groups else 0
    read = [found[group] for found in compiled.finditer(answer) if (found[group] or "").strip()]
    if not read:
        return None, ""
    shown = read[-1].strip()
    value = number(shown)
    is_same = value is not None and value == number(expected)
    return is_same or _words(shown) == _words(expected), shown


def _words(text: str) -> str:
    return " ".join(text.casefold().split())
