"""How busy the factory keeps the engine, against bare vLLM with all the work at once.

    python -m benchmarks.engine_efficiency [--samples 128] [--repeats 3]

Three ways to do the same calls on the same engine, in turn, with an empty prefix cache each time:

- `factory`: the run, streaming; a critique waits for its answer, a revision for its critique;
- `floor`:   every call of that run given to vLLM at once, as if no call depended on another;
- `barrier`: stage by stage, each waiting for the whole stage before it, as batch pipelines do.

floor and barrier are given the token ids of the factory's prompts and exactly as many output tokens.
efficiency = floor seconds / factory seconds; 1 would mean that dependencies cost nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

from factory import weights
from factory.engines.base import Completion, EngineStats, Request
from factory.engines.vllm import VllmConfig, VllmEngine
from factory.recipe import load
from factory.runner.progress import Progress
from factory.runner.run import run_async

RECIPE = """
name: efficiency
seed: 7
source: {{path: {prompts}, limit: {samples}}}
constitution: helpful-honest-harmless
models:
  policy: {{model: {model}, max_model_len: 1024}}
stages:
  - {{kind: generate, model: policy, sampling: {{temperature: 0.8, max_tokens: 64}}}}
  - {{kind: critique, model: policy, sampling: {{temperature: 0.8, max_tokens: 48}}}}
  - {{kind: revise, model: policy, sampling: {{temperature: 0.8, max_tokens: 64}}}}
  - {{kind: judge, model: policy}}
"""
PROMPTS = ("everyday", "over-refusal", "red-team")
_ids = count()


class Recording:
    """An engine that writes down what it is asked and what it answers."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine
        self.calls: list[tuple[Request, Completion]] = []

    @property
    def fingerprint(self) -> str:
        return self._engine.fingerprint

    async def generate(self, request: Request) -> Completion:
        completion = await self._engine.generate(request)
        self.calls.append((request, completion))
        return completion

    def stats(self) -> EngineStats:
        return self._engine.stats()

    async def close(self) -> None:
        pass


def stage_of(request: Request) -> int:
    """0 generate, 1 critique, 2 revise, 3 judge: each makes the conversation two turns longer."""
    return 3 if request.labels else len(request.messages) // 2


async def factory_run(folder: Path, engine: VllmEngine) -> tuple[float, list[Any]]:
    recording = Recording(engine)
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        await run_async(
            load(folder / "recipe.yaml"),
            Path(out),
            engines={"policy": recording},
            progress=Progress(is_quiet=True),
        )
        return time.perf_counter() - began, recording.calls


async def bare(engine: VllmEngine, groups: list[list[Any]]) -> float:
    """Seconds vLLM needs for the groups, one after the other, each given at once."""
    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    prepared = []
    for group in groups:
        prepared.append([])
        for request, completion in group:
            params = engine._sampling_params(request)
            if not request.labels:
                params = SamplingParams(
                    temperature=request.sampling["temperature"],
                    seed=request.seed,
                    max_tokens=completion.output_tokens,
                    min_tokens=completion.output_tokens,
                    ignore_eos=True,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
            prompt = TokensPrompt(prompt_token_ids=engine._prompt_ids(request))
            prepared[-1].append((prompt, params))

    async def one(prompt: Any, params: Any) -> None:
        async for _ in engine._engine.generate(prompt, params, f"bare-{next(_ids)}"):
            pass

    began = time.perf_counter()
    for group in prepared:
        await asyncio.gather(*(one(*call) for call in group))
    return time.perf_counter() - began


async def measure(samples: int, repeats: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="factory-efficiency-"))
    prompts = folder / "prompts.jsonl"
    shipped = Path(__file__).parents[1] / "pipelines" / "prompts"
    prompts.write_text("".join((shipped / f"{name}.jsonl").read_text() for name in PROMPTS))
    text = RECIPE.format(prompts=prompts, samples=samples, model=weights.EMBEDDED)
    (folder / "recipe.yaml").write_text(text)
    engine = VllmEngine(VllmConfig(model=weights.EMBEDDED, max_model_len=1024))
    try:
        warm = Request(
            [{"role": "user", "content": "Hi"}], {"temperature": 1.0, "max_tokens": 4}, 1
        )
        await engine.generate(warm)
        ratios: dict[str, list[float]] = {"floor": [], "barrier": []}
        for repeat in range(repeats):
            await engine._engine.reset_prefix_cache()
            ours, calls = await factory_run(folder, engine)
            by_stage = [[c for c in calls if stage_of(c[0]) == stage] for stage in range(4)]
            await engine._engine.reset_prefix_cache()
            floor = await bare(engine, [calls])
            await engine._engine.reset_prefix_cache()
            barrier = await bare(engine, by_stage)
            ratios["floor"].append(floor / ours)
            ratios["barrier"].append(barrier / ours)
            tokens = sum(c.output_tokens for _, c in calls)
            print(
                f"repeat {repeat + 1}: {len(calls)} calls, {tokens} output tokens; factory "
                f"{ours:.1f} s, floor {floor:.1f} s, barrier {barrier:.1f} s",
                flush=True,
            )
        print(f"efficiency (floor / factory), median: {statistics.median(ratios['floor']):.3f}")
        print(f"barrier / factory, median: {statistics.median(ratios['barrier']):.3f}")
    finally:
        await engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    asyncio.run(measure(given.samples, given.repeats))


if __name__ == "__main__":
    main()
