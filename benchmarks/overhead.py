"""What the factory itself costs, with an engine that answers at once.

    python -m benchmarks.overhead

A recipe of 2 answers, 2 critiques, 2 revisions and 4 verdicts over generated prompts: samples a
second from source to datasets, how memory grows from 2,000 to 20,000 samples, and how fast a second
pass replays all its calls from the ledger.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.instant import InstantEngine
from factory.pipeline.progress import Progress
from factory.pipeline.run import in_loop, run_async
from factory.recipe.load import load

RECIPE = """
name: overhead
seed: 7
source: {{path: {source}, system: Answer in one short sentence.}}
constitution: helpful-honest-harmless
models:
  policy: {{engine: vllm, model: smollm2-135m-instruct, max_model_len: 2048}}
stages:
  - {{kind: generate, model: policy, n: 2, sampling: {{temperature: 0.7, top_p: 0.95, max_tokens: 96}}}}
  - {{kind: critique, model: policy, sampling: {{temperature: 0.7, top_p: 0.95, max_tokens: 48}}}}
  - {{kind: revise, model: policy, sampling: {{temperature: 0.7, top_p: 0.95, max_tokens: 96}}}}
  - {{kind: filter, duplicates: true}}
  - {{kind: judge, model: policy}}
views:
  - {{kind: preference, pairs: revision_vs_initial}}
  - {{kind: sft}}
"""
REPEATS = 3


class Measured(msgspec.Struct):
    samples: int
    calls: int
    seconds: float
    replay_seconds: float
    peak_mib: float


def measure(samples: int) -> Measured:
    """One run and one replay in this process."""
    folder = Path(tempfile.mkdtemp(prefix="factory-overhead-"))
    try:
        source = folder / "prompts.jsonl"
        with source.open("w") as file:
            for i in range(samples):
                file.write(
                    json.dumps({"id": f"p{i}", "prompt": f"Question {i}: why is it so?"}) + "\n"
                )
        (folder / "recipe.yaml").write_text(RECIPE.format(source=source))
        recipe = load(folder / "recipe.yaml")
        engines = {"policy": InstantEngine()}
        quiet = Progress(is_quiet=True)
        began = time.perf_counter()
        manifest = in_loop(run_async(recipe, folder / "run", engines=engines, progress=quiet))
        seconds = time.perf_counter() - began
        peak = _peak_mib()
        calls = sum(s.made for s in manifest.stages.values())
        # The same calls again, from the ledger: forget the parts, keep the ledger.
        (folder / "run" / "manifest.json").unlink()
        began = time.perf_counter()
        again = in_loop(run_async(recipe, folder / "run", engines=engines, progress=quiet))
        replay = time.perf_counter() - began
        assert sum(s.made for s in again.stages.values()) == 0
        return Measured(samples, calls, seconds, replay, peak)
    finally:
        shutil.rmtree(folder)


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def in_own_process(samples: int) -> Measured:
    command = [sys.executable, "-m", "benchmarks.overhead", str(samples)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return msgspec.json.decode(printed.splitlines()[-1], type=Measured)


def main() -> None:
    if len(sys.argv) > 1:
        print(msgspec.json.encode(measure(int(sys.argv[1]))).decode())
        return
    small = [in_own_process(2_000) for _ in range(REPEATS)]
    large = [in_own_process(20_000) for _ in range(REPEATS)]
    print(f"{'samples':>8} {'calls':>8} {'samples/s':>10} {'replay calls/s':>15} {'peak MiB':>9}")
    for m in [*small, *large]:
        print(
            f"{m.samples:>8} {m.calls:>8} {m.samples / m.seconds:>10.0f} "
            f"{m.calls / m.replay_seconds:>15.0f} {m.peak_mib:>9.0f}"
        )
    middle = sorted(large, key=lambda m: m.seconds)[REPEATS // 2]
    growth = (
        sorted(m.peak_mib for m in large)[REPEATS // 2]
        - sorted(m.peak_mib for m in small)[REPEATS // 2]
    )
    print(f"median of 20,000: {middle.samples / middle.seconds:.0f} samples/s; ", end="")
    print(f"replay {middle.calls / middle.replay_seconds:.0f} calls/s; memory {growth:+.0f} MiB")


if __name__ == "__main__":
    main()
