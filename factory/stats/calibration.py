"""Whether a scorer is as sure as it should be: expected calibration error and Brier score.

In: the probability P that each chosen answer is better, as the scorer has it. Out: a `Calibration`.
The side that the scorer prefers is what is checked: its confidence max(P, 1 - P) against how often
it is right, a tie (P = 0.5) being right half of the time. So each pair counts once, and which answer
is called chosen is no information that the scorer lacked.

Bins hold equally many pairs (Nixon et al. 2019, arXiv 1904.01685). Pairs of equal confidence share
the mean of their outcomes first, so the order of rows does not matter where a bin ends among them.
With some hundred pairs or fewer the error is biased upwards: a perfect scorer does not get 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

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
    """How far confidence and accuracy lie apart."""

    ece: float | None
    """Mean over pairs of |confidence - accuracy| of their bin, in [0, 1]; 0: calibrated."""
    brier: Estimate
    """Mean (1 - P)^2, in [0, 1]; 0: sure and right, 0.25: always undecided."""
    bins: list[Bin]
    """From the least to the most sure."""


def calibration(prompts: Sequence[str], p: Sequence[float], *, seed: int = 0) -> Calibration:
    """`p`: P(chosen is better) of each pair, in [0, 1]; `prompts` are the bootstrap's clusters."""
    import numpy as np

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
    brier = mean_of(prompts, list((1 - chosen) ** 2), range_of_values=SHARE, seed=seed)
    return Calibration(ece, brier, bins)
