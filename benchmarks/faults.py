"""A run and an export interrupted at every file operation: killed, EIO, ENOSPC; then run again.

    python -m benchmarks.faults [--every 1] [--writes 20] [--scenarios fresh edited ...]

What is done and what must hold is told in `tests/faults.py`. Prints the tries of each scenario by how
the command ended, and ends with 1 if anything went wrong. Needs a C compiler; half a second a try.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.faults import start


def main() -> None:
    # In memory where there is such a place: nothing here is about power cuts.
    parent = "/dev/shm" if Path("/dev/shm").is_dir() else None
    failed = 0
    with tempfile.TemporaryDirectory(prefix="factory-faults-", dir=parent) as name:
        for found in start(Path(name) / "work", *sys.argv[1:]):
            tries = sum(found["ends"].values())
            ends = ", ".join(f"{end} {n}" for end, n in sorted(found["ends"].items()))
            print(
                f"{found['scenario']:<11} {found['operations']} operations, {tries} tries: {ends}",
                flush=True,
            )
            for text in found["wrong"]:
                print(f"  WRONG {text}")
            failed += len(found["wrong"])
    print(f"{failed} of the tries went wrong")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
