"""Durable writes of files: they survive a kill and a power cut."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all: else the old file stays."""
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
