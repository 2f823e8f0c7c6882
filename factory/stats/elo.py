"""Elo ratings (Elo 1978), online: after each comparison the first player gains 32 * (p - expected)
points and the second loses them, with expected = 1 / (1 + 10^((second - first) / 400)).

The mean rating is 1500; a player without a comparison has 1500. The ratings depend on the *order* of the
comparisons, and with the few of one prompt they are far from converged; they tend to the strengths of
`bradley_terry`, which do not depend on it.

`low` and `high` are the central 95% of ratings over replays, in which as many comparisons are drawn with
replacement and played in the order drawn. They are no confidence interval, since a rating after so few
comparisons has no true value to cover. If all comparisons are the same, the range is a point.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from factory.stats.outcome import MIN_OUTCOMES, Outcome, Strengths, check_outcomes

START = 1500.0
K_FACTOR = 32.0
"""Most points that one comparison can move."""
LEVEL = 0.95
"""Share of the replays between `low` and `high`."""
SCALE = 400.0
"""Difference in points that means odds of 10 to 1."""


def elo(
    players: int, outcomes: Sequence[Outcome], *, resamples: int = 0, seed: int = 0
) -> Strengths:
    """Ratings of `players`, numbered from 0, after `outcomes` in their order.

    `seed`: of the `resamples` replays. Raises `ValueError` for numbers out of range.
    """
    check_outcomes(players, outcomes)
    values = _play(players, outcomes, np.arange(len(outcomes))[None])[0].tolist()
    if not resamples or len(outcomes) < MIN_OUTCOMES:
        return Strengths(values)
    drawn_RM = np.random.default_rng(seed).integers(len(outcomes), size=(resamples, len(outcomes)))
    replays_RG = _play(players, outcomes, drawn_RM)
    low_G, high_G = np.quantile(replays_RG, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Strengths(values, low_G.tolist(), high_G.tolist())


def _play(
    players: int, outcomes: Sequence[Outcome], order_RM: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Ratings [R, G] after the outcomes, each row in its own order."""
    first_M = np.array([o.first for o in outcomes], dtype=np.intp)
    second_M = np.array([o.second for o in outcomes], dtype=np.intp)
    p_M = np.array([o.p for o in outcomes], dtype=np.float64)
    ratings_RG = np.full((len(order_RM), players), START)
    rows = np.arange(len(order_RM))
    for played_R in order_RM.T:
        first_R, second_R = first_M[played_R], second_M[played_R]
        lead_R = ratings_RG[rows, first_R] - ratings_RG[rows, second_R]
        gain_R = K_FACTOR * (p_M[played_R] - 1 / (1 + 10 ** (-lead_R / SCALE)))
        ratings_RG[rows, first_R] += gain_R
        ratings_RG[rows, second_R] -= gain_R
    return ratings_RG
