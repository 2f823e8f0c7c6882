"""Models small enough to be trained in a test, and what every test of a training does with one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

VOCABULARY = 4096
"""Tokens kept: logits over all 49,152 would take most of a step's time."""


def cut_tokenizer(source: Path, folder: Path) -> Any:
    """The tokenizer in `source` with its first tokens only, so that rarer words are several."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    file = folder / "tokenizer.json"
    whole = json.loads(file.read_text())
    model = whole["model"]
    model["vocab"] = {text: n for text, n in model["vocab"].items() if n < VOCABULARY}
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in model["vocab"]]
    file.write_text(json.dumps(whole))
    return AutoTokenizer.from_pretrained(folder)


def sentencepiece_tokenizer(folder: Path) -> Any:
    """A tokenizer like Llama's and Mistral's, without a chat template: a text begins with a space,
    a space belongs to the word after it, and there is a BOS. Knows some ASCII and "ки"."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["▁ки", "▁+", "▁-", "▁the", "▁The", "▁answer", "▁is", *"abcdefghijklmnopqrstuvwxyz"]
    pieces += [*"▁ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-*/=.,:?!()\nки"]
    vocabulary = [(special, 0.0) for special in ("<unk>", "<s>", "</s>")]
    vocabulary += [(piece, -5.0) for piece in pieces]  # the fewer pieces, the likelier
    made = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Replace("▁", " ")
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_llama(
    folder: Path, tokenizer: Any, kind: str = "LlamaForCausalLM", **changes: object
) -> Path:
    """A Llama of 32 units and 2 layers with random weights, in float32, and its tokenizer."""
    import torch
    import transformers

    torch.set_num_threads(1)  # threads gain nothing on it and spin where cores are shared
    torch.manual_seed(0)
    given = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.LlamaConfig(**given | changes)
    getattr(transformers, kind)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save(rows: list[dict], path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def dataset(rows: list[dict]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(rows)


def logged(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def weights_of(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


SHORT_ANSWERS = {
    "max_steps": 8,
    "learning_rate": 0.03,
    "logging_steps": 1,
    "max_completion_length": 6,
    "num_generations": 8,
    "top_k": 20,  # of 4,096 tokens few would come twice
    "save_strategy": "no",
}
"""An online training in which a model learns how long its answers should be."""


def assert_the_mean_reward_rises(out: Path) -> None:
    rewards = [line["reward"] for line in logged(out)]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:2]) / 2 + 1


@contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """A training in here stops in the middle, after `step` steps, as by Ctrl+C."""
    from transformers import TrainerCallback

    def stop(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainerCallback, "on_step_begin", stop)
        with pytest.raises(KeyboardInterrupt):
            yield
