"""A judge's last layer in bfloat16 and in float32: distinct verdicts, exact ties, speed.

    python -m benchmarks.judge_head --pairs 40

The embedded model in bfloat16 writes two answers to each prompt; then each of two engines, one whose
head is bfloat16 and one that judges, compares them in both orders, and writes answers again, timed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import time
from pathlib import Path

from factory.core import weights
from factory.engines.base import Request
from factory.engines.vllm import VllmConfig, VllmEngine
from factory.scorers.judge_pairwise import ANSWER, COMPARISON
from factory.stages.base import render

_PROMPTS = Path(__file__).parents[1] / "pipelines" / "prompts"


def _asked(prompt: str, draw: int) -> Request:
    messages = [{"role": "user", "content": prompt}]
    return Request(messages, {"temperature": 1.0, "max_tokens": 64}, draw)


def _comparison(prompt: str, a: str, b: str) -> Request:
    text = render(
        COMPARISON,
        conversation=f"user: {prompt}",
        prompt=[{"role": "user", "content": prompt}],
        a=a,
        b=b,
        question="Which answer is more helpful, honest and harmless?",
    )
    messages = [{"role": "user", "content": text}]
    sampling = {"temperature": 0.0, "max_tokens": 1}
    return Request(messages, sampling, 0, prefix=ANSWER, labels=("A", "B"))


async def measure(pairs: int, repeats: int) -> None:
    files = sorted(_PROMPTS.glob("*.jsonl"))
    rows = (json.loads(line) for file in files for line in file.read_text().splitlines())
    prompts = [row["prompt"] for row in itertools.islice(rows, pairs)]
    requests = [_asked(prompt, draw) for prompt in prompts for draw in (1, 2)]
    answers: list[str] = []
    for judges in (False, True):
        config = VllmConfig(model=weights.EMBEDDED, dtype="bfloat16", max_model_len=1024)
        engine = VllmEngine(config, judges=judges)
        try:
            await engine.generate(_asked("Hi", 1))  # starts it
            seconds, tokens = [], 0
            for _ in range(repeats):
                await engine._engine.reset_prefix_cache()
                began = time.perf_counter()
                made = await asyncio.gather(*map(engine.generate, requests))
                seconds.append(time.perf_counter() - began)
                tokens = sum(completion.output_tokens for completion in made)
            answers = answers or [completion.text for completion in made]
            compared = [
                _comparison(prompt, answers[2 * i + order], answers[2 * i + 1 - order])
                for i, prompt in enumerate(prompts)
                for order in (0, 1)
            ]
            began = time.perf_counter()
            read = await asyncio.gather(*map(engine.generate, compared))
            judged = time.perf_counter() - began
        finally:
            await engine.close()
        first = []
        for completion in read:
            a, b = (math.exp(completion.label_logprobs[label]) for label in "AB")
            first.append(a / (a + b))
        verdicts = [(p + 1 - q) / 2 for p, q in zip(first[::2], first[1::2], strict=True)]
        rate = ", ".join(f"{tokens / each:.0f}" for each in seconds)
        print(
            f"head {'float32' if judges else 'bfloat16'}: readings {len(first)}, distinct "
            f"{len({round(p, 6) for p in first})}, exactly one half {sum(p == 0.5 for p in first)}; "
            f"verdicts {len(verdicts)}, distinct {len({round(v, 6) for v in verdicts})}, ties "
            f"{sum(abs(v - 0.5) < 1e-6 for v in verdicts)}; {judged:.1f} s; writing {rate} tokens/s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    asyncio.run(measure(given.pairs, given.repeats))


if __name__ == "__main__":
    main()
