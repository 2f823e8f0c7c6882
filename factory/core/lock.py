"""Locks on folders: one process works in a folder at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from factory.core.errors import FactoryError

LOCK = ".lock"
_A_MOMENT = 0.1  # seconds to wait for a holder that is ending, or a look at the lock


class Held:
    """A folder that this process has locked."""

    def __init__(self, out: Path, locked: os.stat_result) -> None:
        self._out = out
        self._locked = locked

    def check(self) -> None:
        """Raise `FactoryError` if the folder was deleted or replaced meanwhile."""
        try:
            is_there = os.path.samestat(self._locked, (self._out / LOCK).stat())
        except FileNotFoundError:
            is_there = False
        if not is_there:
            raise FactoryError(
                f"{self._out} was deleted, moved or replaced while this process worked in it, so "
                "files are missing; run again"
            )


@contextlib.contextmanager
def alone_in(out: Path, instead: str = "choose another --out") -> Iterator[Held]:
    """Lock the folder, which is made if needed. However the process ends, the lock is released.
    `instead`: the remedy besides waiting, for messages.

    Raises `FactoryError` if another process holds it, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    locked: list[os.stat_result] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(
            out / LOCK,
            timeout=_A_MOMENT,
            fallback_to_soft=False,
            on_acquired=lambda file: locked.append(os.fstat(file)),
        )
        holding = lock.acquire()
    except Timeout:
        raise FactoryError(
            f"another factory process is working in {out}; wait for it, stop it, or {instead}"
        ) from None
    except OSError as error:
        if error.filename is None:  # the file could be opened
            raise FactoryError(
                f"cannot lock {out / LOCK} ({error}); choose an --out on a file system with locks"
            ) from error
        raise FactoryError(
            f"cannot write in {out} ({error}); free some space, fix the folder, or {instead}"
        ) from error
    with holding:
        yield Held(out, locked[-1])


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


@contextlib.contextmanager
def undisturbed(out: Path) -> Iterator[None]:
    """Keep other processes from working in the folder while this one reads it. Creates nothing.

    Raises `FactoryError` if another process works in it. Does not lock where folders cannot be locked.
    """
    with contextlib.ExitStack() as opened:
        with contextlib.suppress(FileNotFoundError):  # a copy of a run may lack it
            lock = opened.enter_context((out / LOCK).open())
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FactoryError(
                    f"another factory process is working in {out}; wait for it, or stop it"
                ) from None
            except OSError:
                pass
        yield


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
