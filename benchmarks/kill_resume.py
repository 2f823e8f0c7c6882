"""`kill -9` of the whole process group at random moments of one real run, resumed each time.

    python -m benchmarks.kill_resume [--kills 5] [--samples 10]

vLLM in float32, one sequence at a time and without prefix cache, so that a completion does not depend
on what came before or beside it.
Then the traces and datasets are compared, byte for byte, with those of a run that was left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from factory.pipeline import manifest as manifests

ROOT = Path(__file__).parents[1]
OPTIONS = {
    "models.policy.dtype": "float32",
    "models.policy.max_num_seqs": "1",
    # What is in the prefix cache changes the last bits of a probability.
    "models.policy.engine_args.enable_prefix_caching": "false",
    "stages.0.sampling.max_tokens": "24",
    "stages.1.sampling.max_tokens": "16",
    "stages.2.sampling.max_tokens": "24",
    "part_size": "4",
}


def start(out: Path, samples: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "factory", "run", "pipelines/quickstart.yaml"]
    command += ["--out", str(out), "--limit", str(samples)]
    for field, value in OPTIONS.items():
        command += ["--set", f"{field}={value}"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, start_new_session=True)


def contents(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.blake2b(path.read_bytes()).hexdigest()
        for folder in ("traces", "datasets")
        for path in sorted((out / folder).rglob("*"))
        if path.is_file()
    }


def calls_in(out: Path) -> int:
    """Committed calls, read from outside while the run goes on."""
    try:
        with sqlite3.connect(f"file:{out / 'ledger.sqlite'}?mode=ro", uri=True) as ledger:
            count: int = ledger.execute("SELECT count(*) FROM calls").fetchone()[0]
            return count
    except sqlite3.Error:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--samples", type=int, default=10)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="factory-kill-"))
    began = time.monotonic()
    assert start(folder / "whole", given.samples).wait() == 0
    seconds = time.monotonic() - began
    total = calls_in(folder / "whole")
    print(f"left alone: {total} calls in {seconds:.0f} s", flush=True)
    rng = random.Random(int(time.time()))
    out = folder / "run"
    for kill in range(given.kills):
        process = start(out, given.samples)
        # A moment while calls are made: when the ledger has grown by a random number of them.
        before = calls_in(out)
        target = before + rng.randint(1, max(2, (total - before) // 3))
        while process.poll() is None and calls_in(out) < target:
            time.sleep(0.2)
        ended = process.poll() is not None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        state = "had ended" if ended else "killed"
        print(f"kill {kill + 1}: {state}, {calls_in(out)} calls remembered", flush=True)
    remembered = calls_in(out)
    assert start(out, given.samples).wait() == 0
    manifest = manifests.read(out)
    assert manifest is not None
    same = contents(out) == contents(folder / "whole")
    print(f"resumed: {manifest.samples} samples, {manifest.quarantined} quarantined")
    print(f"calls in the ledger: {remembered} before, {calls_in(out)} now (left alone: {total})")
    print(f"traces and datasets byte-identical to the run left alone: {same}")
    if not same:
        print(f"compare {folder / 'whole'} with {out}")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
