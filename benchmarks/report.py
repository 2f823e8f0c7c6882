"""What the report of a run costs, and pictures of it.

    python -m benchmarks.report [SAMPLES] [--pictures DIR] [--keep DIR]

Makes a run of 10,000 samples (answers of `benchmarks.spoken`, no model), writes its page, and prints
seconds and bytes. `--pictures`: takes the pictures of docs/ with a headless Chromium. `--keep`: makes the
run there, and leaves it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.spoken import SpokenEngine
from factory.pipeline.progress import Progress
from factory.pipeline.run import in_loop, run_async
from factory.recipe.load import load
from factory.report.page import NAME
from factory.report.report import write_report

ROOT = Path(__file__).parents[1]
RECIPE: dict[str, Any] = {
    "name": "concise-answers",
    "seed": 7,
    "source": {"path": "prompts.jsonl"},
    "constitution": str(ROOT / "constitutions" / "helpful-honest-harmless.yaml"),
    "models": {"policy": {"model": "smollm2-135m-instruct", "max_model_len": 2048}},
    "stages": [
        {"kind": "generate", "model": "policy", "n": 2, "sampling": {"max_tokens": 96}},
        {"kind": "critique", "model": "policy", "sampling": {"max_tokens": 48}},
        {"kind": "revise", "model": "policy", "sampling": {"max_tokens": 96}},
        {"kind": "filter", "duplicates": True, "refusals": True},
        {"kind": "judge", "model": "policy", "principles": 2},
        {"kind": "rule", "name": "three-sentences", "rule": {"kind": "sentences", "maximum": 3}},
    ],
    "views": [{"kind": "preference", "min_margin": 0.1}, {"kind": "sft"}],
}


def make(folder: Path, samples: int) -> Path:
    """A run of so many samples in `folder`; every 400th row is no prompt."""
    prompts = ROOT / "pipelines" / "prompts" / "everyday.jsonl"
    asked = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "prompts.jsonl").open("w", encoding="utf-8") as file:
        for i in range(samples):
            row = {**asked[i % len(asked)], "id": f"{asked[i % len(asked)]['id']}-{i:05d}"}
            file.write(json.dumps({"id": row["id"]} if i % 400 == 399 else row) + "\n")
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE))
    out, quiet = folder / "run", Progress(is_quiet=True)
    recipe = load(folder / "recipe.yaml")
    in_loop(run_async(recipe, out, engines={"policy": SpokenEngine()}, progress=quiet))
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", nargs="?", type=int, default=10_000)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="factory-report-") as temporary:
        folder = asked.keep or Path(temporary)
        began = time.perf_counter()
        run = make(folder, asked.samples)
        made = time.perf_counter()
        page = write_report([(run, load(run / "recipe.yaml"))], run / NAME)
        written = time.perf_counter()
        print(f"{asked.samples:,} samples: the run {made - began:.1f} s, ", end="")
        print(f"its page {written - made:.1f} s, {page.stat().st_size / 2**20:.1f} MiB")
        if asked.pictures:
            from benchmarks.pictures import take

            for picture in take(page, asked.pictures):
                print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
