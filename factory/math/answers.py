r"""Check of an answer against a reference, without a model.

    math      the final answer is the reference: the same number, formula, set, choice or words
    gsm8k     the number after the last `####`, as in GSM8K (Cobbe et al. 2021); without one, unparsed
    exact     the same words: case, spacing and how Unicode writes a character do not count
    pattern   what a regular expression finds last, the same number or the same words

In: the answer as it was written, and the reference: the answer alone, or a solution whose last line
is `#### <answer>`. An answer may end with such a line, or one with a bare number, under every check;
then only that is read. Elsewhere `####` is a heading.
An `<answer>` tag, as reasoning models are asked to write, likewise.
Out: True, False, or None where nothing could be read (never a wrong answer), and what was read.

Under `math` only the final answer counts (`factory/math/final_answer.py`), all of it or nothing
(`factory/math/formula.py`), and it is compared exactly, never by floats: 1/2 = 0.5 = \frac12 = 50%. It
must be a value unless the reference is none: "14 + 9 - 6" is no answer to 14 + 9 - 6, nor is 6/2 one
to 6/2; \frac{\sqrt 2}{2}, 2\sqrt3, \pi/4 and 1.5 \times 10^3 are values. A percent sign may be left
out, and so may a unit; two different ones are two answers.
"""

from __future__ import annotations

import asyncio
import functools
import re
import unicodedata
from fractions import Fraction
from typing import Literal, NamedTuple

from factory.core.words import spelling, words
from factory.math import math_check
from factory.math.choices import choice, final_choice, without_label
from factory.math.equal import AlgebraError, by_arithmetic, is_same
from factory.math.final_answer import Final, after_mark, final_answer, last_words
from factory.math.formula import parse
from factory.math.tokens import DIGITS, EXPONENT, UnreadError, digits_value
from factory.math.tree import Node, is_arithmetic, rational
from factory.math.units import attached_unit

How = Literal["math", "gsm8k", "exact", "pattern"]

MARK = "####"
LAST_CHARS = 2000
"""Characters at an answer's end that are searched for its result."""
SHOWN_CHARS = 200
"""Most characters of an answer around a reference that is longer than `LAST_CHARS`."""
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
NUMBER = re.compile(
    r"(?P<sign>[-+\u2212]?)\s?[$€£]?\s?(?P<minus>-?)"
    rf"(?P<over>{DIGITS})(?P<power>{EXPONENT})(?:\s?/\s?(?P<under>[0-9]+))?"
)
"""A number as people write it: $1,234.50, -7, .5, 3/4, 1.2e+3, without what follows (%, a unit, a dot)."""


def check(
    answer: str, reference: str, how: How, pattern: str | None = None
) -> tuple[bool | None, str]:
    """(True if the answer is right, the text that was read as the answer).

    Raises `ValueError` if the reference is blank or of the wrong form, whatever the answer is, and
    if `how` is `pattern` and none is given. Waits for another process where it takes algebra.
    """
    found = _checked(answer, reference, how, pattern)
    return found.settled() if isinstance(found, _Algebra) else found


async def check_aside(
    answer: str, reference: str, how: How, pattern: str | None = None
) -> tuple[bool | None, str]:
    """`check` for an event loop: waits for algebra in a thread."""
    found = _checked(answer, reference, how, pattern)
    return await asyncio.to_thread(found.settled) if isinstance(found, _Algebra) else found


def final_line(text: str) -> str | None:
    """The text after the last `####`, on its line. None: there is none."""
    _, mark, after = text.rpartition(MARK)
    return after.strip().partition("\n")[0].strip() if mark else None


def number(text: str) -> Fraction | None:
    """The text as a number, if it is one and nothing else but a trailing dot, `%` or `$`."""
    text = text.strip().rstrip(".%$ ")
    found = NUMBER.fullmatch(text) if len(text) <= LAST_CHARS else None
    if not found:
        return None
    under = int(found["under"] or 1)
    is_negative = (found["sign"] in ("-", "\u2212")) != (found["minus"] == "-")
    over = digits_value(found["over"] + found["power"])
    return (-1 if is_negative else 1) * over / under if under else None


