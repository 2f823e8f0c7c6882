"""Divergence of a model from another: the log-ratio of its answers under both.

    mean over answers of  sum over tokens of  log p_new(token) - log p_old(token),  in nats

Over answers that the new model sampled at temperature 1 from its whole vocabulary, this is an unbiased
estimate of KL(new || old). Over greedy answers it is only this mean. 0: the models agree on these
answers.

Both models are computed in float32, whatever precision their weights were saved in. In bfloat16 the
rounding noise of all tokens adds up to more than the effect of a few training steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from factory.core.records import Message
from factory.engines.render import answer_end, prompt_ids
from factory.stats.bootstrap import Estimate, mean_of

MOST_LOGITS = 1 << 28
"""Most logits held at once: 1 GiB in float32. Those of longer answers are computed in pieces."""
_ROWS = 128  # tokens whose log-softmax is computed at once


def log_ratio(
    old: Path,
    new: Path,
    conversations: Sequence[list[Message]],
    are_cut: Sequence[bool],
    template_options: Mapping[str, Any] | None = None,
    *,
    trust_remote_code: bool = False,
    seed: int = 0,
) -> Estimate | None:
    """The mean over answers, in nats per answer, with its interval. > 0: the answers are likelier under
    the new model. None: there are no answers.

    `conversations` end with the new model's answer, which may be empty. A cut answer has no end token
    to count. `seed`: the bootstrap's.

    Both models are loaded, one after the other, on the GPU if there is one, in a separate process, so
    that no memory is held when an engine starts.
    """
    if not conversations:
        return None
    options = (dict(template_options or {}), trust_remote_code)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        after, before = (
            apart.submit(_log_probabilities, model, conversations, are_cut, *options).result()
            for model in (new, old)
        )
    ratios = [a - b for a, b in zip(after, before, strict=True)]
    return mean_of(range(len(ratios)), ratios, seed=seed)


def _log_probabilities(
    model_dir: Path,
    conversations: Sequence[list[Message]],
    are_cut: Sequence[bool],
    template_options: Mapping[str, Any],
    trust_remote_code: bool,
) -> list[float]:
    """log p(answer | prompt) of each conversation, including the answer's end token if it has one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
    model: Any = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype="auto", use_safetensors=True, trust_remote_code=trust_remote_code
    )
    compute_in_float32(model)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    sums = []
    with torch.no_grad():
        for messages, is_cut in zip(conversations, are_cut, strict=True):
            prompt, answer = answer_ids(tokenizer, messages, template_options, is_cut=is_cut)
            sums.append(log_probability(model, prompt, answer) if answer else 0.0)
    return sums


def compute_in_float32(model: Any) -> None:
    """Make a half-precision model compute as if loaded in float32, at half the memory: each module's
    weights are converted to float32 only while it is called."""
    import torch

    kept: dict[Any, Any] = {}

    def widen(module: Any, _: Any) -> None:
        for weight in module.parameters(recurse=False):
            if weight.dtype in (torch.bfloat16, torch.float16):
                kept[weight] = weight.data
                weight.data = weight.data.float()

    def narrow(module: Any, *_: Any) -> None:
        for weight in module.parameters(recurse=False):
            weight.data = kept.pop(weight, weight.data)

    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(widen)
            module.register_forward_hook(narrow)


def log_probability(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """log p(answer | prompt) in nats, summed over the answer's tokens (at least one).

    Only the answer's logits are computed, at most `MOST_LOGITS` at once: a longer answer takes several runs.
    """
    import torch

    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    places = torch.arange(len(prompt) - 1, ids.shape[1] - 1, device=model.device)
    takes_places = "logits_to_keep" in inspect.signature(model.forward).parameters
    size = max(1, MOST_LOGITS // model.config.get_text_config().vocab_size)
    total = 0.0
    for piece in places.split(size):
        if takes_places:
            logits = model(input_ids=ids, logits_to_keep=piece, use_cache=False).logits[0]
        else:
            logits = model(input_ids=ids, use_cache=False).logits[0, piece]
        for rows, at in zip(logits.split(_ROWS), piece.split(_ROWS), strict=True):
            chosen = rows.float().log_softmax(-1).gather(-1, ids[0, at + 1, None])
            total += float(chosen.double().sum())
    return total


def answer_ids(
    tokenizer: Any,
    messages: Sequence[Message],
    template_options: Mapping[str, Any],
    *,
    is_cut: bool,
) -> tuple[list[int], list[int]]:
    """(ids of the prompt, ids of the answer with its end token). Tokens that a chat template writes after
    the end token are left out, since they were not sampled."""
    prompt = prompt_ids(tokenizer, messages[:-1], template_options)
    whole = prompt_ids(tokenizer, messages[:-1], template_options, messages[-1]["content"])
    end = None if is_cut else answer_end(tokenizer, template_options)
    return prompt, whole[len(prompt) :] + ([] if end is None else [end])
