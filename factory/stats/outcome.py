"""Inputs and outputs of both rankings, Bradley-Terry and Elo.

The unit is a *comparison*: one verdict of a judge, regardless of the number of its readings, since two
orders of one pair are not independent evidence. Intervals describe the variation with other comparisons,
not with another judge. Fewer than two comparisons have no interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

MIN_OUTCOMES = 2
"""Least number of comparisons for an interval."""
REGULARISATION = 0.1
"""Bradley-Terry's lambda. One comparison won outright gives a difference of 2.1 (a preference of 0.89)."""
MIN_REGULARISATION = 1e-5  # far below this, float64 cannot resolve a common shift of all strengths


class Outcome(NamedTuple):
    """A comparison of two players. Players are numbered from 0."""

    first: int
    second: int
    p: float
    """Credit of the first player, in [0, 1]; the second gets the rest. 0.5: a tie. May be soft."""


class Strengths(msgspec.Struct, frozen=True):
    """Strengths of players. Lists are per player."""

    values: list[float]
    """Higher is better."""
    low: list[float] | None = None
    """Lower end, with `high`, of Bradley-Terry's 95% interval or of the central 95% of Elo's replays (no
    confidence interval, see there). None: not asked for, or too few comparisons."""
    high: list[float] | None = None
    length_effect: float | None = None
    """Bradley-Terry's gamma, fitted or given. None: length was not controlled for."""


def check_outcomes(players: int, outcomes: Sequence[Outcome]) -> None:
    """Raise `ValueError` for a p outside [0, 1] (or NaN), an unknown player, or one against itself."""
    for outcome in outcomes:
        first, second, p = outcome
        if not 0 <= p <= 1:
            raise ValueError(f"p {p} of {first} against {second} is not in [0, 1]")
        if first == second or not (0 <= first < players and 0 <= second < players):
            raise ValueError(f"{first} against {second}: not two of {players} players")