class _Algebra(NamedTuple):
    """A question that arithmetic does not answer."""

    answer: str
    expected: str
    read: str

    def settled(self) -> tuple[bool | None, str]:
        verdict = math_check.compare(self.answer, self.expected)
        return verdict, "" if verdict is None else self.read


def _checked(
    answer: str, reference: str, how: How, pattern: str | None
) -> tuple[bool | None, str] | _Algebra:
    expected, _ = _reduced(reference)
    if not expected:
        raise ValueError(f"the reference {reference[:100]!r} holds no answer")
    match how:
        case "math":
            return _math(answer, expected)
        case "gsm8k":
            return _gsm8k(answer, expected)
        case "exact":
            said, _ = _reduced(answer)
            return (spelling(said) == spelling(expected), said) if said else (None, "")
        case "pattern":
            if pattern is None:
                raise ValueError("how: pattern needs a pattern")
            return _pattern(answer, expected, pattern)


def _reduced(text: str) -> tuple[str, bool]:
    """The answer that a last `<answer>` tag or `####` gives, and True. A `####` counts where it stands
    on the last line, or a bare number follows; elsewhere it is a heading, and the text stays whole."""
    if tagged := _TAGGED.findall(text):
        return tagged[-1].strip(), True
    _, mark, after = text.rpartition(MARK)
    last, _, more = after.strip().partition("\n")
    is_answer = bool(mark) and (not more or _is_bare_number(last))
    return (last.strip(), True) if is_answer else (text.strip(), False)


def _is_bare_number(text: str) -> bool:
    try:
        return number(text) is not None or is_arithmetic(parse(text.strip(" .$")))
    except UnreadError:
        return False


# -- math ------------------------------------------------------------------------------------------


class _Expected(NamedTuple):
    """A reference, read."""

    letter: str | None = None
    tree: Node | None = None
    formula: str = ""
    unit: str = ""


def _math(answer: str, expected: str) -> tuple[bool | None, str] | _Algebra:
    wanted = _expected(expected)
    most = max(LAST_CHARS, len(expected) + SHOWN_CHARS)
    if len(answer) > most:  # not from the middle of a number
        answer = re.split(r"\s", answer[-most:], maxsplit=1)[-1]
    said, is_marked = _reduced(answer)
    if not said:
        return None, ""
    if wanted.letter and (letter := final_choice(said)):
        return letter == wanted.letter, letter
    if wanted.tree is None:
        return (None, "") if wanted.letter else _same_words(said, expected, is_marked)
    final = final_answer(said, is_marked=is_marked)
    if final is None:
        last, _ = last_words(said)
        return (True, last) if last and _plain(last) == _plain(expected) else (None, "")
    try:
        tree = _tree(final)
    except UnreadError:
        is_equal = _plain(final.text) == _plain(expected)
        return (True, final.text) if is_equal else (None, "")
    unit = final.unit
    if is_arithmetic(wanted.tree) and (attached := attached_unit(final.formula or "")):
        tree, unit = parse(attached[0]), attached[1]
    if _are_other_units(unit, wanted.unit):
        return False, final.text
    try:
        verdict = is_same(tree, wanted.tree, by_arithmetic)
    except AlgebraError:
        return _Algebra(final.formula or "", wanted.formula, final.text)
    return verdict, "" if verdict is None else final.text


@functools.lru_cache(maxsize=1024)
def _expected(expected: str) -> _Expected:
    letter = choice(expected)
    inside = without_label(expected) if letter else expected
    final = final_answer(inside)
    tree = None
    if final is not None and (final.is_explicit or len(NUMBER.findall(inside)) == 1):
        try:
            tree = _tree(final)
        except UnreadError:
            final = None
    if letter and choice(inside):  # the letter is all there is
        return _Expected(letter)
    if tree is not None and final is not None:
        return _Expected(letter, tree, final.formula or "", final.unit)
    if not any(c.isalnum() or unicodedata.category(c) == "So" for c in expected):  # an emoji
        raise ValueError(f"there is no formula or number in the reference {expected[:100]!r}")
    return _Expected(letter)


