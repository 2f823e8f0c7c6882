"""How fast a diff goes through what an edit does not touch, with an engine that answers at once.

    python -m benchmarks.diff

One of twelve principles is edited. For runs of 200 and 2,000 samples of 10 calls: the samples that drew
the principle; the samples and calls that were asked again; the calls a second that the ledger answers
when nothing is left to ask, in the fastest of five diffs; and the time of the whole command with
--dry-run, the best of three. CPU times tell a busy machine.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.instant import InstantEngine
from benchmarks.overhead import RECIPE
from factory.engines import build
from factory.pipeline.progress import Progress
from factory.pipeline.run import in_loop, run_async
from factory.pipeline.traces import read_samples
from factory.recipe.load import load
from factory.workbench import rerun, sides

PRINCIPLE = 3
QUIET = Progress(is_quiet=True)


def measure(folder: Path, samples: int) -> None:
    source = folder / "prompts.jsonl"
    rows = ({"id": f"p{i}", "prompt": f"Question {i}: why is it so?"} for i in range(samples))
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE.format(source=source))
    recipe = load(folder / "recipe.yaml")
    engine = InstantEngine()  # its answers are remembered as those of the recipe's model
    real = build(recipe.models, recipe.folder, None, recipe.judges())["policy"]
    engine.fingerprint = real.fingerprint
    run, engines = folder / "run", {"policy": engine}
    in_loop(run_async(recipe, run, engines=engines, progress=QUIET))
    data = yaml.safe_load((run / "constitution.yaml").read_text())
    edited = data["principles"][PRINCIPLE]
    edited["critique"] += " Name each place."
    (folder / "edited.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    drew = sum(
        any(edited["id"] in critique.principle_ids for critique in sample.critiques)
        for sample in read_samples(run)
    )
    both = sides.by_constitution(run, None, folder / "edited.yaml")
    command: list[object] = [
        "constitution",
        "diff",
        folder / "edited.yaml",
        "--run",
        run,
        "--dry-run",
    ]
    wall, cpu_of_dry = min(_seconds(command) for _ in range(3))
    first = rerun.diff(run, both, engines=engines, progress=QUIET).costs[1]
    again = []
    for _ in range(5):
        began = time.process_time()
        cost = rerun.diff(run, both, engines=engines, progress=QUIET).costs[1]
        again.append((cost.remembered / cost.seconds, time.process_time() - began, cost.made))
    fastest, cpu, made = max(again)
    print(
        f"{samples:,} samples, {drew:,} drew the principle: {first.asked:,} asked again, {first.made:,} "
        f"calls made; then {made} made and {fastest:,.0f} a second answered ({cpu:.1f} s of CPU for the "
        f"whole diff); --dry-run {wall:.1f} s ({cpu_of_dry:.1f} s of CPU)"
    )


def _seconds(command: list[object]) -> tuple[float, float]:
    """Seconds of a whole process, and of its CPU time."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    words = [sys.executable, "-m", "factory", *map(str, command)]
    subprocess.run(words, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    return time.perf_counter() - began, after - before


def main() -> None:
    for samples in (200, 2_000):
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), samples)


if __name__ == "__main__":
    main()
