"""Bradley-Terry strengths by regularised maximum likelihood (Bradley and Terry 1952).

P(i is better than j) = sigmoid(th_i - th_j), with soft outcomes p in [0, 1]. Maximised is

    sum [p log s(th_i - th_j) + (1 - p) log s(th_j - th_i)] - lambda/2 |th|^2,

so a difference of log 3 = 1.1 is a preference of 0.75. lambda is a normal prior of variance
1 / lambda on each strength. It makes the maximum unique and finite even where a player won or lost
everything, or groups were never compared; how such groups stand to each other the prior alone
decides, each being centred on 0. Always: strengths sum to 0 (the gradient of the penalty must
vanish along a common shift), and a player without a comparison has strength 0.

*Length control* adds gamma * (len_i - len_j) / (len_i + len_j) to the difference, so that strengths
are what is left when the longer answer's advantage is taken away (as LMSYS's style control does).
gamma > 0: longer wins. Fitted, it has the same prior. Within one prompt there are few comparisons
and every length belongs to one player, so strengths and gamma explain the same outcomes and share
them as the prior prefers: such a gamma is weak evidence about a judge. (Of four answers, each twice
as long as the one before, ranked by length alone, it takes 28% of the strengths by default, where
the judge's true gamma takes all.) A gamma known from many prompts can be given instead.

Newton's method on all resamples at once. Along a step v the third derivative of the objective is at
most r = max |difference of v| times the second, so the slope cannot change its sign within
log(1 + r) / r of the step (Sun and Tran-Dinh 2019): each such step climbs, and no search is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from factory.ranking.outcome import (
    MIN_OUTCOMES,
    Outcome,
    Strengths,
    check_outcomes,
    draw,
    percentiles,
)

if TYPE_CHECKING:
    from factory.ranking.outcome import Floats

REGULARISATION = 0.1
"""Of one comparison won outright by the first it makes a difference of 2.1 (a preference of 0.89)."""
MIN_REGULARISATION = 1e-5  # well below, float64 cannot tell a common shift of all strengths
_TOLERANCE = 1e-8  # of a strength; records keep six decimals
_MOST_STEPS = 500
_BLOCK = 1 << 21  # numbers held at once, of 8 bytes each


def bradley_terry(
    players: int,
    outcomes: Sequence[Outcome],
    *,
    regularisation: float = REGULARISATION,
    lengths: Sequence[int] | None = None,
    gamma: float | None = None,
    resamples: int = 0,
    seed: int = 0,
) -> Strengths:
    """Strengths of `players`, which are numbered from 0.

    `lengths`, in words, of each player's answer: control for length, with `gamma`, or with one
    fitted along. `seed` is the bootstrap's. Raises `ValueError` for numbers out of range.
    """
    import numpy as np

    check_outcomes(players, outcomes)
    if not MIN_REGULARISATION <= regularisation < float("inf"):
        raise ValueError(f"regularisation {regularisation} is not at least {MIN_REGULARISATION}")
    design_MP = np.zeros((len(outcomes), players))
    for row, outcome in zip(design_MP, outcomes, strict=True):
        row[outcome.first], row[outcome.second] = 1.0, -1.0
    p_M = np.array([outcome.p for outcome in outcomes])
    offset_M = np.zeros(len(outcomes))
    if lengths is not None:
        covariate_M = np.array([relative_length(lengths[i], lengths[j]) for i, j, _ in outcomes])
        if gamma is None:
            design_MP = np.column_stack([design_MP, covariate_M])
        else:
            offset_M = gamma * covariate_M
    found_P = _fit(design_MP, offset_M, p_M, np.ones((1, len(outcomes))), regularisation)[0]
    if lengths is not None and gamma is None:
        gamma = float(found_P[players])
    low = high = None
    if resamples and len(outcomes) >= MIN_OUTCOMES:
        drawn_RM = draw(len(outcomes), resamples, seed)
        counts_RM = np.zeros(drawn_RM.shape)
        np.add.at(counts_RM, (np.arange(resamples)[:, None], drawn_RM), 1.0)
        rows = max(1, _BLOCK // design_MP.size)
        parts = [
            _fit(design_MP, offset_M, p_M, counts_RM[i : i + rows], regularisation)
            for i in range(0, resamples, rows)
        ]
        low, high = percentiles(np.concatenate(parts)[:, :players])
    values = found_P[:players].tolist()
    return Strengths(values, low, high, gamma if lengths is not None else None)


def relative_length(first: int, second: int) -> float:
    """(first - second) / (first + second), in [-1, 1]; of two empty answers 0."""
    return (first - second) / (first + second) if first + second else 0.0


def _fit(
    design_MP: Floats, offset_M: Floats, p_M: Floats, counts_BM: Floats, regularisation: float
) -> Floats:
    """Parameters [B, P], a row for each way to count the M comparisons. The difference that a
    comparison is about is `design @ parameters + offset`."""
    import numpy as np

    found_BP = np.zeros((len(counts_BM), design_MP.shape[1]))
    prior_PP = regularisation * np.eye(design_MP.shape[1])
    for _ in range(_MOST_STEPS):
        s_BM = 0.5 + 0.5 * np.tanh((found_BP @ design_MP.T + offset_M) / 2)  # the sigmoid
        gradient_BP = (counts_BM * (p_M - s_BM)) @ design_MP - regularisation * found_BP
        curvature_BM = counts_BM * s_BM * (1 - s_BM)
        hessian_BPP = design_MP.T @ (curvature_BM[:, :, None] * design_MP) + prior_PP
        step_BP = np.linalg.solve(hessian_BPP, gradient_BP[:, :, None])[:, :, 0]
        reach_B = np.abs(step_BP @ design_MP.T).max(axis=1, initial=0.0)
        share_B = np.log1p(reach_B) / np.maximum(reach_B, 1e-300)
        found_BP += np.where(reach_B > 0, share_B, 1.0)[:, None] * step_BP
        if np.abs(step_BP).max(initial=0.0) < _TOLERANCE:
            return found_BP
    raise ArithmeticError(
        f"no strengths found in {_MOST_STEPS} steps; raise the regularisation ({regularisation})"
    )
