"""What both rankings take and give, and how they resample.

The interval is a percentile bootstrap over *comparisons* (a judge's verdict each, whatever the
number of readings behind it: two orders of one pair are no independent evidence). It covers what
would change with other comparisons, not what would change with another judge. Where all comparisons
are alike so are all resamples, and it is a point; of fewer than two there is none.
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

LEVEL = 0.95
MIN_OUTCOMES = 2
"""Comparisons from which an interval can be resampled."""


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
    """With `high`: the 95% bootstrap interval. None: not asked for, or too few comparisons."""
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


def draw(outcomes: int, resamples: int, seed: int) -> Indices:
    """Indices of outcomes drawn with replacement, [resamples, outcomes]."""
    import numpy as np

    return np.random.default_rng(seed).integers(outcomes, size=(resamples, outcomes))


def percentiles(values_RG: Floats) -> tuple[list[float], list[float]]:
    """The central 95% of each player's values over R resamples, as (low, high)."""
    import numpy as np

    low_G, high_G = np.quantile(values_RG, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low_G.tolist(), high_G.tolist()
