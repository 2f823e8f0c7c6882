"""Bradley-Terry strengths by regularized maximum likelihood (Bradley and Terry 1952).

P(i is better than j) = sigmoid(th_i - th_j), with soft outcomes p in [0, 1]. The objective is

    sum [p log s(th_i - th_j) + (1 - p) log s(th_j - th_i)] - lambda/2 |th|^2.

lambda is a normal prior of variance 1 / lambda on each strength. It makes the maximum unique and finite
even if a player won or lost everything, or groups were never compared; each such group is then centered
on 0. Strengths sum to 0, and a player without a comparison has strength 0.

*Length control* adds gamma * (len_i - len_j) / (len_i + len_j) to the difference, so that strengths
exclude the longer answer's advantage (as LMSYS's style control does). gamma > 0: longer wins. A fitted
gamma has the same prior. Within a single prompt strengths and gamma explain the same outcomes, so that
gamma is weak evidence about a judge: for four answers, each twice as long as the one before, ranked by
length alone, it takes 28% of the strengths. One known from many prompts can be given instead.

Intervals are profile-likelihood intervals: the strengths th_i, with the others refitted, for which twice
the drop of the penalized likelihood from its maximum is within 3.84, the 95% point of chi-squared with
one degree of freedom. Each comparison counts as one trial, also a soft one, whose interval is wider than
necessary. Measured (`benchmarks/intervals.py`): they hold 93 to 100% of true strengths, where a bootstrap
of 6 comparisons among 4 players held 36 to 88%.

The maximum is found by Newton's method. Along a step v the third derivative of the objective is at most
r = max |difference of v| times the second, so the slope cannot change its sign within log(1 + r) / r of
the step (Sun and Tran-Dinh 2019). Each such step climbs, and no line search is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from factory.stats.outcome import (
    MIN_OUTCOMES,
    MIN_REGULARISATION,
    REGULARISATION,
    Outcome,
    Strengths,
    check_outcomes,
)

Floats = NDArray[np.float64]
_TOLERANCE = 1e-8  # accuracy of a strength; records keep six decimals
_MOST_STEPS = 500
_CHI2 = 3.841459  # the 95% point, one degree of freedom


def bradley_terry(
    players: int,
    outcomes: Sequence[Outcome],
    *,
    regularisation: float = REGULARISATION,
    lengths: Sequence[int] | None = None,
    gamma: float | None = None,
    resamples: int = 0,
) -> Strengths:
    """Strengths of `players`, which are numbered from 0.

    `lengths`: words of each player's answer; if given, control for length, with `gamma` or a fitted one.
    `resamples` above 0: with intervals, which are computed, so the number does not change them. Raises
    `ValueError` for numbers out of range.
    """
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
    likelihood = _Likelihood(design_MP, offset_M, p_M, regularisation)
    found_P = likelihood.maximum()
    if lengths is not None and gamma is None:
        gamma = float(found_P[players])
    low = high = None
    if resamples and len(outcomes) >= MIN_OUTCOMES:
        low, high = (likelihood.ends(found_P, players, side).tolist() for side in (-1, 1))
    return Strengths(found_P[:players].tolist(), low, high, gamma if lengths is not None else None)


def relative_length(first: int, second: int) -> float:
    """(first - second) / (first + second), in [-1, 1]; 0 for two empty answers."""
    return (first - second) / (first + second) if first + second else 0.0


class _Likelihood:
    """The penalized log-likelihood of P parameters. A comparison's difference of strengths is
    `design @ parameters + offset`."""

    def __init__(
        self, design_MP: Floats, offset_M: Floats, p_M: Floats, regularisation: float
    ) -> None:
        self._design_MP = design_MP
        self._offset_M = offset_M
        self._p_M = p_M
        self._regularisation = regularisation

    def maximum(self) -> Floats:
        parameters = self._design_MP.shape[1]
        found_BP, _ = self._climb(np.zeros((1, parameters)), np.zeros((0, parameters)))
        found_P: Floats = found_BP[0]
        return found_P

    def ends(self, found_P: Floats, players: int, side: int) -> Floats:
        """For each player, the strength below (`side` -1) or above (+1) the fitted one at which the
        profile is lower by half of `_CHI2`.

        The drop is convex in the distance, so Newton's method overshoots at most once and then descends.
        """
        # Strengths are relative to the players' mean, which the likelihood does not determine.
        contrast_GP = np.eye(players, len(found_P)) - np.pad(
            np.full((players, players), 1 / players), ((0, 0), (0, len(found_P) - players))
        )
        top = self._value(found_P[None])
        hessian_PP = self._hessian(found_P[None])[0]
        variance_G = np.einsum("gp,pg->g", contrast_GP, np.linalg.solve(hessian_PP, contrast_GP.T))
        end_G = found_P[:players] + side * np.sqrt(_CHI2 * np.maximum(variance_G, 0))
        at_GP = np.tile(found_P, (players, 1))
        for _ in range(_MOST_STEPS):
            missing_G = end_G - np.einsum("gp,gp->g", contrast_GP, at_GP)
            at_GP, slope_G = self._climb(
                at_GP + (missing_G / (1 - 1 / players))[:, None] * contrast_GP, contrast_GP
            )
            drop_G = 2 * (top - self._value(at_GP)) - _CHI2
            step_G = drop_G / (2 * slope_G)
            end_G = end_G + step_G
            if np.abs(step_G).max() < _TOLERANCE:
                return np.asarray(end_G)
        raise _not_found(self._regularisation)

    def _climb(self, at_BP: Floats, fixed_BP: Floats) -> tuple[Floats, Floats]:
        """The maxima [B, P] with `fixed @ parameters` held constant, one row each (no row: free), and
        the slopes there along a change of that value."""
        slope_B = np.zeros(len(at_BP))
        for _ in range(_MOST_STEPS):
            s_BM = self._sigmoid(at_BP)
            gradient_BP = (self._p_M - s_BM) @ self._design_MP - self._regularisation * at_BP
            hessian_BPP = self._hessian(at_BP)
            step_BP = np.linalg.solve(hessian_BPP, gradient_BP[:, :, None])[:, :, 0]
            if len(fixed_BP):
                aside_BP = np.linalg.solve(hessian_BPP, fixed_BP[:, :, None])[:, :, 0]
                slope_B = (fixed_BP * step_BP).sum(1) / (fixed_BP * aside_BP).sum(1)
                step_BP = step_BP - slope_B[:, None] * aside_BP
            reach_B = np.abs(step_BP @ self._design_MP.T).max(axis=1, initial=0.0)
            share_B = np.log1p(reach_B) / np.maximum(reach_B, 1e-300)
            at_BP = at_BP + np.where(reach_B > 0, share_B, 1.0)[:, None] * step_BP
            if np.abs(step_BP).max(initial=0.0) < _TOLERANCE:
                return at_BP, slope_B
        raise _not_found(self._regularisation)

    def _sigmoid(self, at_BP: Floats) -> Floats:
        return 0.5 + 0.5 * np.tanh((at_BP @ self._design_MP.T + self._offset_M) / 2)

    def _hessian(self, at_BP: Floats) -> Floats:
        """Hessian of the negative log-likelihood, [B, P, P], positive definite."""
        s_BM = self._sigmoid(at_BP)
        prior_PP = self._regularisation * np.eye(at_BP.shape[1])
        weighted_BMP = (s_BM * (1 - s_BM))[:, :, None] * self._design_MP
        return np.asarray(self._design_MP.T @ weighted_BMP + prior_PP)

    def _value(self, at_BP: Floats) -> Floats:
        d_BM = at_BP @ self._design_MP.T + self._offset_M
        log_BM = self._p_M * np.logaddexp(0, -d_BM) + (1 - self._p_M) * np.logaddexp(0, d_BM)
        return np.asarray(-log_BM.sum(1) - self._regularisation / 2 * (at_BP**2).sum(1))


def _not_found(regularisation: float) -> ArithmeticError:
    return ArithmeticError(
        f"no strengths found in {_MOST_STEPS} steps; raise the regularisation ({regularisation})"
    )
