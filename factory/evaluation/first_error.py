"""Finding the first wrong step of a solution, as ProcessBench asks (Zheng et al. 2024, 2412.06559).

The prediction is the first step whose score is below the threshold, or -1: all steps are right. Out:
the accuracy on wrong solutions (the very step), on right ones (-1), and F1, the harmonic mean of the
two. It departs from the paper in one thing: a scorer may leave steps unscored. What comes after the
predicted error does not matter; before it, nothing can be predicted, which is None.

Whatever the scores, a solution is predicted rightly at the thresholds of one interval (low, high]:
above the score of the wrong step, and up to the least of the steps before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.stats.bootstrap import weighted_mean

RIGHT = -1


def truth(labels: Sequence[bool | None]) -> int | None:
    """Index of the first wrong step; -1 where none is wrong. None: no step's label is known."""
    if False in labels:
        return labels.index(False)
    return RIGHT if True in labels else None


def predicted(scores: Sequence[float | None], threshold: float) -> int | None:
    """Index of the first step scored below the threshold; -1: none is. None: an unscored one comes before."""
    for at, score in enumerate(scores):
        if score is None:
            return None
        if score < threshold:
            return at
    return RIGHT


def f1(is_hit: NDArray[Any], is_wrong: NDArray[Any], weights: NDArray[Any]) -> float | None:
    """Harmonic mean of the hits among wrong and among right solutions; 0 where either is 0. None:
    there are no wrong ones, or no right ones."""
    on_wrong = weighted_mean(is_hit, weights * is_wrong)
    on_right = weighted_mean(is_hit, weights * ~is_wrong)
    return None if on_wrong is None or on_right is None else harmonic(on_wrong, on_right)


def harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def best_threshold(
    scores: Sequence[Sequence[float | None]], truths: Sequence[int], default: float
) -> tuple[float, float] | None:
    """The threshold of the highest F1 on these solutions, and that F1; None where F1 is undefined.

    Chosen on the rows it is measured on, so it flatters. Of equally good thresholds the nearest to
    `default`. A solution that cannot be predicted at a threshold counts as a miss there.
    """
    wrong = [at for at, error in enumerate(truths) if error != RIGHT]
    right = [at for at, error in enumerate(truths) if error == RIGHT]
    if not wrong or not right:
        return None
    bounds = {
        at: found
        for at, error in enumerate(truths)
        if (found := _hits_within(scores[at], error)) is not None
    }
    low, high = (np.sort([bounds[at][side] for at in wrong if at in bounds]) for side in (0, 1))
    least = np.sort([bounds[at][1] for at in right if at in bounds])
    edges = {edge for bound in bounds.values() for edge in bound if math.isfinite(edge)}
    tried = np.array(sorted(edges | {default}))
    on_wrong = (np.searchsorted(low, tried) - np.searchsorted(high, tried)) / len(wrong)
    on_right = (least.size - np.searchsorted(least, tried)) / len(right)
    values = [harmonic(float(a), float(b)) for a, b in zip(on_wrong, on_right, strict=True)]
    best = max(range(len(values)), key=lambda at: (values[at], -abs(tried[at] - default)))
    return float(tried[best]), values[best]


def _hits_within(scores: Sequence[float | None], error: int) -> tuple[float, float] | None:
    """(low, high): `predicted` is `error` at the thresholds low < t <= high. None: at none."""
    before = scores if error == RIGHT else scores[:error]
    own = -math.inf if error == RIGHT else scores[error]
    known = [score for score in before if score is not None]
    if own is None or len(known) < len(before):
        return None
    high = min(known, default=math.inf)
    return (own, high) if own < high else None
