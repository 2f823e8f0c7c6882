"""Durable writes of files: they survive a kill and a power cut."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole(path: Path, *, is_shared: bool = False) -> Iterator[Path]:
    """A file beside `path` to write to: at the end it is put in place, durably; if an exception
    ends the block, `path` stays as it was. `is_shared`: other processes may write `path` meanwhile.
    """
    half = path.with_name(f".{path.name}.{os.getpid()}" if is_shared else f"{path.name}.half")
    try:
        yield half
        replace(half, path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def file_hash(*paths: Path) -> str:
    """Hash (xxh3, 32 hex digits) of the files' bytes, one after the other."""
    import xxhash

    digest = xxhash.xxh3_128()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # updates it block by block
    return digest.hexdigest()


def write_whole(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all: else the old file stays."""
    with whole(path, is_shared=True) as half:
        half.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def replace(half: Path, path: Path) -> None:
    """Rename a finished temporary file into place, durably."""
    sync(half)
    half.replace(path)
    sync(path.parent)
