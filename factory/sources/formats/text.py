"""Readers of JSON lines, JSON lists, CSV and TSV, compressed or not. Text stays text.

A number keeps all its digits: whole numbers of any size, and decimals that a float cannot hold
(`Decimal`). Nothing is read as a date or a missing value: a cell is its text, an absent one the empty
text. If an object repeats a key, the last value counts. Memory is flat, but a JSON list is read whole.
"""

from __future__ import annotations

import ast
import codecs
import csv
import gzip
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import IO, Any

import msgspec

from factory.core.errors import SourceError
from factory.sources.formats.base import PEEK_ROWS, Row, kind_of, readable

MAX_LINE = 16 * 2**20
"""Most bytes of a line. A longer one means missing newlines or a quote that is not closed."""
MAX_LIST = 2**30
"""Most bytes of a JSON list, which must fit in memory together with its rows."""
MAX_DEPTH = 100
"""Deepest nesting of lists and objects."""
MAX_DIGITS = 1000
"""Most digits of a number. Python itself accepts at most 4,300."""
MAX_RATIO, RATIO_FROM = 200, 2**25
"""Most growth of a compressed file beyond so many bytes, as a ratio. Real text grows less."""

_DELIMITERS = (",", ";", "\t", "|")


class JsonLines:
    """A file with one JSON object per line. Blank lines are skipped."""

    has_schema = False
    version = ""

    def __init__(self, path: Path) -> None:
        self.files = [path]
        _refuse_utf16(path)
        first = islice(self.rows(), PEEK_ROWS)
        self.columns = list(dict.fromkeys(name for row in first for name in row.fields))

    def count(self, limit: int | None) -> int:
        return sum(1 for _ in islice(self.records(), limit))

    def rows(self, start: int = 0, columns: list[str] | None = None) -> Iterator[Row]:
        for line, raw in islice(self.records(), start, None):
            yield _json_row(line, raw)

    def records(self) -> Iterator[tuple[int | None, bytes]]:
        """(line, text) of each row; the rows of a list have no line."""
        return ((number, line) for number, line in _lines(self.files[0]) if line.strip())


class Json(JsonLines):
    """A JSON list of objects, or JSON lines in a file named `.json`, which is common."""

    def records(self) -> Iterator[tuple[int | None, bytes]]:
        path = self.files[0]
        if not _begins_list(path):
            return super().records()
        with readable(path), _open(path) as stream:
            data = stream.read(MAX_LIST + 1)
        if len(data) > MAX_LIST:
            raise SourceError(
                f"{path}: a JSON list of more than {MAX_LIST // 2**30} GiB, which is read whole; "
                f"convert it to lines: jq -c '.[]' {path.name} > {path.stem}.jsonl"
            )
        try:
            rows = msgspec.json.decode(data.removeprefix(codecs.BOM_UTF8), type=list[msgspec.Raw])
        except (ValueError, RecursionError) as error:
            raise SourceError(
                f"{path}: not a JSON list: {error}; write it again, or one object per line"
            ) from error
        return ((None, bytes(row)) for row in rows)


class Delimited:
    """A CSV or TSV file. The first row names the columns; quoted cells may hold newlines.

    Cells are separated by `delimiter`, or by another usual one that gives the first row more cells.
    Strict: a stray quote, or more or fewer cells than columns, is an error of that row.
    """

    has_schema = True
    version = ""

    def __init__(self, path: Path, delimiter: str) -> None:
        self.files = [path]
        self._delimiter = delimiter
        _refuse_utf16(path)
        self._delimiter = _likeliest(delimiter, next(_lines(path), (1, b""))[1])
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
        csv.field_size_limit(MAX_LINE)  # a setting of the process; nothing else changes it
        pending: list[bytes] = []

        def feed() -> Iterator[str]:
            for _, line in _lines(self.files[0]):
                pending.append(line)
                # A line that is too long is not parsed; `_text_error` reports it.
                yield line.decode("utf-8", "surrogateescape") if len(line) < MAX_LINE else "\n"

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


