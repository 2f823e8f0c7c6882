"""How long a command takes before it does anything.

    python -m benchmarks.startup

The median of ten starts of `factory --help`, `factory status` and `factory validate`, whole processes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = (["--help"], ["status", "--help"], ["validate", "pipelines/quickstart.yaml"])
STARTS = 10


def main() -> None:
    for arguments in COMMANDS:
        seconds = []
        for _ in range(STARTS + 1):  # the first compiles the sources
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "factory", *arguments], capture_output=True, check=True
            )
            seconds.append(time.perf_counter() - began)
        median, slowest = statistics.median(seconds[1:]), max(seconds[1:])
        print(f"factory {' '.join(arguments):<40} {median:.2f} s, slowest {slowest:.2f} s")


if __name__ == "__main__":
    main()
