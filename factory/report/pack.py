"""The samples inside the page: blocks of them, compressed, and an index.

A block is JSON lines, gzipped, in base64: no text can end the element that holds it, and the page
unpacks only the blocks that it shows or searches. If all would be too large, blocks are thinned evenly:
every second is left out, then of the others every second again, until the rest fits.
"""

from __future__ import annotations

import base64
import gzip
from typing import NamedTuple

import msgspec

from factory.report.entries import Entry, Shown

_SAMPLES = 64
_BYTES = 1 << 19
"""A block is closed once it has so many samples or bytes."""

_encode = msgspec.json.Encoder().encode


class Packed(NamedTuple):
    """The samples of one run, for the page."""

    blocks: list[str]
    listing: str
    """Packed like a block; one line for each block: a list of its entries."""
    held: int
    """Samples in the blocks; fewer than `all` if they were thinned."""
    all: int


class Pack:
    """Takes samples and keeps those that fit into about `budget` bytes of base64, with their entries in
    the index. Memory does not grow with the number of samples."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._lines: list[bytes] = []
        self._entries: list[Entry] = []
        self._bytes = 0
        self._kept: list[tuple[str, list[Entry], int]] = []
        """Blocks with their entries and bytes."""
        self._size = 0
        self._blocks = 0
        self._stride = 1
        self._all = 0

    def add(self, shown: Shown, entry: Entry) -> None:
        line = _encode(shown)
        self._lines.append(line)
        self._entries.append(entry)
        self._bytes += len(line)
        self._all += 1
        if len(self._lines) == _SAMPLES or self._bytes >= _BYTES:
            self._close()

    def _close(self) -> None:
        lines, entries = self._lines, self._entries
        self._lines, self._entries, self._bytes = [], [], 0
        self._blocks += 1
        if not lines or (self._blocks - 1) % self._stride:
            return
        block = packed(b"\n".join(lines))
        size = len(block) + len(_encode(entries)) // 3  # the index is compressed too
        self._kept.append((block, entries, size))
        self._size += size
        while self._size > self._budget and self._kept:
            self._kept = self._kept[::2] if len(self._kept) > 1 else []
            self._stride *= 2
            self._size = sum(size for _, _, size in self._kept)

    def finish(self) -> Packed:
        self._close()
        index = b"\n".join(_encode(entries) for _, entries, _ in self._kept)
        held = sum(len(entries) for _, entries, _ in self._kept)
        return Packed([block for block, _, _ in self._kept], packed(index), held, self._all)


def packed(data: bytes) -> str:
    """The same data gives the same text."""
    return base64.b64encode(gzip.compress(data, compresslevel=6, mtime=0)).decode()
