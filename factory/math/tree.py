r"""A formula as a tree of operations: what it is worth, and whether it is worked out.

Numbers are exact (`fractions.Fraction`). A tree tells a value (`17`, `1/2`, `1.5 \times 10^{3}`,
`\frac{\pi}{4}`) from an expression that someone has still to work out (`14 + 9 - 6`, `2^{10}`, `5!`).
`factory/math/formula.py` makes trees of texts.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import comb, factorial
from typing import Any, NamedTuple

MAX_BITS = 20_000
"""Of a number that arithmetic on whole numbers and fractions may make."""


class Node(NamedTuple):
    """An operation and what it is of: nodes; of `num` a Fraction, of names a string."""

    op: str
    args: tuple[Any, ...]


class _BeyondError(ArithmeticError):
    """No rational number, or one beyond `MAX_BITS`."""


def inner(tree: Node) -> Iterator[Node]:
    """The nodes that a node is of."""
    for arg in tree.args:
        if isinstance(arg, Node):
            yield arg
        elif isinstance(arg, tuple):
            yield from (part for part in arg if isinstance(part, Node))


def leaves(tree: Node) -> Iterator[Node]:
    parts = [*inner(tree)]
    if not parts:
        yield tree
    for part in parts:
        yield from leaves(part)


def rational(tree: Node) -> Fraction | None:
    """The value of arithmetic on whole numbers and fractions. None: something else is in it, it
    divides by zero, or the number is beyond `MAX_BITS`."""
    try:
        return _worked(tree)
    except ArithmeticError:
        return None


def is_arithmetic(tree: Node) -> bool:
    """Nothing but numbers and what leads from rational numbers to rational numbers."""
    if tree.op == "num":
        return True
    return tree.op in _ARITHMETIC and all(is_arithmetic(part) for part in inner(tree))


def _worked(tree: Node) -> Fraction:
    if tree.op == "num":
        value: Fraction = tree.args[0]
    elif tree.op in _ARITHMETIC:
        value = _ARITHMETIC[tree.op](*[_worked(part) for part in tree.args])
    else:
        raise _BeyondError(tree.op)
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise _BeyondError("too large")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise _BeyondError("a root")
    bits = base.numerator.bit_length() + base.denominator.bit_length()
    if abs(exponent) * bits > MAX_BITS:
        raise _BeyondError("too large")
    return base ** int(exponent)


def _factorial(n: Fraction) -> Fraction:
    if n.denominator != 1 or not 0 <= n <= 500:
        raise _BeyondError("too large")
    return Fraction(factorial(int(n)))


def _binomial(n: Fraction, k: Fraction) -> Fraction:
    if n.denominator != 1 or k.denominator != 1 or not 0 <= n <= 500 or k < 0:
        raise _BeyondError("too large")
    return Fraction(comb(int(n), int(k)))


_ARITHMETIC: dict[str, Callable[..., Fraction]] = {
    "add": lambda *terms: sum(terms, Fraction(0)),
    "neg": operator.neg,
    "mul": operator.mul,
    "frac": operator.truediv,
    "slash": operator.truediv,
    "divide": operator.truediv,
    "pow": _power,
    "factorial": _factorial,
    "binomial": _binomial,
    "percent": lambda a: a / 100,
    "abs": abs,
}


def is_value(tree: Node) -> bool:
    """The tree is worked out: nothing that arithmetic could still put together is in it.

    A formula with variables is, whatever its form: which form was asked for nobody knows.
    """
    if tree.op in ("list", "tuple", "set", "union", "matrix", "plusminus", "relation", "in"):
        return all(is_value(part) for part in inner(tree))
    if is_arithmetic(tree):
        return _is_numeral(tree)
    if any(leaf.op == "sym" for leaf in leaves(tree)):
        return True
    parts = [*flat(tree)]
    numerals = sum(is_arithmetic(part) for part in parts)
    return numerals <= (1 if tree.op in ("add", "mul") else 2) and all(map(is_value, parts))


def flat(tree: Node) -> Iterator[Node]:
    """The terms of a sum, the factors of a product; of others, what they are of."""
    for part in inner(tree):
        if part.op == tree.op and tree.op in ("add", "mul"):
            yield from flat(part)
        else:
            yield part


def _is_numeral(tree: Node) -> bool:
    r"""A number as it is written: 17, -2.5, 1/2, \frac{36}{2}, 1.5 \times 10^{3}, 10%.

    36/2 on one line is a division that someone has still to do.
    """
    match tree.op:
        case "num":
            return True
        case "neg" | "percent":
            return tree.args[0].op != tree.op and _is_numeral(tree.args[0])
        case "frac" | "slash":
            values = [_integer(part) for part in tree.args]
            if None in values or not values[1]:
                return False
            return tree.op == "frac" or values[0] % values[1] != 0  # type: ignore[operator]
        case "mul":
            return tree.args[0].op == "num" and _is_power_of_ten(tree.args[1])
    return _is_power_of_ten(tree)


def _integer(tree: Node) -> int | None:
    sign = -1 if tree.op == "neg" else 1
    (inside,) = tree.args if tree.op == "neg" else (tree,)
    is_integer = inside.op == "num" and inside.args[0].denominator == 1
    return sign * int(inside.args[0]) if is_integer else None


def _is_power_of_ten(tree: Node) -> bool:
    return (
        tree.op == "pow"
        and tree.args[0] == Node("num", (Fraction(10),))
        and _integer(tree.args[1]) is not None
    )
