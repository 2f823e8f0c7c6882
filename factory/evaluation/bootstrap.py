"""How sure a figure is: the percentile bootstrap (Efron and Tibshirani 1993, chapter 13).

In, `interval`: one value a *cluster*. Comparisons of one prompt depend on each other, so they are
averaged first and the prompt is what is resampled. Out: an interval of the mean, for which every
prompt counts once.

In, `interval_of`: the cluster of each row, and any statistic of weighted rows. Clusters are
resampled whole and the statistic is recomputed over the rows drawn, for which every row counts
once, as in published accuracies. Out: an `Estimate`.

Always: the same values and seed give the same interval, and memory stays under 50 MB however many
values there are. Where all values are equal so are all resamples, and the interval is a point: with
few prompts that says little.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Values drawn at once, of 8 bytes each and 8 more for their indices.
_BLOCK = 1 << 21
_RESAMPLES = 2000


class Estimate(msgspec.Struct, frozen=True):
    """A figure and its 95% bootstrap interval."""

    value: float | None
    """None: undefined on these rows, as a rate of nothing."""
    low: float | None = None
    high: float | None = None
    undefined: int = 0
    """Resamples in which the statistic was undefined, as an AUC of one class: left out."""

    def __str__(self) -> str:
        """`0.63 (0.58 to 0.67)`; `-` where there is no figure."""
        if self.value is None:
            return "-"
        if self.low is None or self.high is None:
            return f"{self.value:z.2f}"
        return f"{self.value:z.2f} ({self.low:z.2f} to {self.high:z.2f})"


def interval(
    values: Sequence[float], *, level: float = 0.95, resamples: int = _RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The central `level` of the means of `resamples` draws with replacement, as (low, high).

    Raises `ValueError` if there are no values, one is not finite, or `level` is not in (0, 1).
    """
    import numpy as np

    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("no values to resample")
    if not np.isfinite(data).all():
        raise ValueError("a value is not finite")
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows = max(1, _BLOCK // data.size)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        means[start : start + count] = data[
            random.integers(data.size, size=(count, data.size))
        ].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval_of(
    clusters: Sequence[Hashable],
    statistic: Callable[[NDArray[Any]], float | None],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """`statistic` of all rows, with the central `level` of it over resamples of the clusters.

    `clusters` names each row's cluster. `statistic(weights)` is given how often each row was drawn,
    a whole number >= 0, and returns None where it is undefined.

    Raises `ValueError` if `level` is not in (0, 1) or the statistic is not finite.
    """
    import numpy as np

    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    value = statistic(np.ones(len(clusters))) if clusters else None
    if value is None:
        return Estimate(None)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    cluster_of_row = np.array([numbers[name] for name in clusters])
    random = np.random.default_rng(seed)
    known = []
    for _ in range(_RESAMPLES):
        drawn = np.bincount(
            random.integers(len(numbers), size=len(numbers)), minlength=len(numbers)
        )
        resampled = statistic(drawn[cluster_of_row].astype(np.float64))
        if resampled is not None:
            known.append(resampled)
    if not np.isfinite([value, *known]).all():
        raise ValueError("the statistic is not finite")
    if not known:
        return Estimate(float(value), undefined=_RESAMPLES)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high), _RESAMPLES - len(known))


def mean_of(clusters: Sequence[Hashable], values: Sequence[float], *, seed: int = 0) -> Estimate:
    """The mean over rows, each counting once, with clusters resampled whole."""
    import numpy as np

    data = np.asarray(values, dtype=np.float64)
    return interval_of(clusters, lambda weights: weighted_mean(data, weights), seed=seed)


def weighted_mean(values: NDArray[Any], weights: NDArray[Any]) -> float | None:
    """None: no weight at all."""
    total = float(weights.sum())
    return float(weights @ values) / total if total else None
