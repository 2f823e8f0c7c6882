"""How large the ledger's write-ahead log grows in a long run, and how fast calls are looked up.

    python -m benchmarks.ledger_log [--samples 200000] [--folder DIR]

Two answers and a judge's two readings for each generated prompt, from an engine that answers at
once. The log is looked at every 20 ms. Then the run again, all from the ledger, and the look-ups
alone: all keys in random order, 64 at a time.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.instant import InstantEngine
from factory.pipeline.ledger import Ledger
from factory.pipeline.progress import Progress
from factory.pipeline.run import in_loop, run_async
from factory.recipe.load import load

RECIPE: dict[str, Any] = {
    "name": "ledger-log",
    "source": {"path": "prompts.jsonl"},
    "models": {"policy": {"model": "smollm2-135m-instruct"}},
    "stages": [
        {"kind": "generate", "model": "policy", "n": 2},
        {"kind": "judge", "model": "policy", "pairs": "all_pairs"},
    ],
    "views": [],
}
_LOOKED_UP = 64  # calls in one look-up


class Watch(threading.Thread):
    """Notes the largest size of a file, in bytes."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._done = threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self._done.wait(0.02):
            if self._path.exists():
                self.peak = max(self.peak, self._path.stat().st_size)

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()


def measure(samples: int, folder: Path) -> None:
    with (folder / "prompts.jsonl").open("w") as file:
        for i in range(samples):
            file.write(json.dumps({"id": f"p{i}", "prompt": f"Question {i}: why?"}) + "\n")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    recipe = load(folder / "recipe.yaml", [])
    out = folder / "run"
    ledger = out / "ledger.sqlite"
    engines, quiet = {"policy": InstantEngine()}, Progress(is_quiet=True)
    began = time.perf_counter()
    with Watch(out / "ledger.sqlite-wal") as log:
        in_loop(run_async(recipe, out, engines=engines, progress=quiet))
    took = time.perf_counter() - began
    print(f"{samples:,} samples in {took:.0f} s, {samples / took:.0f} a second")
    print(f"peak of the write-ahead log: {log.peak / 2**20:.1f} MiB")
    print(f"ledger: {ledger.stat().st_size / 2**20:.1f} MiB")
    (out / "manifest.json").unlink()
    began = time.perf_counter()
    again = in_loop(run_async(recipe, out, engines=engines, progress=quiet))
    took = time.perf_counter() - began
    calls = sum(stage.remembered for stage in again.stages.values())
    print(f"the run again, from the ledger: {calls / took:,.0f} calls/s")
    looked_up(ledger)


def looked_up(path: Path) -> None:
    with sqlite3.connect(path) as database:
        keys = [key for (key,) in database.execute("SELECT key FROM calls")]
    random.Random(1).shuffle(keys)
    with Ledger(path) as ledger:
        best = 0.0
        for _ in range(3):
            began = time.perf_counter()
            for i in range(0, len(keys), _LOOKED_UP):
                ledger.get_many(keys[i : i + _LOOKED_UP])
            best = max(best, len(keys) / (time.perf_counter() - began))
    print(f"look-ups: {best:,.0f} calls/s, the best of three times through {len(keys):,} keys")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; left empty after")
    options = parser.parse_args()
    base = options.folder or Path(tempfile.gettempdir())
    work = Path(tempfile.mkdtemp(prefix="factory-log-", dir=base))
    try:
        measure(options.samples, work)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
