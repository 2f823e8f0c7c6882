"""How far a model has moved: the log-ratio of its answers under itself and under another.

    mean over answers of  sum over tokens of  log p_new(token) - log p_old(token),  in nats

Over answers that the new model sampled at temperature 1 from its whole vocabulary this is an unbiased
estimate of KL(new || old); over greedy answers it is what it says, no more. 0: the models agree on
these answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from factory.engines.render import answer_end, prompt_ids
from factory.records import Message


def log_ratio(
    old: Path,
    new: Path,
    conversations: Sequence[list[Message]],
    are_cut: Sequence[bool],
    template_options: Mapping[str, Any] | None = None,
    *,
    trust_remote_code: bool = False,
) -> float | None:
    """`conversations` end with the new model's answer, which may be empty; one that was cut has no
    end to count. Nats an answer; None of no answers.

    Both models are loaded, one after the other, in the precision they were saved in, on the GPU if
    there is one: in a process of its own, so that none of its memory is held when an engine starts.
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
    return sum(ratios) / len(ratios)


def _log_probabilities(
    model_dir: Path,
    conversations: Sequence[list[Message]],
    are_cut: Sequence[bool],
    template_options: Mapping[str, Any],
    trust_remote_code: bool,
) -> list[float]:
    """log p(answer | prompt) of each conversation, the answer's end included where it has one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
    model: Any = AutoModelForCausalLM.from_pretrained(
        model_dir, use_safetensors=True, trust_remote_code=trust_remote_code
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).eval()
    sums = []
    with torch.inference_mode():
        for messages, is_cut in zip(conversations, are_cut, strict=True):
            prompt, answer = answer_ids(tokenizer, messages, template_options, is_cut=is_cut)
            if not answer:
                sums.append(0.0)
                continue
            ids = torch.tensor([prompt + answer], device=device)
            logits = model(ids).logits[0, len(prompt) - 1 : -1].float()
            chosen = torch.log_softmax(logits, -1).gather(-1, ids[0, len(prompt) :, None])
            sums.append(float(chosen.sum()))
    return sums


def answer_ids(
    tokenizer: Any,
    messages: Sequence[Message],
    template_options: Mapping[str, Any],
    *,
    is_cut: bool,
) -> tuple[list[int], list[int]]:
    """(ids of the prompt, ids of the answer and of the token that ends it). What a chat template
    writes after that token nobody sampled."""
    prompt = prompt_ids(tokenizer, messages[:-1], template_options)
    whole = prompt_ids(tokenizer, messages[:-1], template_options, messages[-1]["content"])
    end = None if is_cut else answer_end(tokenizer, template_options)
    return prompt, whole[len(prompt) :] + ([] if end is None else [end])
