"""What a reader of rows is, and what all of them share."""

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


class Row(msgspec.Struct):
    """One row as it was read."""

    line: int | None
    """Where it starts, from 1 (text formats)."""
    fields: dict[str, Any]
    """Empty where `error` is set."""
    error: str | None = None
    raw: bytes | None = None
    """The row's bytes (text formats)."""
    unread: dict[str, str] = {}
    """Columns that are not in `fields` because their value here is damaged, and how."""


class Reader(Protocol):
    """One source. It is opened, and found readable, when the reader is made."""

    columns: list[str]
    """Names of the columns; without a schema, of the fields seen in the first `PEEK_ROWS` rows."""
    has_schema: bool
    files: list[Path]
    """The local files the rows come from."""
    version: str
    """What identifies rows that are in no local file: the Hub's commit."""

    def count(self, limit: int | None) -> int | None:
        """Rows there are, counted no further than `limit`; None: only reading them would tell."""
        ...

    def rows(self, start: int, columns: list[str]) -> Iterator[Row]:
        """Rows from the `start`-th, with at least those `columns` that there are."""
        ...


@contextmanager
def readable(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Failures of the file itself, rather than of a row, are the user's to mend."""
    expected: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, *kinds)
    try:
        yield
    except expected as error:
        remedy = "it may be cut short or of another format: write or copy it again"
        if reason := getattr(error, "strerror", None):  # the system's, not a decoder's
            remedy = "check that it is there and that you may read it"
        raise SourceError(f"{path}: cannot be read: {reason or error}; {remedy}") from error


def refuse_special(path: Path) -> None:
    """Raise `SourceError` unless it is a file or a folder: a pipe or a device would be waited for,
    or read without end."""
    with readable(path, ValueError):
        mode = path.stat().st_mode
    for is_one, name in _SPECIAL:
        if is_one(mode):
            raise SourceError(f"{path}: {name} and not a file; write what it gives to a file")


_SPECIAL = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def text_of(value: object) -> str | None:
    """A single value as text: what a date, a decimal or a number writes. None: it is a list, an
    object, null, or bytes that are no text.

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
    """A value's type in JSON's words."""
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
