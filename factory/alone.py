"""A folder that one process works in at a time."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from factory.errors import FactoryError

LOCK = ".lock"


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Hold the folder, made if need be. However the process ends, the folder is free again.

    Raises `FactoryError` if another process holds it, or it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK).open("a")
    except OSError as error:
        raise FactoryError(f"cannot write in {out} ({error}); choose another --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FactoryError(
                f"another factory process is working in {out}; wait for it, stop it, or choose "
                "another --out"
            ) from None
        yield


def refuse_if_held(out: Path) -> None:
    """`alone_in`'s error if another process holds the folder now. Makes nothing."""
    if (out / LOCK).exists():
        with alone_in(out):
            pass
