"""The experience of PPO: a batch of scored completions, with the models' figures for each token.

A completion without a score is left out, and counted by the rewards' reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from factory.core.errors import FactoryError
from factory.core.records import Message
from factory.training.online.rewards import Rewards
from factory.training.ppo import math as ppo_math
from factory.training.ppo.config import PpoConfig
from factory.training.ppo.rollouts import Rollouts, entropy, read, sample
from factory.training.ppo.value_head import ValueHead


@dataclass(frozen=True)
class Prompt:
    messages: list[Message]
    ids: list[int]
    reference: str | None = None


@dataclass(frozen=True)
class Batch:
    """Scored rollouts. All [B, T] and of the policy that drew them; advantages are whitened."""

    rollouts: Rollouts
    logp_BT: Tensor
    ref_logp_BT: Tensor
    values_BT: Tensor
    advantages_BT: Tensor
    returns_BT: Tensor

    def rows(self, index: Tensor) -> Batch:
        rollouts = self.rollouts.rows(index)
        length = rollouts.mask_BT.shape[1]
        names = ("logp_BT", "ref_logp_BT", "values_BT", "advantages_BT", "returns_BT")
        return Batch(rollouts, *(getattr(self, name)[index, :length] for name in names))


class Experience:
    """Makes the batches."""

    def __init__(
        self,
        args: PpoConfig,
        policy: Any,
        reference: Any,
        value: ValueHead,
        prompts: Sequence[Prompt],
        tokenizer: Any,
        rewards: Rewards,
    ) -> None:
        """`reference`: the policy as it was; None: `policy` without its adapter."""
        self.args, self.policy, self.reference, self.value = args, policy, reference, value
        self.prompts, self.tokenizer, self.rewards = prompts, tokenizer, rewards
        self.left_out: Counter[str] = Counter()
        """Reason -> number of completions so far that were left out."""
        self._end_ids = _end_ids(policy, tokenizer)
        pad = tokenizer.pad_token_id
        self._pad_id = self._end_ids[0] if pad is None else pad

    def to(self, device: Any) -> None:
        """Move the models to the device. Dropout is off in all of them."""
        for model in (self.policy, self.value):
            model.to(device).eval()
        if self.reference is not None:
            self.reference.to(device).eval().requires_grad_(False)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def gather(self, step: int, beta: float) -> tuple[Batch, dict[str, float]]:
        """The batch of a step, a function of weights and step, and its log. `beta`: of the KL penalty."""
        args = self.args
        order = prompts_of(step, args.rollout_batch_size, len(self.prompts), args.seed)
        prompts = [self.prompts[i] for i in order]
        with autocast(args, self.policy):
            rollouts = sample(
                self.policy,
                [prompt.ids for prompt in prompts],
                end_ids=self._end_ids,
                pad_id=self._pad_id,
                max_new_tokens=args.max_completion_length,
                temperature=args.temperature,
                seed=_seed(args.seed, step),
            )
        rollouts, scores_B, logs = self._scored(rollouts, prompts, step)
        mask = rollouts.mask_BT
        logp, ref_logp, values, entropy_BT = self._read_all(rollouts)
        kl_BT = torch.where(mask, logp - ref_logp, 0.0)
        penalty_BT = kl_BT * (beta if args.kl == "penalty" else 0.0)
        rewards = ppo_math.token_rewards(scores_B, penalty_BT, mask)
        if args.whiten_rewards:
            rewards = ppo_math.whiten(rewards, mask, shifts_mean=False)
        advantages, returns = ppo_math.gae(rewards, values, mask, args.gamma, args.lam)
        penalties_B = beta * kl_BT.sum(1)
        numbers = {
            "objective/kl": kl_BT.sum(1).mean(),
            "objective/kl_coef": beta,
            "objective/entropy": -torch.where(mask, logp, 0.0).sum(1).mean(),
            "objective/non_score_reward": -penalties_B.mean(),
            "objective/rlhf_reward": (scores_B - penalties_B).mean(),
            "objective/scores": scores_B.mean(),
            "policy/entropy": ppo_math.masked_mean(entropy_BT, mask),
            "val/explained_variance": ppo_math.explained_variance(values, returns, mask),
            "val/mean_length": mask.sum(1).float().mean(),
            "val/num_eos_tokens": rollouts.is_ended_B.sum(),
            "val/left_out": args.rollout_batch_size - len(scores_B),
        }
        advantages = ppo_math.whiten(advantages, mask)
        batch = Batch(rollouts, logp, ref_logp, values, advantages, returns)
        return batch, logs | {name: float(value) for name, value in numbers.items()}

    def _scored(
        self, rollouts: Rollouts, prompts: Sequence[Prompt], step: int
    ) -> tuple[Rollouts, Tensor, dict[str, float]]:
        """The rollouts that have a score, those scores, and each reward's mean."""
        completions = rollouts.completions()
        texts = self.tokenizer.batch_decode(completions, skip_special_tokens=True)
        scored = self.rewards.score(
            [prompt.messages for prompt in prompts],
            texts,
            [prompt.reference for prompt in prompts],
            completions,
        )
        self.left_out.update(scored.left_out)
        found = [(place, total) for place, total in enumerate(scored.totals) if total is not None]
        if not found:
            reasons = ", ".join(f"{count} {reason}" for reason, count in scored.left_out.items())
            raise FactoryError(
                f"none of the {len(texts)} completions of step {step + 1} has a score ({reasons}); "
                f"the first is {texts[0][:200]!r}; look at the rewards, or make the task easier"
            )
        kept = torch.tensor([place for place, _ in found], device=rollouts.ids_BL.device)
        rollouts = rollouts.rows(kept)
        totals = [float(total) for _, total in found]
        scores_B = torch.tensor(totals, device=kept.device)
        if not torch.isfinite(scores_B).all():
            raise FactoryError(
                f"a score of step {step + 1} is not a finite number: {totals}; look at "
                "the reward model"
            )
        if self.args.missing_eos_penalty is not None:
            scores_B = scores_B - self.args.missing_eos_penalty * ~rollouts.is_ended_B
        parts = {
            name: [value for value in values if value is not None]
            for name, values in scored.parts.items()
        }
        means = {f"rewards/{n}/mean": sum(v) / len(v) for n, v in parts.items() if v}
        return rollouts, scores_B, means

    def _read_all(self, rollouts: Rollouts) -> list[Tensor]:
        """[B, T], 0 off the mask: log-probabilities, the reference's, values, entropy in nats."""
        found = [torch.zeros_like(rollouts.mask_BT, dtype=torch.float32) for _ in range(4)]
        every = torch.arange(len(rollouts.mask_BT), device=rollouts.mask_BT.device)
        for rows in every.split(self.args.per_device_train_batch_size):
            part = rollouts.rows(rows)
            with autocast(self.args, self.policy):
                logp, logits, hidden = read(self.policy, part, self.args.temperature)
                values = self.value(part.inputs(), hidden)
                entropy_BT = entropy(logits)
                del logits, hidden
                with self._as_it_was() as reference:
                    ref_logp, *_ = read(reference, part, self.args.temperature)
            for whole, piece in zip(found, (logp, ref_logp, values, entropy_BT), strict=True):
                whole[rows, : piece.shape[1]] = torch.where(part.mask_BT, piece.float(), 0.0)
        return found

    @contextmanager
    def _as_it_was(self) -> Iterator[Any]:
        if self.reference is not None:
            yield self.reference
        else:
            with self.policy.disable_adapter():
                yield self.policy


def autocast(args: PpoConfig, model: Any) -> Any:
    """Context of forward passes: bfloat16 if the options say so."""
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=args.bf16)


def prompts_of(step: int, size: int, count: int, seed: int) -> list[int]:
    """Positions of the prompts of a step, out of `count`. Each pass over them has a new order."""
    places = range(step * size, (step + 1) * size)
    orders = {
        round_: np.random.default_rng([seed, round_]).permutation(count)
        for round_ in {place // count for place in places}
    }
    return [int(orders[place // count][place % count]) for place in places]


def _end_ids(policy: Any, tokenizer: Any) -> list[int]:
    """The tokenizer's end of text first, then those that the model's own settings add."""
    named = getattr(policy.generation_config, "eos_token_id", None)
    more = [] if named is None else named if isinstance(named, list) else [named]
    return list(dict.fromkeys([tokenizer.eos_token_id, *more]))


def _seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
