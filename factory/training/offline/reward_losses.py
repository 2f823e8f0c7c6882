"""The losses of reward models, on rewards that are already computed.

Rewards are raw outputs (logits), higher is better. Every loss is a scalar, the mean over its batch, and
is 0 at best. Shapes: `_B` pairs, `_K` answers of one prompt, `_N` answers of any prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

GRM_BETA = 0.1


def pairwise(
    chosen_B: Tensor,
    rejected_B: Tensor,
    *,
    p_B: Tensor | None = None,
    margin_B: Tensor | None = None,
) -> Tensor:
    """Bradley-Terry: -log s(d), with d = chosen - rejected, less the margin where there is one (Llama
    2, arXiv 2307.09288). With `p_B`, P(chosen is better) in [0, 1], the cross-entropy
    -p log s(d) - (1 - p) log s(-d): least where s(d) = p."""
    from torch.nn.functional import logsigmoid

    gap_B = chosen_B - rejected_B
    if margin_B is not None:
        gap_B = gap_B - margin_B
    if p_B is None:
        return -logsigmoid(gap_B).mean()
    return -(p_B * logsigmoid(gap_B) + (1 - p_B) * logsigmoid(-gap_B)).mean()


def strict_pairs(rewards_K: Tensor, scores_K: Tensor) -> tuple[Tensor, Tensor]:
    """The rewards of winner and loser of each pair of answers; ties make no pair."""
    winner, loser = (scores_K[:, None] > scores_K[None, :]).nonzero(as_tuple=True)
    return rewards_K[winner], rewards_K[loser]


def listwise(prompts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """InstructGPT's listwise loss (arXiv 2203.02155): for each prompt the mean of -log s(winner - loser)
    over its pairs, then the mean over prompts, so that a prompt with many answers weighs no more than
    another. `prompts`: the `strict_pairs` of each, at least one pair."""
    import torch

    return torch.stack([pairwise(winners, losers) for winners, losers in prompts]).mean()


def pointwise(rewards_N: Tensor, scores_N: Tensor) -> Tensor:
    """Pointwise loss: the mean squared error."""
    return ((rewards_N - scores_N) ** 2).mean()


def imitation(logits_TV: Tensor, tokens_T: Tensor, answer_T: Tensor) -> Tensor:
    """Negative log-likelihood (nats) of the answers' tokens: the mean over an answer's tokens, then
    over answers. `answer_T`: which answer each token is of, from 0 without gaps."""
    totals, tokens = _nats(logits_TV, tokens_T, answer_T)
    return (totals / tokens).mean()


def grm(logits_TV: Tensor, tokens_T: Tensor, answer_T: Tensor) -> Tensor:
    """GRM's text-generation regularizer as its authors' code has it (Yang et al. 2024, arXiv 2406.10216,
    `sft_only`, the setting of their published models): -log s(GRM_BETA * log p), log p the sum over an
    answer's tokens, then the mean over answers. Far from 0 it is GRM_BETA times the sum of nats that
    `imitation` takes the mean of, so long answers weigh more; near 0 it fades."""
    from torch.nn.functional import logsigmoid

    totals, _ = _nats(logits_TV, tokens_T, answer_T)
    return -logsigmoid(-GRM_BETA * totals).mean()


def _nats(logits_TV: Tensor, tokens_T: Tensor, answer_T: Tensor) -> tuple[Tensor, Tensor]:
    """For each answer, the summed negative log-likelihood of its tokens, and their number."""
    from torch.nn.functional import cross_entropy

    nll_T = cross_entropy(logits_TV.float(), tokens_T, reduction="none")
    count = int(answer_T.max()) + 1
    totals = nll_T.new_zeros(count).index_add(0, answer_T, nll_T)
    return totals, answer_T.bincount(minlength=count)


def regularized(ranking: Tensor, language: Tensor, weight: float) -> Tensor:
    """(1 - weight) * ranking + weight * language, as in GRM, whose weight is 0.01."""
    return (1 - weight) * ranking + weight * language
