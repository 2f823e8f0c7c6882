"""What is written stays written, whatever becomes of the machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """Forces a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, value: Any) -> None:
    """`value` as indented JSON in the file `path`: all of it, or what was there before."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sync(half)
    half.replace(path)
    sync(path.parent)


def replace(half: Path, path: Path) -> None:
    """Rename a finished temporary file into place, durably."""
    sync(half)
    half.replace(path)
    sync(path.parent)
