r"""Comparison of two formulas as answers. Lists, sets, intervals and equations are taken apart here; a
function `leaf` compares numbers and terms.

- An equation that solves for a name is what it says the name is: `x = 5` is 5. Of a longer one,
  against an answer that is none, the last side counts: `48 / 2 = 24` is 24.
- Sets, and values in a row, are equal in any order; tuples and intervals in theirs, with their
  brackets. `x > 3` is `(3, \infty)`.
- Where the reference is a value, the answer must be one: 14 + 9 - 6 is not yet 17.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from factory.math.tree import Node, is_arithmetic, is_value, rational

Leaf = Callable[[Node, Node], bool | None]
"""(answer, reference) -> whether they are equal; None: nobody can tell."""


class AlgebraError(Exception):
    """Arithmetic does not tell whether the two are equal."""


def is_same(answer: Node, reference: Node, leaf: Leaf) -> bool | None:
    """True if the answer is the reference's. None: unknown."""
    answer, reference = _sides(answer, reference)
    if is_value(reference) and not is_value(answer):
        is_known = not is_arithmetic(answer) or rational(answer) is not None
        return False if is_known else None
    return _same(answer, reference, leaf)


def by_arithmetic(answer: Node, reference: Node) -> bool | None:
    """A `Leaf` for rational numbers. Raises `AlgebraError` for others."""
    if not (is_arithmetic(answer) and is_arithmetic(reference)):
        raise AlgebraError
    found, wanted = rational(answer), rational(reference)
    if found is None or wanted is None:
        return None
    has_sign = answer.op == "percent"
    if has_sign == (reference.op == "percent"):
        return found == wanted
    return found in (wanted, wanted / 100 if has_sign else wanted * 100)  # 10% is 10 and 1/10


def _same(answer: Node, reference: Node, leaf: Leaf) -> bool | None:
    if answer == reference:
        return True
    answer, reference = _sides(answer, reference)
    answer, reference = _plain(answer, reference), _plain(reference, answer)
    rows = {"list", "tuple"}
    unordered = {"set", "list"}
    ops = {answer.op, reference.op}
    if answer.op == reference.op == "tuple":
        if answer.args[0] != reference.args[0] and 3 in (len(answer.args), len(reference.args)):
            return False  # intervals
        return _in_order(answer.args[1:], reference.args[1:], leaf)
    if ops == rows:
        return _in_order(_items(answer), _items(reference), leaf)
    if ops <= unordered or ops == {"union"}:
        return _in_any_order(_items(answer), _items(reference), leaf)
    if answer.op == reference.op == "matrix":
        if [len(row) for row in answer.args] != [len(row) for row in reference.args]:
            return False
        found, wanted = ([c for row in m.args for c in row] for m in (answer, reference))
        return _in_order(found, wanted, leaf)
    if ops & {"list", "tuple", "set", "union", "matrix"}:
        return False
    if ops == {"relation"}:
        return _relations(answer, reference, leaf)
    if ops & {"relation", "in"}:
        return False
    if is_arithmetic(reference) and is_value(reference) and not is_arithmetic(answer):
        return False  # sqrt(16) is not yet 4
    return leaf(answer, reference)


def _items(tree: Node) -> Sequence[Node]:
    return tree.args[1:] if tree.op == "tuple" else tree.args


def _in_order(answer: Sequence[Node], reference: Sequence[Node], leaf: Leaf) -> bool | None:
    if len(answer) != len(reference):
        return False
    return _all(_same(a, b, leaf) for a, b in zip(answer, reference, strict=True))


def _in_any_order(answer: Sequence[Node], reference: Sequence[Node], leaf: Leaf) -> bool | None:
    left = list(reference)
    is_unknown = False
    for item in dict.fromkeys(answer):
        verdicts = [_same(item, other, leaf) for other in left]
        if True in verdicts:
            left.pop(verdicts.index(True))
        elif None in verdicts:
            is_unknown = True
        else:
            return False
    if is_unknown:
        return None
    return not left


def _all(verdicts: object) -> bool | None:
    found = list(verdicts)  # type: ignore[call-overload]
    if False in found:
        return False
    return None if None in found else True


# -- Equations -------------------------------------------------------------------------------------


