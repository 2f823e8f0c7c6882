"""How far a model has moved: the log-ratio of its answers under itself and under another.

    mean over answers of  sum over tokens of  log p_new(token) - log p_old(token),  in nats

Over answers that the new model sampled at temperature 1 from its whole vocabulary this is an unbiased
estimate of KL(new || old); over greedy answers it is what it says, no more. 0: the models agree on
these answers.

In bfloat16 every token's logit is off by up to its 256th part, in each model by another amount: what
adds up over an answer is larger than what a few steps of training move. So the models are computed
in float32; one that does not fit in the memory is computed in the precision it was saved in with its
head and the log-softmax in float32, and `LogRatio.precision` says so.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec

from factory.engines.render import prompt_ids
from factory.evaluation.bootstrap import Estimate, mean_of
from factory.records import Message

MOST_LOGITS = 1 << 28
"""Logits held at once: 1 GiB in float32. A longer answer's are computed in pieces."""
_ROWS = 128  # tokens whose log-softmax is taken at once
_ROOM = 1.2  # the weights' share of memory, upside down: the rest is for activations and logits


class LogRatio(msgspec.Struct, frozen=True):
    """The mean log-ratio, its interval over answers, and how it was computed."""

    mean: Estimate
    """Nats an answer. > 0: the new model finds its answers likelier than the old one does."""
    precision: str
    """`float32`; or `bfloat16, head in float32` and its like, which adds noise to each answer."""


def log_ratio(
    old: Path,
    new: Path,
    conversations: Sequence[list[Message]],
    are_cut: Sequence[bool],
    template_options: Mapping[str, Any] | None = None,
    *,
    trust_remote_code: bool = False,
    seed: int = 0,
) -> LogRatio | None:
    """`conversations` end with the new model's answer, which may be empty; one that was cut has no
    end to count. `seed` is the bootstrap's. None of no answers.

    Both models are loaded, one after the other, on the GPU if there is one: in a process of its own,
    so that none of its memory is held when an engine starts.
    """
    if not conversations:
        return None
    options = (dict(template_options or {}), trust_remote_code)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        # Both in one precision: the same rounding on both sides is the least noise.
        precision = apart.submit(_precision, [old, new]).result()
        after, before = (
            apart.submit(
                _log_probabilities, model, precision, conversations, are_cut, *options
            ).result()
            for model in (new, old)
        )
    ratios = [a - b for a, b in zip(after, before, strict=True)]
    said = "float32" if precision == "float32" else f"{precision}, head in float32"
    return LogRatio(mean_of(range(len(ratios)), ratios, seed=seed), said)


def _precision(models: Sequence[Path]) -> str:
    """`float32` if either model's weights fit in the memory in it, else what they were saved in."""
    import torch

    if torch.cuda.is_available():
        free = torch.cuda.mem_get_info()[0]
    else:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable"))
    return precision_within(free, models)


def precision_within(free: int, models: Sequence[Path]) -> str:
    """The precision for models of which one at a time has `free` bytes."""
    for folder in models:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        saved = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        in_float32 = size * (2 if saved in {"bfloat16", "float16"} else 1)
        if saved != "float32" and _ROOM * in_float32 > free:
            return saved
    return "float32"


def _log_probabilities(
    model_dir: Path,
    precision: str,
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
        model_dir,
        dtype=getattr(torch, precision),
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
    )
    if precision != "float32":
        put_head_in_float32(model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).eval()
    sums = []
    with torch.inference_mode():
        for messages, is_cut in zip(conversations, are_cut, strict=True):
            prompt, answer = answer_ids(tokenizer, messages, template_options, is_cut=is_cut)
            sums.append(log_probability(model, prompt, answer) if answer else 0.0)
    return sums


def log_probability(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """log p(answer | prompt) in nats, summed over the answer's tokens, at least one.

    Only the answer's logits are computed, at most `MOST_LOGITS` of them at once: for a longer one
    the model runs again for each piece.
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


def put_head_in_float32(model: Any) -> None:
    """Make the logits of a model in half precision those of its last hidden state in float32."""
    import torch

    class Head(torch.nn.Module):
        def __init__(self, half: Any) -> None:
            super().__init__()
            # A copy: the weights may be the embedding's, which stays as it is.
            self.weight = torch.nn.Parameter(half.weight.detach().float(), requires_grad=False)
            bias = getattr(half, "bias", None)
            self.bias = None if bias is None else torch.nn.Parameter(bias.detach().float(), False)

        def forward(self, hidden: Any) -> Any:
            return torch.nn.functional.linear(hidden.float(), self.weight, self.bias)

    model.set_output_embeddings(Head(model.get_output_embeddings()))


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
    end = [] if is_cut or tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return prompt, whole[len(prompt) :] + end
