"""What scoring costs: process models by one prefill a solution, reward models beside transformers.

    python -m benchmarks.scoring [--rows 128] [--repeats 3]

Both models are the embedded one with a random head, in bfloat16 throughout: speed does not depend on
what the head has learned. (a) solutions of eight steps, all at once: one call a solution against a
call for each of its steps. (b) the same conversations, of mixed lengths: through the engine, against
a loop over padded batches of 16 with transformers. Each repeat measures both sides, alternating.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from factory.core import weights
from factory.core.records import Message
from factory.engines.base import Request, Scoring
from factory.engines.vllm import VllmConfig, VllmEngine

BATCH = 16
STEPS = 8


def headed(kind: str, labels: int, folder: Path) -> Path:
    """The embedded model with a random head."""
    import torch
    import transformers

    model_dir = weights.embedded_model()
    torch.manual_seed(0)
    load = getattr(transformers, f"AutoModelFor{kind}").from_pretrained
    model = load(model_dir, num_labels=labels, dtype=torch.bfloat16)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def solution(rng: random.Random) -> Scoring:
    steps = []
    total = rng.randint(2, 99)
    for _ in range(STEPS):
        more = rng.randint(2, 99)
        steps.append(f"Adding {more} to {total} gives {total + more}, which is what we go on with.")
        total += more
    return Scoring(tuple(steps))


def conversation(rng: random.Random) -> list[Message]:
    words = ("the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "saw", "seven", "dogs")

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(low, high)))

    # Answers' lengths are spread as those of chat models: most short, some five times as long.
    longest = 60 if rng.random() < 0.8 else 300
    return [
        {"role": "user", "content": text(10, 40)},
        {"role": "assistant", "content": text(20, longest)},
    ]


async def timed(engine: VllmEngine, requests: list[Request]) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(engine.generate(request) for request in requests))
    return time.perf_counter() - began


async def with_engine(
    model: Path, task: str, work: Callable[[VllmEngine], Coroutine[Any, Any, None]]
) -> None:
    engine = VllmEngine(
        VllmConfig.model_validate(
            {"model": str(model), "task": task, "max_model_len": 1024, "dtype": "bfloat16"}
        )
    )
    try:
        await work(engine)
    finally:
        await engine.close()


def request(messages: list[Message], scoring: Scoring) -> Request:
    return Request(messages=messages, sampling={}, draw=0, scoring=scoring)


async def process(model: Path, rows: int, repeats: int) -> None:
    question: list[Message] = [{"role": "user", "content": "What does it all add up to?"}]

    async def measure(engine: VllmEngine) -> None:
        await engine.generate(request(question, solution(random.Random(0))))
        ratios = []
        for repeat in range(repeats):
            rng = random.Random(repeat + 1)
            solutions = [solution(rng) for _ in range(rows)]
            whole = [request(question, s) for s in solutions]
            each = [
                request(question, Scoring(s.steps[: i + 1]))
                for s in solutions
                for i in range(STEPS)
            ]
            one, many = await timed(engine, whole), await timed(engine, each)
            ratios.append(many / one)
            print(
                f"  {rows} solutions: one prefill {one:.1f} s, a call a step {many:.1f} s",
                flush=True,
            )
        print(f"(a) one prefill is {statistics.median(ratios):.2f} times as fast (median)")

    await with_engine(model, "token_classify", measure)


def padded(model: Any, tokenizer: Any, rows: list[list[Message]]) -> float:
    import torch

    began = time.perf_counter()
    with torch.inference_mode():
        for i in range(0, len(rows), BATCH):
            texts = tokenizer.apply_chat_template(rows[i : i + BATCH], tokenize=False)
            inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
            model(**inputs)
    return time.perf_counter() - began


async def reward(folder: Path, rows: int, repeats: int) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    async def measure(engine: VllmEngine) -> None:
        await engine.generate(request(conversation(random.Random(0)), Scoring()))
        padded(model, tokenizer, [conversation(random.Random(0)) for _ in range(BATCH)])
        ratios = []
        for repeat in range(repeats):
            rng = random.Random(repeat + 1)
            conversations = [conversation(rng) for _ in range(rows)]
            loop = padded(model, tokenizer, conversations)
            ours = await timed(engine, [request(c, Scoring()) for c in conversations])
            ratios.append(loop / ours)
            print(f"  {rows} answers: engine {ours:.1f} s, padded loop {loop:.1f} s", flush=True)
        print(f"(b) the engine is {statistics.median(ratios):.2f} times as fast (median)")

    await with_engine(folder, "classify", measure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="factory-scoring-") as name:
        folder = Path(name)
        prm = headed("TokenClassification", 2, folder / "prm")
        asyncio.run(process(prm, given.rows // 4, given.repeats))
        rm = headed("SequenceClassification", 1, folder / "rm")
        asyncio.run(reward(rm, given.rows, given.repeats))


if __name__ == "__main__":
    main()
