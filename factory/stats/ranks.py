"""Rank statistics: the area under the ROC curve, and Spearman's correlation.

Tied values get the mean of their ranks. A weight is the number of times that a row was drawn in a
resample; every figure equals that of the rows repeated so often. Values are sorted once, so each of
thousands of resamples costs only a pass over the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Ranks:
    """Values to be ranked, none of them NaN."""

    def __init__(self, values: Sequence[float] | NDArray[Any]) -> None:
        data = np.asarray(values, dtype=np.float64)
        if np.isnan(data).any():
            raise ValueError("a value to be ranked is not a number")
        _, self._group = np.unique(data, return_inverse=True)

    def of(self, weights: NDArray[Any]) -> NDArray[Any]:
        """The rank of each row, from 1 for the lowest."""
        drawn: NDArray[Any] = np.bincount(self._group, weights=weights)
        ranks: NDArray[Any] = (np.cumsum(drawn) - drawn + (drawn + 1) / 2)[self._group]
        return ranks


def auc(ranks: Ranks, is_positive: NDArray[Any], weights: NDArray[Any]) -> float | None:
    """P(a positive row is above a negative one), ties half, in [0, 1]. 0.5: no information.

    None: only one class was drawn. It is U of Mann and Whitney (1947) divided by the number of pairs.
    """
    positive = weights * is_positive
    positives = float(positive.sum())
    negatives = float(weights.sum()) - positives
    if not positives or not negatives:
        return None
    above = float(positive @ ranks.of(weights)) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def spearman(x: Ranks, y: Ranks, weights: NDArray[Any]) -> float | None:
    """The correlation of the ranks, in [-1, 1]. None: x or y takes only one value."""
    deviations = []
    for ranks in (x.of(weights), y.of(weights)):
        drawn = ranks[weights > 0]
        if drawn.size == 0 or drawn.min() == drawn.max():
            return None
        deviations.append(ranks - np.average(ranks, weights=weights))
    dx, dy = deviations
    spread = np.sqrt((weights @ dx**2) * (weights @ dy**2))
    return float(np.clip((weights * dx) @ dy / spread, -1, 1))
