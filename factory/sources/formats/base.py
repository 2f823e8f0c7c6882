"""The interface of a reader of rows, and functions that all readers share."""

from __future__ import annotations

import datetime
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import msgspec

from factory.core.errors import SourceError

PEEK_ROWS = 1000
RAW_CHARS = 2000
"""Most characters of a bad row that are kept."""


class Row(msgspec.Struct):
    """One row as read."""

    line: int | None
    """Line on which it starts, from 1 (text formats)."""
    fields: dict[str, Any]
    """Column -> value. Empty if `error` is set."""
    error: str | None = None
    raw: bytes | None = None
    """The row's bytes (text formats)."""
    unread: dict[str, str] = {}
    """Column -> damage, for columns that are not in `fields` because their value is damaged."""


class Reader(Protocol):
    """A reader of one source. Making it opens the source and checks that it is readable."""

    columns: list[str]
    """Names of the columns. Without a schema: of the fields in the first `PEEK_ROWS` rows."""
    has_schema: bool
    files: list[Path]
    """The local files the rows come from."""
    version: str
    """Identifies rows that are in no local file: the Hub's commit."""

    def count(self, limit: int | None) -> int | None:
        """Number of rows, counted up to `limit`. None: unknown before they are read."""
        ...

    def rows(self, start: int, columns: list[str]) -> Iterator[Row]:
        """Rows from the `start`-th, with at least those of `columns` that exist."""
        ...


@contextmanager
def readable(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of the file itself (not of a row) into a `SourceError` with a remedy."""
    expected: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, *kinds)
    try:
        yield
    except expected as error:
        remedy = "it may be cut short or of another format: write or copy it again"
        if reason := getattr(error, "strerror", None):  # an error of the system, not of a decoder
            remedy = "check that it exists and that you may read it"
        raise SourceError(f"{path}: cannot be read: {reason or error}; {remedy}") from error


def refuse_special(path: Path) -> None:
    """Raise `SourceError` unless it is a file or a folder: reading a pipe or a device may never end."""
    with readable(path, ValueError):
        mode = path.stat().st_mode
    for is_one, name in _SPECIAL:
        if is_one(mode):
            raise SourceError(f"{path}: {name} and not a file; write its contents to a file")


_SPECIAL = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def text_of(value: object) -> str | None:
    """A single value as text, such as a date, a decimal or a number. None: it is a list, an object,
    null, or bytes that are no text.

    >>> text_of("007"), text_of(Decimal("1.50")), text_of(datetime.date(2024, 1, 31)), text_of(True)
    ('007', '1.50', '2024-01-31', 'true')
    """
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float() | Decimal():
            return str(value)
        case datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return str(value)
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return None
    return None


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names of columns, for a message.

    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    shown = [name[:60] for name in names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def kind_of(value: object) -> str:
    """A value's type, by JSON's names."""
    return _KINDS.get(type(value), f"a {type(value).__name__}")


_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    Decimal: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}
