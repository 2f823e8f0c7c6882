"""Sums: numbers, + - * / and parentheses, worked out exactly, one operation at a time.

In: text such as `2 + 3 * (4 - -1)`. Out: tokens, and the operations in the order in which they are
done: the innermost parentheses first, * and / before + and -, from left to right. Values are
fractions, written as decimals; one that no short decimal writes (1/3) raises `ValueError`, as does
text that is no sum and a division by zero.
"""

from __future__ import annotations

import operator as operators
import re
from fractions import Fraction
from typing import NamedTuple

Token = Fraction | str
"""A number (negative ones included), an operator, `(`, `-(` or `)`."""

NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
OPERATORS = {"+": "+", "-": "-", "*": "*", "/": "/", "×": "*", "÷": "/", "x": "*", "\u2212": "-"}
MAX_PLACES = 12
"""Most decimal places of a value that is written."""
MAX_DIGITS = 100
"""Most digits of a number that is read."""
_COMPUTED = {"+": operators.add, "-": operators.sub, "*": operators.mul, "/": operators.truediv}
_LEXEME = re.compile(rf"\s*(?:(?P<number>{NUMBER})|(?P<sign>[-+*/×÷x\u2212()]))")


class Operation(NamedTuple):
    """One operation of a sum, done."""

    left: Fraction
    operator: str
    right: Fraction
    result: Fraction
    rest: list[Token]
    """The sum that is left to do, with the result in it; a single number: it is done."""

    def __str__(self) -> str:
        return f"{write([self.left, self.operator, self.right])} = {decimal(self.result)}"


def parse(text: str) -> list[Token]:
    """The tokens of a sum, checked, with parentheses around single numbers taken off."""
    tokens: list[Token] = []
    at = open_ = 0
    text = text.rstrip()
    is_operand_next = True
    minus = False
    while at < len(text):
        found = _LEXEME.match(text, at)
        if found is None:
            raise ValueError(f"{text[at : at + 20]!r} is not part of a sum")
        at = found.end()
        if found["number"]:
            if not is_operand_next:
                raise ValueError("two numbers without an operator between them")
            tokens.append(_number(found["number"]) * (-1 if minus else 1))
            is_operand_next = minus = False
        elif (sign := found["sign"]) == "(" and is_operand_next:
            tokens.append("-(" if minus else "(")
            open_, minus = open_ + 1, False
        elif sign == ")" and not is_operand_next and open_:
            tokens.append(")")
            open_ -= 1
        elif sign in OPERATORS and not is_operand_next:
            tokens.append(OPERATORS[sign])
            is_operand_next = True
        elif sign in OPERATORS and OPERATORS[sign] == "-" and not minus:
            minus = True
        else:
            raise ValueError(f"{sign!r} is not expected there")
    if is_operand_next or open_:
        raise ValueError("the sum is not complete")
    return _bare(tokens)


def _number(text: str) -> Fraction:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return Fraction(text.replace(",", ""))


def _bare(tokens: list[Token]) -> list[Token]:
    """The tokens without parentheses around single numbers: `-(4)` becomes `-4`."""
    bare: list[Token] = []
    for token in tokens:
        bare.append(token)
        while len(bare) >= 3 and bare[-1] == ")" and bare[-3] in ("(", "-("):
            opening, value, _ = bare[-3:]
            assert isinstance(value, Fraction)
            bare[-3:] = [-value if opening == "-(" else value]
    return bare


def operate(tokens: list[Token], result: Fraction | None = None) -> Operation:
    """Do the next operation of a sum that has one. `result` takes the place of the right one."""
    at = _next(tokens)
    left, operator, right = tokens[at - 1 : at + 2]
    assert isinstance(left, Fraction)
    assert isinstance(operator, str)
    assert isinstance(right, Fraction)
    if result is None:
        if operator == "/" and right == 0:
            raise ValueError("a division by zero")
        result = _COMPUTED[operator](left, right)
    return Operation(
        left, operator, right, result, _bare([*tokens[: at - 1], result, *tokens[at + 2 :]])
    )


def _next(tokens: list[Token]) -> int:
    """Position of the next operator to apply."""
    end = tokens.index(")") if ")" in tokens else len(tokens)
    opening = [i for i in range(end) if tokens[i] in ("(", "-(")]
    start = opening[-1] + 1 if opening else 0
    inner = range(start, end)
    first = [i for i in inner if tokens[i] in ("*", "/")] or [
        i for i in inner if tokens[i] in ("+", "-")
    ]
    return first[0]


def value(tokens: list[Token]) -> Fraction:
    while len(tokens) > 1:
        tokens = operate(tokens).rest
    (number,) = tokens
    assert isinstance(number, Fraction)
    return number


def write(tokens: list[Token]) -> str:
    """The sum as text: `2 * (4 - -1)`."""
    text = " ".join(token if isinstance(token, str) else decimal(token) for token in tokens)
    return text.replace("( ", "(").replace(" )", ")")


def decimal(number: Fraction) -> str:
    """The exact decimal, without zeros at its end."""
    for places in range(MAX_PLACES + 1):
        scaled = number * 10**places
        if scaled.denominator == 1:
            digits = str(abs(scaled.numerator)).rjust(places + 1, "0")
            whole, part = digits[: len(digits) - places], digits[len(digits) - places :]
            return ("-" if number < 0 else "") + whole + ("." + part if part else "")
    raise ValueError(f"{number} is no decimal of {MAX_PLACES} places")
