"""Injection of one known error into a right solution, for process reward models to find.

    changed_number     a step's result is off by a little, or a digit of it differs
    swapped_operation  a step's result is computed with another operation than is written there
    skipped_step       a step is left out, and the line after it uses what that step found

A skipped step's line need not be false in itself: it rests on a number that nothing before it found.

In: the lines of a solution, the last one `#### <answer>`, which is a step too. Out: the lines with the
error; the one at the same place is the first that is wrong. Where the solution is `worked.solve`'s, what
follows a wrong result is computed from it; other solutions go on as they were.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Literal

from factory.math.arithmetic import MAX_PLACES, Token, decimal, value
from factory.math.equations import Equation, equations, number_in, numbers, put
from factory.math.worked import solve, sum_of

Error = Literal["changed_number", "swapped_operation", "skipped_step"]

SMALL = 20
"""Prose can say a number up to this in a word, so that it may have stood before unseen."""

_SWAPS = {"+": "-", "-": "+", "*": "+", "/": "*"}


class Solution:
    """The lines of a right solution of a problem, and the arithmetic in them."""

    def __init__(self, lines: Sequence[str], problem: str) -> None:
        self.lines = list(lines)
        self._problem = problem
        self._sum = sum_of(lines)
        self._found = [equations(line) for line in lines]

    def faults(self, at: int, error: Error, rng: random.Random) -> Iterator[list[str]]:
        """Solutions with this error at this line, in an order that `rng` chooses; perhaps none."""
        if error == "skipped_step":
            yield from self._without(at)
        elif at == len(self.lines) - 1:
            if error == "changed_number":
                yield from self._other_answers(rng)
        else:
            found = self._found[at]
            for equation in rng.sample(found, len(found)):
                for wrong in self._wrong_results(equation, error, rng):
                    lines = self._with(at, equation, wrong)
                    if lines is not None:
                        yield lines

    def _with(self, at: int, equation: Equation, wrong: Fraction) -> list[str] | None:
        """The solution with a wrong result. None: a worked sum does not notice it at the end, or
        would go on with numbers of another kind."""
        if self._sum is None:
            lines = self.lines.copy()
            lines[at] = put(lines[at], equation.shown, wrong)
            return lines
        try:
            right = value(self._sum)
            lines, answer = solve(self._sum, {at: wrong})
        except ValueError:
            return None
        has_places = any("." in line.rstrip(".") for line in self.lines)
        is_alike = has_places or not any("." in line.rstrip(".") for line in lines)
        return lines if is_alike and answer != right else None

    def _wrong_results(
        self, equation: Equation, error: Error, rng: random.Random
    ) -> Iterator[Fraction]:
        right = equation.shown.value
        if error == "changed_number":
            choices = near(right, rng)
        else:
            choices = _swapped(equation.tokens)
            rng.shuffle(choices)
        for wrong in choices:
            numbers = [right, *(token for token in equation.tokens if isinstance(token, Fraction))]
            most = max(map(_places, numbers))
            is_alike = _places(wrong) <= min(most, MAX_PLACES)
            is_likely = self._sum is not None or wrong >= 0 or right < 0
            if wrong != right and is_alike and is_likely:
                yield wrong

    def _other_answers(self, rng: random.Random) -> Iterator[list[str]]:
        """Only where the lines before say what the answer must be."""
        answer = number_in(self.lines[-1])
        results = [equation.shown.value for found in self._found for equation in found]
        if answer is not None and results and results[-1] == answer.value:
            for wrong in near(answer.value, rng):
                yield [*self.lines[:-1], put(self.lines[-1], answer, wrong)]

    def _without(self, at: int) -> Iterator[list[str]]:
        """A step can be missed if it found a number that stood nowhere before, and the line after
        it uses that number without finding it itself."""
        is_all = len(self.lines) == 2
        if is_all or at == len(self.lines) - 1 or not self._found[at]:
            return
        result = self._found[at][-1].shown.value
        after = self.lines[at + 1]
        known = numbers("\n".join([self._problem, *self.lines[:at]]))
        for equation in self._found[at]:
            known |= {abs(token) for token in equation.tokens if isinstance(token, Fraction)}
        is_in_figures = self._sum is not None or abs(result) > SMALL
        is_found_again = any(equation.shown.value == result for equation in self._found[at + 1])
        is_new = abs(result) in numbers(after) - known
        if is_new and is_in_figures and not is_found_again:
            yield [*self.lines[:at], *self.lines[at + 1 :]]


def near(right: Fraction, rng: random.Random) -> list[Fraction]:
    """Numbers that are easily written for another, in an order that `rng` chooses: 1, 2 or 10 more or
    less in its last place, or one digit another. Of the same sign, if it is not 0."""
    if _places(right) > MAX_PLACES:
        return []
    unit = Fraction(1, 10 ** _places(right))
    digits = str(abs(right / unit))
    others = {abs(right / unit) + step for step in (-10, -2, -1, 1, 2, 10)}
    for i, digit in enumerate(digits):
        other = rng.choice([d for d in "0123456789" if d != digit])
        others.add(Fraction(digits[:i] + other + digits[i + 1 :]))
    others = {other for other in others if other > 0 and other != abs(right / unit)}
    choices = [other * unit * (-1 if right < 0 else 1) for other in sorted(others)]
    rng.shuffle(choices)
    return choices


def _swapped(tokens: list[Token]) -> list[Fraction]:
    """Values of a sum with one of its operations replaced by another."""
    results = []
    for at, token in enumerate(tokens):
        if isinstance(token, str) and token in _SWAPS:
            try:
                results.append(value([*tokens[:at], _SWAPS[token], *tokens[at + 1 :]]))
            except ValueError:  # a division by zero
                continue
    return results


def _places(number: Fraction) -> int:
    """Decimal places that a number needs; more than are ever written, if no decimal writes it."""
    try:
        return len(decimal(number).partition(".")[2])
    except ValueError:
        return 10**6
