"""Agreement beyond chance: Cohen's kappa of two labelers, Fleiss' kappa of many.

kappa = (agreement - chance) / (1 - chance): 1, perfect; 0, as by chance; below 0, worse. It is
undefined (None) if all labels are the same, since chance then agrees on everything. Intervals resample
the clusters; everything, including chance, is recomputed on each resample.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.stats.bootstrap import Estimate, interval_of, weighted_mean


def cohen_kappa(
    clusters: Sequence[Hashable], first: Sequence[int], second: Sequence[int]
) -> Estimate:
    """Cohen's kappa (1960): chance gives each label as often as each labeler does. One label per item and
    labeler."""
    labels = sorted({*first, *second})
    one = np.asarray(first)[:, None] == labels  # [item, label]
    other = np.asarray(second)[:, None] == labels
    agrees = np.asarray(first) == np.asarray(second)

    def kappa(weights: NDArray[Any]) -> float | None:
        total = weights.sum()
        chance = float((weights @ one / total) @ (weights @ other / total))
        return _beyond(weighted_mean(agrees, weights), chance)

    return interval_of(clusters, kappa)


def fleiss_kappa(clusters: Sequence[Hashable], items: Sequence[Sequence[int]]) -> Estimate:
    """Fleiss' kappa (1971), with any number of labels per item, at least two.

    Fleiss has the same number for each item. Here every item counts once in the agreement, and every
    label once in chance.
    """
    labels = sorted({label for item in items for label in item})
    counts = np.array([[list(item).count(label) for label in labels] for item in items])
    agreement = np.array([pair_agreement(item) for item in items])

    def kappa(weights: NDArray[Any]) -> float | None:
        given = weights @ counts
        return _beyond(weighted_mean(agreement, weights), float(((given / given.sum()) ** 2).sum()))

    return interval_of(clusters, kappa)


def pair_agreement(labels: Sequence[int]) -> float:
    """Share of the pairs of labels that are equal, in [0, 1]; at least two labels."""
    n = len(labels)
    return sum(k * (k - 1) for k in map(labels.count, set(labels))) / (n * (n - 1))


def _beyond(agreement: float | None, chance: float) -> float | None:
    # 1 - chance of one label only is zero, or a rounding error of it.
    if agreement is None or 1 - chance < 1e-12:
        return None
    return (agreement - chance) / (1 - chance)
