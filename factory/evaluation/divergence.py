"""How far a model has moved: the log-ratio of its answers under itself and under another.

    mean over answers of  sum over tokens of  log p_new(token) - log p_old(token),  in nats

Over answers that the new model sampled at temperature 1 this is an unbiased estimate of KL(new ||
old); over greedy answers it is what it says, no more. 0: the models agree on these answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.engines.render import conversation_ids, prompt_ids
from factory.records import Message


def log_ratio(
    old: Path, new: Path, conversations: Sequence[list[Message]], are_cut: Sequence[bool]
) -> float | None:
    """`conversations` end with the new model's answer; one that was cut has no end to count. Nats an
    answer; None of no answers.

    Both models are loaded, one after the other, in the precision they were saved in, on the GPU if
    there is one.
    """
    after = _log_probabilities(new, conversations, are_cut)
    before = _log_probabilities(old, conversations, are_cut)
    ratios = [a - b for a, b in zip(after, before, strict=True)]
    return sum(ratios) / len(ratios) if ratios else None


def _log_probabilities(
    model_dir: Path, conversations: Sequence[list[Message]], are_cut: Sequence[bool]
) -> list[float]:
    """log p(answer | prompt) of each conversation, the answer's end included where it has one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, use_safetensors=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).eval()
    sums = []
    with torch.inference_mode():
        for messages, is_cut in zip(conversations, are_cut, strict=True):
            start = len(prompt_ids(tokenizer, messages[:-1], {}))
            answer = messages[-1]["content"]
            whole = (
                prompt_ids(tokenizer, messages[:-1], {}, answer)
                if is_cut
                else conversation_ids(tokenizer, messages, {})
            )
            ids = torch.tensor([whole], device=device)
            logits = model(ids).logits[0, start - 1 : -1].float()
            chosen = torch.log_softmax(logits, -1).gather(-1, ids[0, start:, None])
            sums.append(float(chosen.sum()))
    return sums
