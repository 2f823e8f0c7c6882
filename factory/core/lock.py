"""A folder that one process works in at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from factory.core.errors import FactoryError

LOCK = ".lock"


class Held:
    """A folder while this process holds it."""

    def __init__(self, out: Path, lock: IO[str]) -> None:
        self._out = out
        self._lock = lock

    def check(self) -> None:
        """Raises `FactoryError` if the folder was deleted, or another took its place, meanwhile."""
        if not _is_at(self._lock, self._out / LOCK):
            raise FactoryError(
                f"{self._out} was deleted, moved or replaced while this process worked in it: "
                "what it held is not all there; run again"
            )


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[Held]:
    """Hold the folder, made if need be. However the process ends, the folder is free again.

    Raises `FactoryError` if another process holds it, or it cannot be written.
    """
    with _opened(out) as lock:
        yield Held(out, lock)


def _opened(out: Path) -> IO[str]:
    while True:
        try:
            out.mkdir(parents=True, exist_ok=True)
            lock = (out / LOCK).open("a")
        except OSError as error:
            raise FactoryError(
                f"cannot write in {out} ({error}); free some space, mend the folder, or choose "
                "another --out"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise FactoryError(
                f"another factory process is working in {out}; wait for it, stop it, or choose "
                "another --out"
            ) from None
        except OSError as error:
            lock.close()
            raise FactoryError(
                f"cannot lock {out / LOCK} ({error}); choose an --out on a file system with locks"
            ) from error
        if _is_at(lock, out / LOCK):
            return lock
        lock.close()  # who held it before us has deleted it: what is locked must be what is there


def _is_at(lock: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """For the moment in which a file is made that several processes may use: one of them at a time.
    Leaves nothing behind. Where folders cannot be locked, as on some network file systems, nothing
    is."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def is_held(out: Path) -> bool:
    """Another process holds the folder now. Makes nothing."""
    try:
        lock = (out / LOCK).open()
    except OSError:
        return False
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False


def refuse_if_held(out: Path) -> None:
    """`alone_in`'s error if another process holds the folder now. Makes nothing."""
    if (out / LOCK).exists():
        with alone_in(out):
            pass
