"""What both rankings take and give.

What is counted is *comparisons* (a judge's verdict each, whatever the number of readings behind it:
two orders of one pair are no independent evidence). Intervals say what would change with other
comparisons, not what would change with another judge; of fewer than two there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]

MIN_OUTCOMES = 2
"""Comparisons from which there is an interval."""


class Outcome(NamedTuple):
    """A comparison of two players, who are numbered from 0."""

    first: int
    second: int
    p: float
    """Credit of the first, in [0, 1]; the second has the rest. 0.5: a tie. May be soft."""


class Strengths(msgspec.Struct, frozen=True):
    """Lists run over the players."""

    values: list[float]
    """Higher is better."""
    low: list[float] | None = None
    """With `high`: Bradley-Terry's 95% interval, or the central 95% of Elo's replays, which is no
    interval of anything: see there. None: not asked for, or too few comparisons."""
    high: list[float] | None = None
    length_effect: float | None = None
    """Bradley-Terry's gamma, fitted or given. None: length was not controlled for."""


def check_outcomes(players: int, outcomes: Sequence[Outcome]) -> None:
    """Raises `ValueError` for a p outside [0, 1] (NaN too), a player that is not there, or one
    compared with itself."""
    for outcome in outcomes:
        first, second, p = outcome
        if not 0 <= p <= 1:
            raise ValueError(f"p {p} of {first} against {second} is not in [0, 1]")
        if first == second or not (0 <= first < players and 0 <= second < players):
            raise ValueError(f"{first} against {second}: not two of {players} players")