def split_cell(text: str) -> list[str]:
    """The entries of a cell that holds a list, separated by commas or semicolons.

    >>> split_cell("safety, advice"), split_cell("a;b"), split_cell("plain words"), split_cell("")
    (['safety', 'advice'], ['a', 'b'], ['plain words'], [])

    Lists as written by JSON or Python are read too:

    >>> split_cell('["safety", "a, b"]'), split_cell("['safety', 'advice']")
    (['safety', 'a, b'], ['safety', 'advice'])
    """
    if text.startswith("[") and text.endswith("]") and len(text) < 10_000:
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            found = None
        if isinstance(found, list) and all(isinstance(entry, str) for entry in found):
            return found
    mark = next((mark for mark in ",;|" if mark in text), ",")
    return [entry.strip() for entry in text.split(mark) if entry.strip()]


def _number(text: str) -> float | Decimal:
    """A JSON number with a point or an exponent."""
    value = float(text)
    is_lost = value == 0 and any(digit in "123456789" for digit in re.split("[eE]", text)[0])
    if not math.isfinite(value) or is_lost or len(text) > MAX_DIGITS:
        raise ValueError("a number out of range; put it in quotes to keep it as text")
    if len(text) < 16 or (exact := Decimal(text)) == Decimal(repr(value)):
        return value
    return exact


_decode = msgspec.json.Decoder(float_hook=_number).decode


def _json_row(line: int | None, raw: bytes) -> Row:
    try:
        fields = _decode(raw)
        if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _is_deep(fields):
            raise ValueError(f"lists and objects more than {MAX_DEPTH} deep")
    except (ValueError, RecursionError) as error:
        return Row(line, {}, _text_error(raw) or f"not JSON: {error}", raw)
    if not isinstance(fields, dict):
        return Row(line, {}, f"JSON, but {kind_of(fields)} and not an object", raw)
    return Row(line, fields, None, raw)


def _is_deep(value: object) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _likeliest(delimiter: str, header: bytes) -> str:
    """The delimiter that gives the first line the most cells. The given one wins a tie."""
    text = header.decode("utf-8", "replace")

    def cells(mark: str) -> int:
        return len(re.sub(r'"[^"]*"', "", text).split(mark))

    return max((delimiter, *_DELIMITERS), key=cells)


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    return path.open("rb")


def _begins_list(path: Path) -> bool:
    with readable(path), _open(path) as stream:
        return stream.read(2**16).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["


def _refuse_utf16(path: Path) -> None:
    """Raise `SourceError` for UTF-16: its byte order mark, or the NUL in every Latin character."""
    with readable(path), _open(path) as stream:
        head = stream.read(64)
    low, high = head[::2], head[1::2]
    is_wide = len(head) > 8 and (0 in low) != (0 in high) and 4 * head.count(0) > len(head)
    if is_wide or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise SourceError(
            f"{path}: UTF-16 and not UTF-8; write it again: "
            f"iconv -f UTF-16 -t UTF-8 {path.name} > utf8-{path.name}"
        )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line), without the BOM. A line longer than `MAX_LINE` is cut there."""
    with readable(path), _open(path) as stream:
        is_packed = isinstance(stream, gzip.GzipFile)
        allowed = max(RATIO_FROM, MAX_RATIO * path.stat().st_size) if is_packed else None
        number = read = 0
        while line := stream.readline(MAX_LINE):
            number += 1
            yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            read += len(line)
            while len(line) == MAX_LINE and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE)
                read += len(line)
                if allowed is not None and read > allowed:
                    break
            if allowed is not None and read > allowed:
                raise SourceError(
                    f"{path}: unpacks to more than {MAX_RATIO} times its size, unlike any real "
                    "text; if it is intended, unpack it and name the unpacked file"
                )


def _text_error(raw: bytes) -> str | None:
    """An error in a row's bytes, before they are parsed. None: no error."""
    if len(raw) >= MAX_LINE:
        return f"{MAX_LINE // 2**20} MiB or longer: newlines are missing, or a quote is not closed"
    if (offset := raw.find(b"\0")) >= 0:
        return f"a NUL byte at byte offset {offset} of the row"
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte 0x{raw[error.start]:02x} at byte offset {error.start} of the row"
    return None
