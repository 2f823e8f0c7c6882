"""Worked solutions: how a sum is done, one operation a line, and what was done read back.

    3 * 4 = 12, which leaves 2 + 12 - 5.
    2 + 12 = 14, which leaves 14 - 5.
    14 - 5 = 9.
    #### 9

Every line has the same wording, so that a wrong one differs in its numbers only. The form, a step a
line and the answer after `####`, is that of GSM8K (Cobbe et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from factory.math.answers import MARK
from factory.math.arithmetic import Operation, Token, decimal, operate, parse, write

LEAVES = ", which leaves "


def solve(
    tokens: list[Token], wrong: Mapping[int, Fraction] | None = None
) -> tuple[list[str], Fraction]:
    """The lines of a sum's solution, the last one its answer, and the answer.

    `wrong`: results that take the place of the right ones, by operation from 0; what follows is
    computed from them. Raises `ValueError` where a value cannot be written, or a division is by zero.
    """
    wrong = wrong or {}
    written: list[str] = []
    while len(tokens) > 1:
        operation = operate(tokens, wrong.get(len(written)))
        written.append(_line(operation))
        tokens = operation.rest
    (answer,) = tokens
    assert isinstance(answer, Fraction)
    return [*written, f"{MARK} {decimal(answer)}"], answer


def _line(operation: Operation) -> str:
    rest = operation.rest
    return f"{operation}{LEAVES}{write(rest)}." if len(rest) > 1 else f"{operation}."


def sum_of(solution: Sequence[str]) -> list[Token] | None:
    """The sum that lines of `solve` work out; None: they are no such lines.

    The first line tells all but where its operation stood, if its result stands twice in what it
    leaves; then the first of the sums that have this solution.
    """
    equation, leaves, rest = solution[0].removesuffix(".").partition(LEAVES)
    try:
        done = parse(equation.partition(" = ")[0])
        left = parse(rest) if leaves else [*parse(equation.partition(" = ")[2])]
    except ValueError:
        return None
    for at in range(len(left)):
        before, after = left[:at], left[at + 1 :]
        for inner in (done, ["(", *done, ")"], ["-(", *done, ")"]):
            tokens = [*before, *inner, *after]
            try:
                starts_so = _line(operate(tokens)) == solution[0]
                if starts_so and solve(parse(write(tokens)))[0] == list(solution):
                    return tokens
            except ValueError:
                continue
    return None
