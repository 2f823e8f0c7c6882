"""Runs a recipe with the fake engine, to be killed from outside: RECIPE OUT SLOWNESS.

This process imports what is slow once. For each line that it reads it forks a run, which says
`loaded PID` when its recipe is, and whose exit status it prints when it ends. A run has a process
group of its own and appends the ledger key of every call that completes to OUT.calls.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from pathlib import Path

import datasets  # noqa: F401
import pyarrow.parquet  # noqa: F401
import uvloop  # noqa: F401

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
        self._log.write(f"{call_key('fake', request).hex()}\n")
        return completion


def run(recipe: str, out: str, slowness: str) -> None:
    engine = LoggingEngine(Path(f"{out}.calls"), float(slowness))
    loaded = load(Path(recipe))
    print("loaded", os.getpid(), flush=True)
    quiet = Progress(is_quiet=True)
    asyncio.run(run_async(loaded, Path(out), engines={"policy": engine}, progress=quiet))


def main(*arguments: str) -> None:
    for _ in sys.stdin:
        if (child := os.fork()) == 0:
            os.setsid()
            status = 1
            try:
                run(*arguments)
                status = 0
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
