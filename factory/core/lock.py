"""Locks on folders: one process works in a folder at a time."""

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
    """A folder that this process has locked."""

    def __init__(self, out: Path, lock: IO[str]) -> None:
        self._out = out
        self._lock = lock

    def check(self) -> None:
        """Raise `FactoryError` if the folder was deleted or replaced meanwhile."""
        if not _is_at(self._lock, self._out / LOCK):
            raise FactoryError(
                f"{self._out} was deleted, moved or replaced while this process worked in it, so "
                "files are missing; run again"
            )


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[Held]:
    """Lock the folder, which is made if needed. However the process ends, the lock is released.

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
                f"cannot write in {out} ({error}); free some space, fix the folder, or choose "
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
        lock.close()  # the last holder deleted this file: lock the one that is there now


def _is_at(lock: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Lock the folder for a moment, while a file is made that several processes may use. Leaves no
    file. Does not lock where folders cannot be locked, as on some network file systems."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def is_held(out: Path) -> bool:
    """True if another process holds the folder now. Creates nothing."""
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
    """Raise `alone_in`'s error if another process holds the folder now. Creates nothing."""
    if (out / LOCK).exists():
        with alone_in(out):
            pass
