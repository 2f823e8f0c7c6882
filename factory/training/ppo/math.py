"""The arithmetic of PPO: rewards of tokens, advantages, losses, the KL controller. Pure functions.

Shapes: [B, T], B completions of at most T tokens, padded on the right. `mask_BT` is True on a
completion's own tokens, its end-of-text token included; what stands elsewhere is never read.
`values_BT[:, t]` is what the critic expects before token t is drawn; log-probabilities are those
of the tokens that were drawn, at the sampling temperature.

    r_t   = -beta (log pi - log ref) + [t is the last token] score    (Ziegler et al. 2019, 1909.08593)
    A_t   = sum_l (gamma lambda)^l (r_{t+l} + gamma V_{t+l+1} - V_{t+l})       (GAE: 1506.02438)
    policy  -min(rho A, clip(rho, 1 - eps, 1 + eps) A),  rho = pi / pi_old     (PPO: 1707.06347)
    value   max((V - R)^2, (clip(V, V_old - eps, V_old + eps) - R)^2) / 2,  R = A + V_old

Nothing comes after the last token, whether the model ended there or was cut: its V is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-8
"""A small number added to variances."""


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The mean over all tokens of the batch, a scalar: long completions weigh more."""
    return values_BT[mask_BT].mean()


def whiten(values_BT: Tensor, mask_BT: Tensor, *, shifts_mean: bool = True) -> Tensor:
    """Variance 1 and, if `shifts_mean`, mean 0 over the tokens of the batch; 0 off the mask. The
    variance is the population's: divided by n, not n - 1."""
    own = values_BT[mask_BT]
    mean, variance = own.mean(), own.var(correction=0)
    whitened = (values_BT - mean) * torch.rsqrt(variance + EPSILON)
    if not shifts_mean:
        whitened = whitened + mean
    return torch.where(mask_BT, whitened, 0.0)


def token_rewards(scores_B: Tensor, penalty_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """`-penalty` at each token, and a completion's score at its last, which it must have."""
    rewards_BT = torch.where(mask_BT, -penalty_BT, 0.0)
    rows = torch.arange(len(scores_B), device=scores_B.device)
    rewards_BT[rows, mask_BT.sum(1) - 1] += scores_B
    return rewards_BT


def gae(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """(advantages, returns = advantages + values), 0 off the mask."""
    values_BT = torch.where(mask_BT, values_BT, 0.0)
    advantages_BT = torch.zeros_like(values_BT)
    next_value = next_advantage = torch.zeros_like(values_BT[:, 0])
    for t in reversed(range(values_BT.shape[1])):
        delta = rewards_BT[:, t] + gamma * next_value - values_BT[:, t]
        next_advantage = torch.where(mask_BT[:, t], delta + gamma * lam * next_advantage, 0.0)
        next_value = values_BT[:, t]
        advantages_BT[:, t] = next_advantage
    return advantages_BT, advantages_BT + values_BT


def policy_losses(
    logp_BT: Tensor, old_logp_BT: Tensor, advantages_BT: Tensor, cliprange: float
) -> tuple[Tensor, Tensor]:
    """(the loss of each token, whether it is clipped: it then has no gradient)."""
    ratio = torch.exp(logp_BT - old_logp_BT)
    plain = -advantages_BT * ratio
    clipped = -advantages_BT * ratio.clamp(1 - cliprange, 1 + cliprange)
    return torch.maximum(plain, clipped), clipped > plain


def value_losses(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, cliprange: float
) -> tuple[Tensor, Tensor]:
    """(the loss of each token, whether it is clipped). `cliprange` is in units of reward."""
    bounded = values_BT.clamp(old_values_BT - cliprange, old_values_BT + cliprange)
    plain, clipped = (values_BT - returns_BT) ** 2, (bounded - returns_BT) ** 2
    return 0.5 * torch.maximum(plain, clipped), clipped > plain


def k3(logp_BT: Tensor, ref_logp_BT: Tensor) -> Tensor:
    """ref / pi - log(ref / pi) - 1 of each token: >= 0, and in expectation over pi KL(pi || ref) (Schulman
    2020, "Approximating KL divergence"). On-policy its gradient is that of KL(ref || pi), as in GRPO."""
    log_ratio = ref_logp_BT - logp_BT
    return torch.expm1(log_ratio) - log_ratio


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> float:
    """1 - Var(R - V) / Var(R), at most 1. 1: a perfect critic; 0: no better than a constant; below 0:
    worse. NaN if all returns are the same."""
    returns, errors = returns_BT[mask_BT], (returns_BT - values_BT)[mask_BT]
    return float(1 - errors.var(correction=0) / returns.var(correction=0))


class KlController:
    """`beta`: constant; with a `target`, in nats a completion, the proportional controller of
    Ziegler et al. 2019: beta *= 1 + 0.1 clip(KL / target - 1, -0.2, 0.2) after each batch."""

    GAIN, BOUND = 0.1, 0.2

    def __init__(self, beta: float, target: float | None = None) -> None:
        self.beta = beta
        self._target = target

    def update(self, kl: float) -> None:
        """`kl`: the batch's mean, in nats a completion."""
        if self._target is not None:
            error = max(-self.BOUND, min(self.BOUND, kl / self._target - 1))
            self.beta *= 1 + self.GAIN * error
