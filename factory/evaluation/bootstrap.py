"""How sure a mean is: the percentile bootstrap (Efron and Tibshirani 1993, chapter 13).

In: one value a *cluster*. Comparisons of one prompt depend on each other, so they are averaged
first and the prompt is what is resampled. Out: an interval of the mean. Always: the same values and
seed give the same interval, and memory stays under 50 MB however many values there are.

Where all values are equal so are all resamples, and the interval is a point: with few prompts that
says little.
"""

from __future__ import annotations

from collections.abc import Sequence

# Values drawn at once, of 8 bytes each and 8 more for their indices.
_BLOCK = 1 << 21


def interval(
    values: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
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