def _sides(answer: Node, reference: Node) -> tuple[Node, Node]:
    """An equation beside what is none is one of its sides."""
    if answer.op == "relation" and reference.op not in ("relation", "in"):
        answer = _last_side(answer)
    elif reference.op == "relation" and answer.op not in ("relation", "in"):
        is_definition = _is_name(reference.args[1]) and reference.args[0] == ("=",)
        reference = reference.args[2] if is_definition else reference
    rows = ("list", "tuple", "set")
    if answer.op == "list" and reference.op in rows and not _has_relations(reference):
        answer = Node("list", tuple(_last_side(item) for item in answer.args))
    elif reference.op == "list" and answer.op in rows and not _has_relations(answer):
        reference = Node("list", tuple(_last_side(item) for item in reference.args))
    return answer, reference


def _has_relations(row: Node) -> bool:
    return any(item.op == "relation" for item in _items(row))


def _last_side(tree: Node) -> Node:
    if tree.op != "relation" or set(tree.args[0]) != {"="}:
        return tree
    return tree.args[1] if _is_name(tree.args[-1]) else tree.args[-1]  # type: ignore[no-any-return]


def _is_name(tree: Node) -> bool:
    """x, or f(x)."""
    if tree.op == "sym":
        return True
    return tree.op == "mul" and all(part.op == "sym" for part in tree.args)


def _plain(tree: Node, other: Node) -> Node:
    r"""± as a set; `x > 3` and `x \in (3, \infty)` as the interval, beside one."""
    if tree.op == "plusminus":
        return Node("set", (tree.args[0], Node("neg", (tree.args[0],))))
    if tree.op == "in":
        return tree.args[1]  # type: ignore[no-any-return]
    if tree.op == "relation" and (other.op in ("tuple", "in", "union") or _is_chain(tree, other)):
        return _interval(tree) or tree
    return tree


def _is_chain(tree: Node, other: Node) -> bool:
    return other.op == "relation" and _interval(tree) is not None and _interval(other) is not None


_FLIPPED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤"}
_INFINITY = Node("const", ("oo",))


def _interval(tree: Node) -> Node | None:
    """The interval of `x > 3` or `1 < x ≤ 3`. None: it is no inequality of that form."""
    signs, sides = tree.args[0], tree.args[1:]
    low, high, left, right = Node("neg", (_INFINITY,)), _INFINITY, "(", ")"
    if len(sides) == 2 and _is_name(sides[1]) and not _is_name(sides[0]) and signs[0] in _FLIPPED:
        signs, sides = (_FLIPPED[signs[0]],), (sides[1], sides[0])
    if len(sides) == 2 and _is_name(sides[0]) and signs[0] in _FLIPPED:
        if signs[0] in "<≤":
            high, right = sides[1], ")" if signs[0] == "<" else "]"
        else:
            low, left = sides[1], "(" if signs[0] == ">" else "["
    elif len(sides) == 3 and _is_name(sides[1]) and set(signs) <= {"<", "≤"}:
        low, high = sides[0], sides[2]
        left, right = "(" if signs[0] == "<" else "[", ")" if signs[1] == "<" else "]"
    else:
        return None
    return Node("tuple", (left + right, low, high))


def _relations(answer: Node, reference: Node, leaf: Leaf) -> bool | None:
    """Side by side; of two equations, also whether one is a multiple of the other."""
    if len(answer.args) == 3 == len(reference.args):
        (sign,), *sides = answer.args
        (wanted,), *others = reference.args
        if sign != wanted and _FLIPPED.get(sign) == wanted:
            sign, sides = wanted, sides[::-1]
        if sign != wanted:
            return False
        if sign == "=" and all(_is_name(s[0]) and is_arithmetic(s[1]) for s in (sides, others)):
            return sides[0] == others[0] and _same(sides[1], others[1], leaf)  # x = 3 and y = 4
        if _all(_same(a, b, leaf) for a, b in zip(sides, others, strict=True)):
            return True
        op = "multiple" if sign == "=" else "positive_multiple"
        found, expected = (Node("add", (s[0], Node("neg", (s[1],)))) for s in (sides, others))
        return leaf(Node(op, (found,)), expected)
    if answer.args[0] != reference.args[0]:
        return False
    return _in_order(answer.args[1:], reference.args[1:], leaf)
