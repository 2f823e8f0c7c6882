"""Scoring models on the real engine: what is served is what transformers computes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from factory.core.errors import ContextOverflow, EngineError, RecipeError
from factory.core.records import Message
from factory.engines.base import Completion, Request, Scoring, TextScoring
from factory.engines.render import conversation_ids, step_ids
from factory.engines.vllm import VllmConfig, VllmEngine
from tests.tiny import save_llama, sentencepiece_tokenizer

pytestmark = pytest.mark.engine
QUESTION: list[Message] = [{"role": "user", "content": "What is 2 + 3 * 4?"}]
CONVERSATIONS = [
    [*QUESTION, {"role": "assistant", "content": answer}]
    for answer in ("14", "First 3 * 4 = 12, and 2 + 12 = 14.", "I do not know, " * 20)
]
STEPS = Scoring(("3 * 4 = 12", "2 + 12 = 14", "The answer is 15."))


SIZES = {"hidden_size": 64, "initializer_range": 0.2}
"""The engine dies of heads of 16 units."""


def request(messages: list[Message], scoring: Scoring) -> Request:
    return Request(messages=messages, sampling={}, draw=0, scoring=scoring)


def serve(
    loop: asyncio.Runner, config: dict[str, Any], requests: list[Request]
) -> list[Completion | BaseException]:
    """All requests at once, by an engine that lives as long as they take."""

    async def go() -> list[Completion | BaseException]:
        small = {"kv_cache_memory_bytes": 64 << 20}
        engine = VllmEngine(
            VllmConfig(dtype="float32", max_model_len=256, engine_args=small, **config)
        )
        try:
            return await asyncio.gather(
                *(engine.generate(r) for r in requests), return_exceptions=True
            )
        finally:
            await engine.close()

    return loop.run(go())


def close(got: Completion | BaseException, expected: torch.Tensor) -> bool:
    assert isinstance(got, Completion), got
    assert got.scores is not None
    scores = torch.tensor(got.scores)
    return scores.shape == expected.shape and bool((scores - expected).abs().max() < 1e-4)


def test_a_reward_is_that_of_transformers_though_padding_is_the_end_of_text(
    loop: asyncio.Runner, model_dir: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.pad_token = tokenizer.eos_token
    # The template's last newline would hide what this is about.
    template = tokenizer.chat_template.replace("<|im_end|>' + '\n'", "<|im_end|>'")
    assert template != tokenizer.chat_template
    tokenizer.chat_template = template
    changes = SIZES | {"num_labels": 1}
    folder = save_llama(tmp_path, tokenizer, "LlamaForSequenceClassification", **changes)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    too_long: list[Message] = [*QUESTION, {"role": "assistant", "content": "word " * 300}]
    *got, overflow, other = serve(
        loop,
        {"model": str(folder), "task": "classify"},
        [
            *(request(c, Scoring()) for c in CONVERSATIONS),
            request(too_long, Scoring()),
            request(QUESTION, STEPS),
        ],
    )
    texts = [
        tokenizer.apply_chat_template(c, return_dict=False, tokenize=False) for c in CONVERSATIONS
    ]
    padded = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    assert padded.input_ids[1, -1] == tokenizer.eos_token_id
    with torch.no_grad():
        expected = model(**padded).logits
    assert [close(g, e[None]) for g, e in zip(got, expected, strict=True)] == [True] * 3
    assert len({float(e) for e in expected}) == 3
    assert isinstance(overflow, ContextOverflow)
    assert isinstance(other, EngineError)
    assert "set task: token_classify" in str(other)


def test_step_scores_are_those_of_transformers(
    loop: asyncio.Runner, tokenizer: Any, tmp_path: Path
) -> None:
    """Of three labels; the next test compares the scores of two."""
    from transformers import AutoModelForTokenClassification

    changes = SIZES | {"num_labels": 3}
    folder = save_llama(tmp_path, tokenizer, "LlamaForTokenClassification", **changes)
    tagged = Scoring(STEPS.steps, separator="\n\n", tag="<|im_start|>")
    no_tag = Scoring(STEPS.steps, tag="not one token")
    *got, refused = serve(
        loop,
        {"model": str(folder), "task": "token_classify"},
        [request(QUESTION, s) for s in (STEPS, tagged, no_tag)],
    )
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    for scoring, served in zip((STEPS, tagged), got, strict=True):
        ids, positions = step_ids(tokenizer, QUESTION, scoring, {})
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0, positions]
        assert expected.shape == (3, 3)
        assert close(served, expected)
    assert isinstance(refused, EngineError)
    assert "must be one" in str(refused)


def test_a_model_that_answers_with_label_tokens_scores_steps_in_either_layout(
    loop: asyncio.Runner, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer = sentencepiece_tokenizer(tmp_path)
    folder = save_llama(tmp_path, tokenizer, **SIZES)
    words = ["▁+", "▁-"]
    text = TextScoring(STEPS.steps, "\n", "ки")
    got = serve(
        loop,
        {"model": str(folder), "task": "token_classify", "label_tokens": words},
        [request(QUESTION, STEPS), request(QUESTION, text)],
    )
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    # The second as the model card of Math-Shepherd's does it.
    good_and_bad = tokenizer.encode("+ -")[1:]
    assert good_and_bad == tokenizer.convert_tokens_to_ids(words)
    solution = " ки\n".join(STEPS.steps) + " ки"
    whole = tokenizer.encode(f"{QUESTION[0]['content']} {solution}")
    tags = [i for i, token in enumerate(whole) if token == tokenizer.encode("ки")[-1]]
    read = (step_ids(tokenizer, QUESTION, STEPS, {}), (whole, tags))
    for served, (ids, positions) in zip(got, read, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, positions]
        assert close(served, logits[:, good_and_bad])


def test_a_label_token_that_the_model_lacks_is_refused(
    loop: asyncio.Runner, tmp_path: Path
) -> None:
    folder = save_llama(tmp_path, sentencepiece_tokenizer(tmp_path), **SIZES)
    config = VllmConfig(model=str(folder), task="token_classify", label_tokens=["▁+", "right"])
    engine = VllmEngine(config)
    with pytest.raises(RecipeError, match="label_tokens: 'right' is no token of"):
        loop.run(engine.generate(request(QUESTION, STEPS)))


def test_steps_are_read_at_their_separators(model_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    ids, positions = step_ids(tokenizer, QUESTION, STEPS, {})
    newline = tokenizer.encode("\n")
    assert [ids[p] for p in positions] == newline * 3
    ends = [tokenizer.decode(ids[: p + 1]) for p in positions]
    assert ends[1].endswith("<|im_start|>assistant\n3 * 4 = 12\n2 + 12 = 14\n")
    assert positions[-1] == len(ids) - 1


def test_a_rewarded_conversation_ends_with_its_answer(model_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    ids = conversation_ids(tokenizer, CONVERSATIONS[0], {})
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\n14<|im_end|>\n")


def test_a_model_that_writes_is_no_reward_model(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="factory train reward"):
        VllmEngine(VllmConfig(model=str(model_dir), task="classify"))
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForSequenceClassification"]})
    )
    with pytest.raises(RecipeError, match="set task: classify"):
        VllmEngine(VllmConfig(model=str(tmp_path)))
