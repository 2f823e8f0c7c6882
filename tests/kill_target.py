"""Runs a recipe with the fake engine, to be killed from outside: RECIPE OUT SLOWNESS."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from factory.recipe import load
from factory.runner.progress import Progress
from factory.runner.run import run_async
from tests.fakes import FakeEngine


def main(recipe: str, out: str, slowness: str) -> None:
    engine = FakeEngine(slowness=float(slowness))
    loaded = load(Path(recipe))
    print("loaded", flush=True)
    quiet = Progress(is_quiet=True)
    asyncio.run(run_async(loaded, Path(out), engines={"policy": engine}, progress=quiet))
    print(f"made {len(engine.seen)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
