"""What a reader of rows is, and what all of them share."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from factory.errors import SourceError

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


def kind_of(value: object) -> str:
    """A value's type in JSON's words."""
    return _KINDS.get(type(value), f"a {type(value).__name__}")


_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}
