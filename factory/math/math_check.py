r"""Equality of two formulas, by sympy in helper processes.

A model can write what algebra never finishes, and no thread can be stopped. So helper processes answer,
each under limits of the operating system on processor time (not by the clock: a busy machine gives the
answers of an idle one) and memory. One that dies of them leaves the answer "unknown", and another is
started.

A helper is this module run by itself (`python -m`): scripts need no `__main__` guard, notebooks
none either. It ends when this process does; a fork starts its own.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import weakref

from factory.core.errors import FactoryError

CPU_SECONDS = 2.0
"""Processor time for one comparison; nearly all take some milliseconds."""
MOST_HELPERS = 8
MEMORY_BYTES = 4 * 2**30
"""Address space of a helper."""


@functools.lru_cache(maxsize=4096)
def compare(answer: str, expected: str) -> bool | None:
    """True if two formulas, as read by `factory/math/formula.py`, are the same answer.

    None: comparing them took too long, or neither could be shown.
    """
    return _pool.ask(answer, expected)


class Pool:
    """Helper processes, started when they are needed, at most `size` at once; each may spend
    `seconds` of processor time on a question."""

    def __init__(self, size: int, seconds: float = CPU_SECONDS) -> None:
        self._seconds = seconds
        self._free = threading.Semaphore(size)
        self._lock = threading.Lock()
        self._idle: list[subprocess.Popen[str]] = []
        self._all: weakref.WeakSet[subprocess.Popen[str]] = weakref.WeakSet()

    def ask(self, answer: str, expected: str) -> bool | None:
        """None: unknown."""
        with self._free:
            with self._lock:
                helper = self._idle.pop() if self._idle else None
            if helper is None or helper.poll() is not None:
                helper = self._start()
            try:
                reply = _exchange(helper, json.dumps([answer, expected]))
            except BaseException:  # as Ctrl+C: its reply must not be taken for the next question's
                _end(helper)
                raise
            if not reply:
                _end(helper)
                return None
            with self._lock:
                self._idle.append(helper)
        verdict: bool | None = json.loads(reply)
        return verdict

    def close(self) -> None:
        with self._lock:
            self._idle.clear()
            helpers = [*self._all]
        for helper in helpers:
            _end(helper)

    def forget(self) -> None:
        """Close only the pipes, after a fork: the helpers belong to the parent process."""
        for helper in [*self._all]:
            _close(helper)
            helper.returncode = 0  # not ours to wait for

    def _start(self) -> subprocess.Popen[str]:
        helper = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", __name__, str(self._seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl+C is this process's matter
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
        )
        with self._lock:
            self._all.add(helper)
        assert helper.stdout is not None
        if helper.stdout.readline() != "ready\n":
            _end(helper)
            raise FactoryError(
                "a helper process for formulas did not start (its error is above); "
                "is sympy installed? pip install sympy"
            )
        return helper


def _exchange(helper: subprocess.Popen[str], question: str) -> str:
    """The reply; "": the helper died of the question."""
    assert helper.stdin is not None
    assert helper.stdout is not None
    try:
        helper.stdin.write(question + "\n")
        helper.stdin.flush()
        return helper.stdout.readline()
    except (BrokenPipeError, ValueError):
        return ""


def _end(helper: subprocess.Popen[str]) -> None:
    helper.kill()
    helper.wait()
    _close(helper)


def _close(helper: subprocess.Popen[str]) -> None:
    for stream in (helper.stdin, helper.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:  # what was still to be written has no reader
                continue


def _new_pool() -> Pool:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return Pool(min(cores, MOST_HELPERS))


def _in_fork() -> None:
    global _pool  # noqa: PLW0603
    _pool.forget()
    _pool = _new_pool()


def _at_exit() -> None:
    _pool.close()  # another one after a fork


_pool = _new_pool()
atexit.register(_at_exit)
os.register_at_fork(after_in_child=_in_fork)


# In a helper process -----------------------------------------------------------------------------


def _serve(seconds: float) -> None:
    """Answer questions, a line of JSON each, until there are no more."""
    import resource

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever algebra prints is no reply
    from factory.math import algebra

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        answer, expected = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # unhandled, its signal ends the process
        verdict = algebra.is_equal(answer, expected)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(verdict), file=replies, flush=True)


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
