"""Completions of prompts: drawn from the policy, and read again for log-probabilities.

    ids_BL         [B, P + T]: prompts padded on the left, completions on the right
    attention_BL   [B, P + T], bool: True where it is not padding
    mask_BT        [B, T], bool: a completion's own tokens, the end-of-text token included

Sampling uses only the temperature. Other settings of the model's own generation config (top-k,
repetition penalty) would draw from another distribution than the one that is trained.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rollouts:
    ids_BL: Tensor
    attention_BL: Tensor
    mask_BT: Tensor
    is_ended_B: Tensor
    """The model ended it; False: it was cut."""

    def rows(self, index: Any) -> Rollouts:
        """Some of them, without padding that none needs. `mask_BT` is cut at the right end only."""
        mask, attention = self.mask_BT[index], self.attention_BL[index]
        spare = int((~mask.any(0)).sum())
        end = attention.shape[1] - spare
        begin = int(attention.any(0).int().argmax())
        return Rollouts(
            self.ids_BL[index, begin:end],
            attention[:, begin:end],
            mask[:, : mask.shape[1] - spare],
            self.is_ended_B[index],
        )

    def completions(self) -> list[list[int]]:
        """Token ids of each, unpadded."""
        tokens_BT = self.ids_BL[:, -self.mask_BT.shape[1] :]
        return [ids[own].tolist() for ids, own in zip(tokens_BT, self.mask_BT, strict=True)]

    def inputs(self) -> dict[str, Tensor]:
        """For a model's forward. Positions count from the first token that is no padding."""
        return {
            "input_ids": self.ids_BL,
            "attention_mask": self.attention_BL.long(),
            "position_ids": (self.attention_BL.long().cumsum(1) - 1).clamp(min=0),
        }


def pad_prompts(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(ids [B, P], attention [B, P]), padded on the left."""
    longest = max(map(len, prompts))
    ids = [[pad_id] * (longest - len(p)) + list(p) for p in prompts]
    attention = [[False] * (longest - len(p)) + [True] * len(p) for p in prompts]
    return torch.tensor(ids), torch.tensor(attention)


def completed(ids_BL: Tensor, attention_BP: Tensor, end_ids: Sequence[int]) -> Rollouts:
    """The output of `generate` for padded prompts, as rollouts. Everything after the first end-of-text
    token counts as padding, whatever its id."""
    tokens_BT = ids_BL[:, attention_BP.shape[1] :]
    is_end = torch.isin(tokens_BT, torch.tensor(list(end_ids), device=ids_BL.device))
    mask_BT = is_end.int().cumsum(1) - is_end.int() == 0
    return Rollouts(ids_BL, torch.cat([attention_BP, mask_BT], dim=1), mask_BT, is_end.any(1))


def sample(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> Rollouts:
    """A completion of each prompt. The global random state is left as it was."""
    from transformers import GenerationConfig

    device = policy.device
    ids_BP, attention_BP = (tensor.to(device) for tensor in pad_prompts(prompts, pad_id))
    config = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(end_ids),
        pad_token_id=pad_id,
    )
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), torch.no_grad(), _generating_by(policy, config):
        torch.manual_seed(seed)
        ids_BL = policy.generate(
            input_ids=ids_BP, attention_mask=attention_BP.long(), generation_config=config
        )
    return completed(ids_BL, attention_BP, end_ids)


@contextmanager
def _generating_by(policy: Any, config: Any) -> Iterator[None]:
    """The model's own config fills in what the one given to `generate` leaves open, so both must be
    the same. An adapted model has one of its own besides its base's."""
    models = {id(model): model for model in (policy, without_adapter(policy))}.values()
    configs = [model.generation_config for model in models]
    for model in models:
        model.generation_config = config
    try:
        yield
    finally:
        for model, own in zip(models, configs, strict=True):
            model.generation_config = own


def without_adapter(policy: Any) -> Any:
    return policy.get_base_model() if hasattr(policy, "get_base_model") else policy


def read(policy: Any, rollouts: Rollouts, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """(log-probabilities [B, T] of the completions' tokens at `temperature`; logits [B, T, V] over
    temperature, from which they come; the hidden states [B, T, hidden] below those)."""
    length = rollouts.mask_BT.shape[1]
    keep = {}
    if "logits_to_keep" in inspect.signature(without_adapter(policy).forward).parameters:
        keep["logits_to_keep"] = length + 1
    with _head_in_float32(policy):
        output = policy(**rollouts.inputs(), **keep, output_hidden_states=True, use_cache=False)
    logits_BTV = output.logits[:, -length - 1 : -1].float() / temperature
    drawn = rollouts.ids_BL[:, -length:, None]
    logp_BT = logits_BTV.gather(-1, drawn).squeeze(-1) - logits_BTV.logsumexp(-1)
    return logp_BT, logits_BTV, output.hidden_states[-1][:, -length - 1 : -1]


@contextmanager
def _head_in_float32(policy: Any) -> Iterator[None]:
    """The head computes logits in float32, whatever the model and autocast compute in: of logits in
    bfloat16, with 8 significant bits, log-probabilities are wrong by some 0.03 a token."""
    head = policy.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):  # none, or with an adapter of its own
        yield
        return

    def forward(hidden: Tensor) -> Tensor:
        bias = None if head.bias is None else head.bias.float()
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.nn.functional.linear(hidden.float(), head.weight.float(), bias)

    head.forward = forward
    try:
        yield
    finally:
        del head.forward


def entropy(logits_BTV: Tensor) -> Tensor:
    """[B, T], in nats."""
    shares = logits_BTV.softmax(-1)
    return logits_BTV.logsumexp(-1) - (shares * logits_BTV).sum(-1)
