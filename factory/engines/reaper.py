"""A process that outlives this one just long enough to end what this one has started."""

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
    """A process that kills those when this one is gone, however it went: its standard input then
    ends. Left alone, vLLM's and a training go on with what they were given, and keep the memory."""
    command = [sys.executable, "-S", "-E", "-c", _REAPER, *map(str, pids)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
