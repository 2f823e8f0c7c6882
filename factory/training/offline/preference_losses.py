"""The losses over K answers of one prompt, on log-probabilities that are already computed.

A *reward* here is beta * (log pi(answer) - log ref(answer)), as in DPO; a prompt's *targets* sum to 1.
A loss is a scalar, in nats. Targets 1 and 0 make `contrast` DPO, `noise_contrast` TRL's `nca_pair`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def targets(scores_K: Tensor, temperature: float) -> Tensor:
    """softmax(score / temperature): near 0 all of it is the best answer's."""
    return (scores_K / temperature).softmax(0)


def contrast(rewards_K: Tensor, targets_K: Tensor) -> Tensor:
    """InfoNCA (Chen et al. 2024, arXiv 2402.05369): -sum_i target_i * log softmax(rewards)_i. Least
    where softmax(rewards) is the targets. Only differences of rewards count.

    Of two answers, with D = reward of the first less that of the second, this is
    -p log s(D) - (1 - p) log s(-D).
    """
    return -(targets_K * rewards_K.log_softmax(0)).sum()


def noise_contrast(rewards_K: Tensor, targets_K: Tensor) -> Tensor:
    """NCA (same paper): -sum_i [target_i * log s(reward_i) + (1 / K) * log s(-reward_i)]. Least where
    exp(reward_i) = K * target_i: it also holds each answer's own likelihood in place, where InfoNCA
    lets all of them fall as long as the best falls least."""
    from torch.nn.functional import logsigmoid

    return -(targets_K * logsigmoid(rewards_K) + logsigmoid(-rewards_K) / len(rewards_K)).sum()


def rank(mean_logps_K: Tensor, scores_K: Tensor) -> Tensor:
    """RRHF's ranking loss (Yuan et al. 2023, arXiv 2304.05302), without a reference model: the sum over
    pairs with score_i < score_j of max(0, p_i - p_j), p an answer's mean log-probability of a token."""
    worse, better = (scores_K[:, None] < scores_K[None, :]).nonzero(as_tuple=True)
    return (mean_logps_K[worse] - mean_logps_K[better]).relu().sum()


def rank_and_imitate(mean_logps_K: Tensor, scores_K: Tensor, rank_weight: float) -> Tensor:
    """RRHF: rank_weight * `rank`, and -p of the best answer (the first of several). The paper sums the
    second over its tokens; here it is their mean, so that long answers weigh no more than short ones."""
    best = scores_K.argmax()
    return rank_weight * rank(mean_logps_K, scores_K) - mean_logps_K[best]
