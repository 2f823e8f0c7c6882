"""Serves a run's review, to be killed from outside: RUN.

For each line on its standard input it starts a process that serves, which prints its id and address.
Imports and the queue are made once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from factory.recipe.load import load
from factory.review import server
from factory.review.journal import opened
from factory.review.queue import Item, Wanted, in_queue, pairs_of
from factory.review.session import Session


def serve(run: Path, items: list[Item]) -> None:
    with server.bound(0) as listening, opened(run, "anna") as journal:
        session = Session(run, 10_000, items, journal, "anna", None)
        token = server.new_token()
        address = f"http://{server.HOST}:{listening.getsockname()[1]}/{token}/"
        print(os.getpid(), address, flush=True)
        server.serve(session, listening, token)


def main(run: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the killed ones leave nothing
    folder = Path(run)
    items = in_queue(pairs_of(folder, load(folder / "recipe.yaml", trains=False), Wanted()), 0.0)
    for _ in sys.stdin:
        if not os.fork():
            serve(folder, items)
            os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
