"""Are two formulas equal? Asked of math-verify in a process of its own.

A model can write what algebra never finishes (`9^{9^{9^9}}`), and math-verify's own time limit is an
alarm signal, which works in the main thread only and not within one long operation. So one helper
process answers, under limits of the operating system on processor time and memory; if it dies of
them, the answer is "unknown" and the next question starts another. It ends when this process does.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import resource
import subprocess
import sys
import threading
from typing import Any

from factory.errors import FactoryError

CPU_SECONDS = 5
"""Processor time for one comparison; nearly all take some milliseconds."""
MEMORY_BYTES = 4 * 2**30
"""Address space of the helper process."""

_lock = threading.Lock()
_helper: tuple[int, subprocess.Popen[str]] | None = None
"""The process that started it (a fork must not share it), and the helper."""


def compare(answer: str, expected: str) -> tuple[bool | None, str]:
    """(whether the formula or number that `answer` ends with equals `expected`, what was read).

    None: nothing could be read, or comparing took too long. Raises `ValueError` if nothing can be
    read of `expected`.
    """
    with _lock:
        reply = _ask(json.dumps([answer, expected]))
    if reply is None:
        return None, ""
    verdict, read, problem = json.loads(reply)
    if problem:
        raise ValueError(problem)
    return verdict, read


def _ask(question: str) -> str | None:
    """The helper's reply; None: it died of this question."""
    helper = _running()
    assert helper.stdin is not None
    assert helper.stdout is not None
    try:
        helper.stdin.write(question + "\n")
        helper.stdin.flush()
        reply = helper.stdout.readline()
    except BrokenPipeError:
        reply = ""
    except BaseException:  # as Ctrl+C: its reply must not be taken for the next question's
        _stop()
        raise
    if reply:
        return reply
    _stop()
    return None


def _running() -> subprocess.Popen[str]:
    global _helper  # noqa: PLW0603
    if _helper is None or _helper[0] != os.getpid() or _helper[1].poll() is not None:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl+C is this process's matter
        )
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            process.wait()
            raise FactoryError(
                "the helper process of math-verify did not start (its error is above); "
                "is math-verify installed? pip install math-verify"
            )
        _helper = os.getpid(), process
    return _helper[1]


@atexit.register
def _stop() -> None:
    global _helper  # noqa: PLW0603
    if _helper is not None and _helper[0] == os.getpid():
        process = _helper[1]
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
    _helper = None


# In the helper process ---------------------------------------------------------------------------


def _serve() -> None:
    """Answers questions, a line of JSON each, until there are no more."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever algebra prints is no reply
    import logging

    import math_verify  # noqa: F401

    logging.disable(logging.CRITICAL)  # it says at every start that we turned its time limits off
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        answer, expected = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + CPU_SECONDS)
        print(json.dumps(_compare(answer, expected)), file=replies, flush=True)


def _limit(which: int, most: int) -> None:
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _compare(answer: str, expected: str) -> tuple[bool | None, str, str]:
    from math_verify import verify

    gold = _gold(expected)
    if not gold:
        return None, "", f"math-verify reads no formula or number in the reference {expected!r}"
    found = _parse(answer)
    if not found:
        return None, "", ""
    texts = [item for item in found if isinstance(item, str)]
    read = texts[-1] if texts else answer.strip()
    try:
        is_equal = verify(gold, found, timeout_seconds=None, raise_on_error=True)
    except Exception:  # algebra fails in any way; then some other form of the two may be equal
        return verify(gold, found, timeout_seconds=None) or None, read, ""
    return is_equal or (False if _is_read(found) else None), read, ""


@functools.lru_cache(maxsize=64)
def _gold(expected: str) -> list[Any]:
    """The reference as formulas. LaTeX is read between dollars only, so a bare one is given them."""
    is_marked = any(mark in expected for mark in ("$", "\\boxed", "\\(", "\\["))
    found = [] if is_marked else _parse(f"${expected}$")
    return found if _is_read(found) else _parse(expected)


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    found: list[Any] = parse(text, parsing_timeout=None)
    return found


def _is_read(found: list[Any]) -> bool:
    """More than the bare text was made of it."""
    return any(not isinstance(item, str) for item in found)


if __name__ == "__main__":
    _serve()
