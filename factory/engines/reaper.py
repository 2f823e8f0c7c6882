"""The reaper: a helper process that ends our child processes after this process has died."""

from __future__ import annotations

import subprocess
import sys

_REAPER = """
import os, sys
sys.stdin.buffer.read()
for pid in sys.argv[1:]:
    try:
        os.kill(int(pid), 9)
    except ProcessLookupError:
        pass
"""


def start_reaper(pids: list[int]) -> subprocess.Popen[bytes]:
    """Start a process that kills `pids` when this process is gone, however it ended: its standard input
    then closes. Otherwise vLLM's processes and a training would continue and keep the memory."""
    command = [sys.executable, "-S", "-E", "-c", _REAPER, *map(str, pids)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
