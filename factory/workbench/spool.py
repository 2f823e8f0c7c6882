"""Samples in a temporary file, which the system removes with the process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import msgspec

from factory.core.records import Sample

_LENGTH = 4  # bytes


class Spool:
    """Keeps samples in the order added. A context manager."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `__exit__`)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Sample).decode

    def add(self, sample: Sample) -> None:
        encoded = self._encode(sample)
        self._file.write(len(encoded).to_bytes(_LENGTH, "big"))
        self._file.write(encoded)

    def samples(self) -> Iterator[Sample]:
        """All samples. Read them to their end before they are read again, or others are added."""
        self._file.seek(0)
        while length := self._file.read(_LENGTH):
            yield self._decode(self._file.read(int.from_bytes(length, "big")))

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