def _tree(final: Final) -> Node:
    if final.formula is None:
        raise UnreadError("not wholly read")
    try:
        return parse(final.formula)
    except UnreadError:
        bare = without_label(final.formula)  # "(B) 12"
        if bare == final.formula:
            raise
        return parse(bare)


def _same_words(said: str, expected: str, is_marked: bool) -> tuple[bool | None, str]:
    """Compare with a reference in words, such as `east`. Words not marked as the answer are not wrong."""
    last, is_explicit = last_words(said)
    found, wanted = _plain(last), _plain(expected)
    if "\n" in expected:
        return _same_lines(said, expected)
    if not found:
        return None, ""
    if found == wanted:
        return True, last
    is_answer = (is_explicit or is_marked) and f" {wanted} " not in f" {found} "
    is_answer = is_answer and words(found) <= words(wanted) + 2
    return (False, last) if is_answer else (None, "")


def _same_lines(said: str, expected: str) -> tuple[bool | None, str]:
    """Compare the last lines, without a mark before them, with a reference of several, such as a grid."""
    count = len(expected.split("\n"))
    last = said.split("\n")[-count:]
    first = last[0].rpartition(MARK)[2]
    marked = after_mark(first)
    read = "\n".join([first if marked is None else marked, *last[1:]]).strip()
    if _plain(read) == _plain(expected):
        return True, read
    return (False, read) if len(said.split("\n")) == count else (None, "")


def _plain(text: str) -> str:
    text = re.sub(
        r"\\(?:text|textbf|textrm|mathrm|mbox|left|right)(?![a-zA-Z])|[{}$]|\\[,;! ]", "", text
    )
    text = re.sub(r"\s*([-:/,])\s*", r"\1", text.replace("\u2212", "-"))
    return spelling(text.strip(" .:;!,*\"'"))


_UNIT_NAMES = {"hr": "h", "hrs": "h", "L": "l", "mL": "ml", "lbs": "lb", "sec": "s"}
_COMPARED = frozenset(
    {"mm", "cm", "dm", "m", "km", "mg", "g", "kg", "t", "ml", "l", "s", "min", "h", "°C", "°F"}
)


def _are_other_units(one: str, other: str) -> bool:
    parts, others = ([_UNIT_NAMES.get(u, u) for u in unit.split("/")] for unit in (one, other))
    return len(parts) == len(others) and parts != others and {*parts, *others} <= _COMPARED


# -- the other checks ------------------------------------------------------------------------------


def _gsm8k(answer: str, expected: str) -> tuple[bool | None, str]:
    wanted = _one_number(expected)
    if wanted is None:
        raise ValueError(f"the reference {expected[:100]!r} is not one number; use another `how`")
    found = _one_number((final_line(answer) or "")[:LAST_CHARS])
    if found is None:
        return None, ""
    verdict = is_same(found[0], wanted[0], by_arithmetic)
    return verdict, "" if verdict is None else found[1]


def _one_number(text: str) -> tuple[Node, str] | None:
    """The number that a line is or holds, and how it is written; None: there is none, or several."""
    final = final_answer(text, is_marked=True)
    if final is None:
        return None
    if not final.is_explicit and len(NUMBER.findall(text)) != 1:
        return None
    try:
        tree = _tree(final)
    except UnreadError:
        return None
    if tree.op == "relation":
        tree = tree.args[-1]
    if not is_arithmetic(tree) or rational(tree) is None:
        return None
    shown = final.text.removesuffix(final.unit).rpartition("=")[2]
    return tree, shown.strip(" %")


def _pattern(answer: str, expected: str, pattern: str) -> tuple[bool | None, str]:
    compiled = re.compile(pattern)
    group = 1 if compiled.groups else 0
    read = [found[group] for found in compiled.finditer(answer) if (found[group] or "").strip()]
    if not read:
        return None, ""
    shown = read[-1].strip()
    value = number(shown)
    is_equal = value is not None and value == number(expected)
    return is_equal or spelling(shown) == spelling(expected), shown
