"""Calibration of a scorer: expected calibration error and Brier score.

In: the scorer's probability P, for each pair, that the chosen answer is better. Out: a `Calibration`.
It compares the scorer's confidence max(P, 1 - P) with the share of pairs in which its preferred answer
is the chosen one; a tie (P = 0.5) counts half. So each pair counts once, and the labels "chosen" and
"rejected" give the scorer no information.

Bins hold equal numbers of pairs (Nixon et al. 2019, arXiv 1904.01685). Pairs of equal confidence first
get the mean of their outcomes, so the order of rows does not matter if a bin ends among them. With some
hundred pairs or fewer the error is biased upward: a perfect scorer does not get 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from factory.stats.bootstrap import SHARE, Estimate, mean_of

BINS = 10


class Bin(msgspec.Struct, frozen=True):
    """Pairs of about the same confidence."""

    pairs: int
    confidence: float
    """Mean of max(P, 1 - P), in [0.5, 1]."""
    accuracy: float
    """Share in which the preferred answer is the chosen one, ties half."""


class Calibration(msgspec.Struct, frozen=True):
    """The calibration of a scorer on pairs."""

    ece: float | None
    """Mean over pairs of |confidence - accuracy| of their bin, in [0, 1]; 0: calibrated."""
    brier: Estimate
    """Mean (1 - P)^2, in [0, 1]; 0: sure and right, 0.25: always undecided."""
    bins: list[Bin]
    """Bins in ascending order of confidence."""


def calibration(prompts: Sequence[str], p: Sequence[float]) -> Calibration:
    """`p`: P(chosen is better) of each pair, in [0, 1]. `prompts`: the bootstrap's clusters."""
    chosen = np.asarray(p, dtype=np.float64)
    if chosen.size == 0:
        return Calibration(None, Estimate(None), [])
    confidence = np.round(np.maximum(chosen, 1 - chosen), 12)  # P and 1 - P to equal levels
    levels, level, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    is_right = (chosen > 0.5) + 0.5 * (chosen == 0.5)
    right = np.bincount(level, weights=is_right) / counts  # by level
    order = np.repeat(np.arange(levels.size), counts)  # the pairs' levels, ascending
    bins = [
        Bin(int(part.size), float(levels[part].mean()), float(right[part].mean()))
        for part in np.array_split(order, min(BINS, order.size))
    ]
    ece = sum(b.pairs * abs(b.confidence - b.accuracy) for b in bins) / chosen.size
    brier = mean_of(prompts, list((1 - chosen) ** 2), SHARE)
    return Calibration(ece, brier, bins)
