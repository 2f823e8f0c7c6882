"""Equality of two formulas, exactly, by sympy. Runs only in helper processes: see `math_check.py`."""

from __future__ import annotations

from typing import Any

import sympy
from sympy.core.random import seed

from factory.math.equal import is_same
from factory.math.formula import parse
from factory.math.tree import Node, flat, is_arithmetic, is_value, leaves, rational

_FUNCTIONS = {
    "ln": sympy.log,
    "exp": sympy.exp,
    "arcsin": sympy.asin,
    "arccos": sympy.acos,
    "arctan": sympy.atan,
    "floor": sympy.floor,
    "ceil": sympy.ceiling,
    "abs": sympy.Abs,
    "binomial": sympy.binomial,
    "factorial": sympy.factorial,
    **{
        n: getattr(sympy, n)
        for n in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")
    },
}
_CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo}


def is_equal(answer: str, expected: str) -> bool | None:
    """True if two texts are the same answer. None: sympy cannot tell, or fails."""
    seed(0)  # it tries numbers in place of names
    try:
        return is_same(parse(answer), parse(expected), _leaf)
    except Exception:  # algebra fails in any way, of memory too
        return None


def _leaf(answer: Node, reference: Node) -> bool | None:
    if is_arithmetic(answer) and is_arithmetic(reference):
        found, wanted = rational(answer), rational(reference)
        return None if found is None or wanted is None else found == wanted
    if answer.op in ("multiple", "positive_multiple"):
        return _is_multiple(_sympy(answer.args[0]), _sympy(reference), answer.op)
    found, wanted = _sympy(answer), _sympy(reference)
    verdict = _verdict(found, wanted)
    if verdict is not True:
        return verdict
    return not (is_value(reference) and _is_unfinished(answer, found))


def _verdict(found: Any, wanted: Any) -> bool | None:
    if found == wanted:
        return True
    if not isinstance(found, sympy.Expr) or not isinstance(wanted, sympy.Expr):
        return False
    if found.is_infinite or wanted.is_infinite:
        return False
    difference = found - wanted
    if difference.is_zero or sympy.expand(difference) == 0:
        return True
    if not difference.free_symbols:
        value = abs(difference.evalf(60))
        if value.is_Float and value > sympy.Float("1e-40", 60):
            return False
    equal: bool | None = found.equals(wanted)
    if equal is None and sympy.simplify(difference) == 0:
        return True
    return equal


def _is_unfinished(answer: Node, found: Any) -> bool:
    """Terms that are put together as soon as they are read: 2 sqrt 3 + 3 sqrt 3."""
    if answer.op != "add" or any(leaf.op == "sym" for leaf in leaves(answer)):
        return False
    return len([*flat(answer)]) > len(sympy.Add.make_args(found))


def _is_multiple(found: Any, wanted: Any, op: str) -> bool | None:
    if wanted == 0 or found == 0:
        return bool(wanted == found)
    ratio = sympy.simplify(found / wanted)
    if ratio.free_symbols or ratio.is_zero:
        return False
    return bool(ratio.is_positive) if op == "positive_multiple" else True


def _sympy(tree: Node) -> Any:
    args = tree.args
    match tree.op:
        case "num":
            return sympy.Rational(args[0].numerator, args[0].denominator)
        case "sym":
            return sympy.Symbol(args[0], real=True)
        case "const":
            return _CONSTANTS.get(args[0]) or sympy.Symbol(args[0])
        case "call":
            return _call(*args)
    parts = [_sympy(part) for part in args]
    match tree.op:
        case "add":
            return sympy.Add(*parts)
        case "neg":
            return -parts[0]
        case "mul":
            return parts[0] * parts[1]
        case "frac" | "slash" | "divide":
            return parts[0] / parts[1]
        case "pow":
            return parts[0] ** parts[1]
        case "root":
            return sympy.root(parts[0], parts[1])
        case "percent":
            return parts[0] / 100
    return _FUNCTIONS[tree.op](*parts)


def _call(name: str, argument: Node, base: Node | None = None) -> Any:
    value = _sympy(argument)
    if name == "log":  # of 10 in school, of e in mathematics: a bare log is its own function
        return sympy.log(value, _sympy(base)) if base else sympy.log(value)
    return _FUNCTIONS[name](value)
