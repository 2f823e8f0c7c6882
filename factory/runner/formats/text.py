"""JSON lines, CSV and TSV, compressed or not: read line by line, memory flat."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from factory.errors import SourceError
from factory.runner.formats.base import PEEK_ROWS, Row, kind_of, readable

MAX_LINE = 16 * 2**20
"""Bytes. No prompt is that long: it is a file without newlines, or a quote never closed."""


class JsonLines:
    """One JSON object a line. A blank line is no row."""

    has_schema = False
    version = ""

    def __init__(self, path: Path) -> None:
        self.files = [path]
        first = islice(self.rows(), PEEK_ROWS)
        self.columns = list(dict.fromkeys(name for row in first for name in row.fields))

    def count(self, limit: int | None) -> int:
        return sum(1 for _ in islice(self._records(), limit))

    def rows(self, start: int = 0, columns: list[str] | None = None) -> Iterator[Row]:
        for line, raw in islice(self._records(), start, None):
            yield self._row(line, raw)

    def _records(self) -> Iterator[tuple[int, bytes]]:
        return ((number, line) for number, line in _lines(self.files[0]) if line.strip())

    def _row(self, line: int, raw: bytes) -> Row:
        try:
            fields = _decode(raw)
        except (ValueError, RecursionError) as error:
            return Row(line, {}, _text_error(raw) or f"not JSON: {error}", raw)
        if not isinstance(fields, dict):
            return Row(line, {}, f"JSON, but {kind_of(fields)} and not an object", raw)
        return Row(line, fields, None, raw)


class Delimited:
    """CSV or TSV: the first row names the columns, quoted cells may hold newlines.

    Strict: a stray quote, or a row with more or fewer cells than columns, is an error of that row.
    """

    has_schema = True
    version = ""

    def __init__(self, path: Path, delimiter: str) -> None:
        self.files = [path]
        self._delimiter = delimiter
        line, cells, error, raw = next(self._records(), (1, [], "the file is empty", b""))
        error = error or _text_error(raw)
        if error or not all(cell.strip() for cell in cells):
            found = error or "a column has no name"
            raise SourceError(f"{path}:{line}: {found}; the first line must name the columns")
        self.columns = [cell.strip() for cell in cells]

    def count(self, limit: int | None) -> int:
        return sum(1 for _ in islice(self._records(), 1, None if limit is None else limit + 1))

    def rows(self, start: int, columns: list[str]) -> Iterator[Row]:
        for line, cells, failure, raw in islice(self._records(), start + 1, None):
            error = _text_error(raw) or failure or self._count_error(len(cells))
            fields = {} if error else dict(zip(self.columns, cells, strict=True))
            yield Row(line, fields, error, raw)

    def _count_error(self, found: int) -> str | None:
        expected = len(self.columns)
        what = f"{found} {'cell' if found == 1 else 'cells'} where the header has {expected}"
        return None if found == expected else f"{what}; quote a cell that holds the delimiter"

    def _records(self) -> Iterator[tuple[int, list[str], str | None, bytes]]:
        """(line where it starts, cells, error, bytes) of each record, the header first."""
        csv.field_size_limit(MAX_LINE)  # the process's, but only ever set to this
        pending: list[bytes] = []

        def feed() -> Iterator[str]:
            for _, line in _lines(self.files[0]):
                pending.append(line)
                yield line.decode("utf-8", "surrogateescape")

        reader = csv.reader(feed(), delimiter=self._delimiter, strict=True)
        while True:
            line, cells, error = reader.line_num + 1, [], None
            pending.clear()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as failure:
                error = f"not {self._delimiter!r}-separated: {failure}"
            raw = b"".join(pending)
            if raw.strip(b" \r\n"):
                yield line, cells, error, raw


_decode = msgspec.json.Decoder().decode


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) without the BOM; a line beyond `MAX_LINE` is cut there."""
    compressed = path.suffix.lower() == ".gz"
    with readable(path), gzip.open(path) if compressed else path.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE):
            number += 1
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            while len(line) == MAX_LINE and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE)


def _text_error(raw: bytes) -> str | None:
    """What is wrong with a row's bytes before their format is looked at."""
    if len(raw) >= MAX_LINE:
        return f"{MAX_LINE // 2**20} MiB or longer: newlines are missing, or a quote is not closed"
    if (offset := raw.find(b"\0")) >= 0:
        return f"a NUL byte at byte offset {offset} of the row"
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte 0x{raw[error.start]:02x} at byte offset {error.start} of the row"
    return None
