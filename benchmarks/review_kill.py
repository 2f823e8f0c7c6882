"""`kill -9` of `factory review` at random moments while a reviewer decides, started again each time.

    python -m benchmarks.review_kill [--decisions 1000] [--kills 50]

The command itself serves a run of made pairs, and a client decides one after the other. A kill comes
within 20 ms after a request was sent, so that it meets every part of taking a decision. At the end each
decision that was acknowledged must be in the file, and no pair may be decided otherwise or twice.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from factory.export.decisions import lines_in, newest, path_of, read_file
from tests.reviewing import asked, judged, made_run

ROOT = Path(__file__).parents[1]
CHOICES = ("left", "right", "tie", "both_bad")


def start(run: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "factory", "review", str(run), "--reviewer", "anna"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://\S+", line):
            return process, found[0]
    raise SystemExit(f"the review did not start: exit code {process.wait()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decisions", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    acknowledged: dict[str, str] = {}
    seconds: list[float] = []
    halves = 0
    with tempfile.TemporaryDirectory() as folder:
        pairs = [judged(i, chance.random()) for i in range(options.decisions)]
        run = made_run(Path(folder) / "run", pairs)
        when = sorted(chance.sample(range(1, options.decisions), options.kills))
        for goal in [*when, None]:
            process, address = start(run)
            is_due = goal is not None
            try:
                state = asked(address, "pair")[1]
                while state["pair"] is not None:
                    if is_due and goal is not None and len(acknowledged) >= goal:
                        threading.Timer(
                            chance.random() * 0.02, os.kill, (process.pid, signal.SIGKILL)
                        ).start()
                        is_due = False
                    pair, choice = state["pair"], chance.choice(CHOICES)
                    sent = time.perf_counter()
                    status, state, _ = asked(
                        address, "decide", {"pair": pair["pair"], "choice": choice}
                    )
                    assert status == 200, state
                    seconds.append(time.perf_counter() - sent)
                    acknowledged[pair["id"]] = choice
            except (OSError, http.client.HTTPException):
                process.wait()
                content = path_of(run, "anna").read_bytes()
                halves += lines_in(content)[1] != len(content)
        process.kill()
        process.wait()
        made = read_file(path_of(run, "anna"))
    kept = {}
    for key, decision in newest(made).items():
        label = decision.label
        side = "left" if label == decision.left else "right"
        kept[key[0]] = side if label in ("a", "b") else label
    lost = [name for name, choice in acknowledged.items() if kept.get(name) != choice]
    print(f"{len(acknowledged):,} decisions acknowledged, {options.kills} kills")
    print(f"  lost or changed: {len(lost)}")
    print(f"  on disk: {len(made):,} lines on {len(kept):,} pairs; unacknowledged: ", end="")
    print(len(kept.keys() - acknowledged.keys()))
    print(f"  half-written lines found after a kill: {halves}")
    print(f"  a decision takes {median(seconds) * 1000:.1f} ms (median), fsync included")
    if lost or len(made) != len(kept):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
