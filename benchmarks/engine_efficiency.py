"""How busy the factory keeps the engine, against bare vLLM with all the work at once.

    python -m benchmarks.engine_efficiency [--samples 64] [--repeats 3]

Ways to make the same calls, in turns, with an empty prefix cache each time:

- `factory`: a run, streaming, from recipe to datasets; a critique waits for its answer, a revision
  for its critique, both orders of the judge for the revision;
- `floor`:   every call of that run given at once to bare vLLM, as if no call depended on another, at
  whichever of 16, 32, 64 and 128 sequences is fastest, with the factory's other engine arguments;
- `barrier`: to that vLLM stage by stage, each waiting for the whole stage before it, as batch
  pipelines do.

floor and barrier are unseeded and are given the token ids of the factory's prompts and exactly as
many output tokens. efficiency = floor seconds / factory seconds; 1 would mean that the factory costs
nothing. Engines start before anything is timed; imports that come later are the factory's cost.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

from factory.core import weights
from factory.engines.base import Completion, EngineStats, Request
from factory.engines.render import prompt_ids
from factory.engines.vllm import VllmConfig, VllmEngine
from factory.pipeline.progress import Progress
from factory.pipeline.run import in_loop, run_async
from factory.recipe.load import load

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
views:
  - {{kind: preference, pairs: revision_vs_initial}}
"""
PROMPTS = ("everyday", "over-refusal", "red-team")
SIZES = (16, 32, 64, 128)
TRIED_ON = 0.4  # of the calls: enough to keep 128 sequences busy
TWO_ENGINES = 0.5  # of the machine, for each
_ids = count()

Call = tuple[Request, Completion]


class Recording:
    """An engine that writes down what it is asked and what it answers."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine
        self.calls: list[Call] = []

    @property
    def fingerprint(self) -> str:
        return self._engine.fingerprint

    async def thinks(self) -> bool:
        return await self._engine.thinks()

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


async def factory_run(folder: Path, engine: VllmEngine) -> tuple[float, list[Call]]:
    recording = Recording(engine)
    await (await engine._running()).reset_prefix_cache()
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        await run_async(
            load(folder / "recipe.yaml"),
            Path(out),
            engines={"policy": recording},
            progress=Progress(is_quiet=True),
        )
        return time.perf_counter() - began, recording.calls


async def bare(engine: VllmEngine, groups: list[list[Call]]) -> float:
    """Seconds vLLM needs for the groups, one after the other, each given at once."""
    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    vllm = await engine._running()
    tokenizer = vllm.get_tokenizer()
    prepared: list[list[tuple[Any, Any]]] = []
    for group in groups:
        prepared.append([])
        for request, completion in group:
            if request.labels:
                labels = [engine._calls.label_id(request.prefix, label) for label in request.labels]
                asked: dict[str, Any] = {"temperature": 0, "max_tokens": 1}
                asked |= {"allowed_token_ids": labels, "logprob_token_ids": labels}
            else:
                tokens = completion.output_tokens
                asked = {"temperature": request.sampling["temperature"], "ignore_eos": True}
                asked |= {"max_tokens": tokens}
            params = SamplingParams(**asked, output_kind=RequestOutputKind.FINAL_ONLY)
            ids = prompt_ids(tokenizer, request.messages, {}, request.prefix)
            prepared[-1].append((TokensPrompt(prompt_token_ids=ids), params))

    async def one(prompt: Any, params: Any) -> int:
        async for output in vllm.generate(prompt, params, f"bare-{next(_ids)}"):
            last = output
        return len(last.outputs[0].token_ids)

    await vllm.reset_prefix_cache()
    began = time.perf_counter()
    made = [await asyncio.gather(*(one(*call) for call in group)) for group in prepared]
    seconds = time.perf_counter() - began
    assert sum(map(sum, made)) == sum(c.output_tokens for group in groups for _, c in group)
    return seconds


async def started(sequences: int | None, share: float = 1.0) -> VllmEngine:
    """An engine that has answered, and compiled what the first batch compiles. None: as it comes."""
    config = VllmConfig(model=weights.EMBEDDED, max_model_len=1024, max_num_seqs=sequences)
    engine = VllmEngine(config, share=share)
    hello = Request([{"role": "user", "content": "Hi"}], {"temperature": 1.0, "max_tokens": 4})
    await bare(engine, [[(hello, await engine.generate(hello))]])
    return engine


async def best_size(calls: list[Call]) -> int:
    """How many sequences at once make bare vLLM fastest."""
    some = random.Random(0).sample(calls, int(TRIED_ON * len(calls)))
    seconds = {}
    for size in SIZES:
        engine = await started(size, TWO_ENGINES)
        try:
            seconds[size] = min([await bare(engine, [some]) for _ in range(2)])
        finally:
            await engine.close()
        print(f"bare vLLM, {size} sequences: {seconds[size]:.1f} s", flush=True)
    return min(seconds, key=seconds.__getitem__)


async def measure(samples: int, repeats: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="factory-efficiency-"))
    prompts = folder / "prompts.jsonl"
    shipped = Path(__file__).parents[1] / "pipelines" / "prompts"
    prompts.write_text("".join((shipped / f"{name}.jsonl").read_text() for name in PROMPTS))
    text = RECIPE.format(prompts=prompts, samples=samples, model=weights.EMBEDDED)
    (folder / "recipe.yaml").write_text(text)
    engine = await started(None, TWO_ENGINES)
    _, calls = await factory_run(folder, engine)  # warms up, and says what the calls are
    size = await best_size(calls)
    floor_engine = await started(size, TWO_ENGINES)
    ratios: dict[str, list[float]] = {"floor": [], "barrier": []}
    print(f"| repeat | calls | output tokens | factory | floor ({size} sequences) | barrier |")
    print("|---|---|---|---|---|---|")
    for repeat in range(repeats):
        seconds: dict[str, float] = {}
        if repeat % 2:  # whichever goes first is not always the same
            seconds["floor"] = await bare(floor_engine, [calls])
        seconds["factory"], calls = await factory_run(folder, engine)
        if not repeat % 2:
            seconds["floor"] = await bare(floor_engine, [calls])
        by_stage = [[c for c in calls if stage_of(c[0]) == stage] for stage in range(4)]
        seconds["barrier"] = await bare(floor_engine, by_stage)
        for name, all_of_it in ratios.items():
            all_of_it.append(seconds[name] / seconds["factory"])
        cells = [f"{seconds[name]:.1f} s" for name in ("factory", "floor", "barrier")]
        tokens = sum(c.output_tokens for _, c in calls)
        print(f"| {repeat + 1} | {len(calls)} | {tokens:,} | {' | '.join(cells)} |", flush=True)
    for each in (engine, floor_engine):
        await each.close()
    print(f"efficiency (floor / factory), median: {statistics.median(ratios['floor']):.3f}")
    print(f"barrier / factory, median: {statistics.median(ratios['barrier']):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine_efficiency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    in_loop(measure(given.samples, given.repeats))


if __name__ == "__main__":
    main()
