"""Runs a recipe with the fake engine, to be killed from outside: RECIPE OUT SLOWNESS.

Appends the time and content of every call that completes to OUT.calls.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from factory.engines.base import Completion, Request
from factory.engines.call_key import call_key
from factory.pipeline.progress import Progress
from factory.pipeline.run import run_async
from factory.recipe.load import load
from tests.fakes import FakeEngine


class LoggingEngine(FakeEngine):
    """Writes down each call when it completes, at once."""

    def __init__(self, log: Path, slowness: float) -> None:
        super().__init__(slowness=slowness)
        self._log = log.open("a", buffering=1)

    async def generate(self, request: Request) -> Completion:
        completion = await super().generate(request)
        self._log.write(f"{time.monotonic()} {call_key('fake', request).hex()}\n")
        return completion


def main(recipe: str, out: str, slowness: str) -> None:
    engine = LoggingEngine(Path(f"{out}.calls"), float(slowness))
    loaded = load(Path(recipe))
    print("loaded", flush=True)
    quiet = Progress(is_quiet=True)
    asyncio.run(run_async(loaded, Path(out), engines={"policy": engine}, progress=quiet))
    print(f"made {len(engine.seen)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
