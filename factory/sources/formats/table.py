"""Local datasets with any columns: their rows as written, and types to write them with.

In: a file or folder that `open_local` reads. Out: plain rows, any number of times, in flat memory. Rows
that cannot be read are left out and counted by reason. A type is never guessed from a text: a column's
is the one that all its values share; if they share none, text (a list or an object as JSON).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from factory.core.errors import SourceError
from factory.sources.formats import open_local
from factory.sources.formats.base import text_of
from factory.sources.formats.text import Delimited, split_cell

if TYPE_CHECKING:
    from datasets import Features

MAX_FIELDS = 100
"""Most names of fields in an object's type. A column with more is JSON: they are keys, not names."""
MAX_LEVELS = 6
"""Deepest nesting of lists and objects in a type. A deeper column is JSON."""
_EXACT = 2**53
"""Largest whole number up to which every whole number is exact as a float."""

Type = str | tuple[str, Any]
"""A type: null, bool, int, wide (an int that no float holds), float, text; ("list", type) or
("object", {name: type})."""


class Table:
    """A local dataset. Raises `SourceError` if it cannot be read, or two columns have the same name."""

    def __init__(self, path: Path) -> None:
        self._reader = open_local(path)
        self._has_cells = isinstance(self._reader, Delimited)
        self.schema: Any = getattr(self._reader, "schema", None)
        """pyarrow's schema. None: the format has no types."""
        self.columns = list(dict.fromkeys(self._reader.columns))
        """Names in order of first appearance. Without a schema, all rows are read to find them."""
        if len(self.columns) < len(self._reader.columns):
            twice = next(c for c, n in Counter(self._reader.columns).items() if n > 1)
            raise SourceError(f"{path}: more than one column is named {twice!r}; rename one")
        self.left_out: Counter[str] = Counter()
        """Lines and rows that cannot be read, by reason."""
        self.first_bad = ""
        """The first of them: its place and the error."""
        self.count = 0
        columns = dict.fromkeys(self.columns)
        for place, row, error in self._all():
            if row is None:
                self.left_out[re.split(r"[:;]| at ", error)[0]] += 1
                self.first_bad = self.first_bad or f"{place}: {error}"
            else:
                self.count += 1
                columns |= dict.fromkeys(row)
        self.columns = list(columns)

    def placed(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Rows with their places, such as `rows.jsonl:12`."""
        return ((place, row) for place, row, _ in self._all() if row is not None)

    def _all(self) -> Iterator[tuple[str, dict[str, Any] | None, str]]:
        for index, row in enumerate(self._reader.rows(0, self.columns)):
            place = f"row {index}" if row.line is None else f"line {row.line}"
            error = row.error or next(iter(row.unread.values()), None)
            if error is not None:
                yield place, None, error
                continue
            if self._has_cells and "tags" in row.fields:
                row.fields["tags"] = split_cell(row.fields["tags"])
            yield place, row.fields, ""


# Types -------------------------------------------------------------------------------------------


def add_types(types: dict[str, Type], row: Mapping[str, Any]) -> None:
    for name, value in row.items():
        types[name] = _joined(types.get(name, "null"), _type(value))


def feature_of(kind: Type) -> Any:
    from datasets import List, Value

    if isinstance(kind, tuple):
        name, inner = kind
        if name == "list":
            return List(feature_of(inner))
        return {field: feature_of(inner[field]) for field in inner}
    return Value(_VALUES[kind])


def conformed(value: Any, kind: Type) -> Any:
    if value is None:
        return None
    if isinstance(kind, tuple):
        name, inner = kind
        if name == "list":
            return [conformed(entry, inner) for entry in value]
        return {field: conformed(value.get(field), inner[field]) for field in inner}
    if kind == "text":
        text = text_of(value)
        return json_of(value) if text is None else text
    return float(value) if kind == "float" else value


def json_of(value: Any) -> str:
    return _encode(value).decode("utf-8", "replace")


def features_of_schema(schema: Any) -> tuple[Features, list[str]]:
    """The features of an Arrow schema, and the columns that become text as `datasets` lacks their type."""
    import pyarrow as pa
    from datasets import Features, Value

    try:
        return Features.from_arrow_schema(schema), []
    except Exception:  # it may raise anything for an unknown type or foreign metadata
        features: dict[str, Any] = {}
        others: list[str] = []
    for field in schema:
        try:
            features |= Features.from_arrow_schema(pa.schema([field.remove_metadata()]))
        except Exception:
            features[field.name] = Value("string")
            others.append(field.name)
    return Features(features), others


_VALUES = {
    "null": "string",
    "bool": "bool",
    "int": "int64",
    "wide": "int64",
    "float": "float64",
    "text": "string",
}
_encode = msgspec.json.Encoder(
    decimal_format="number", enc_hook=lambda value: text_of(value) or repr(value)
).encode


def _type(value: Any, level: int = 0) -> Type:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int():
            if -_EXACT <= value <= _EXACT:
                return "int"
            return "wide" if -(2**63) <= value < 2**63 else "text"
        case float():
            return "float"
        case list() if level < MAX_LEVELS:
            inner: Type = "null"
            for entry in value:
                inner = _joined(inner, _type(entry, level + 1))
            return ("list", inner)
        case dict() if level < MAX_LEVELS and 0 < len(value) <= MAX_FIELDS:
            if all(
                isinstance(name, str) and name != "_type" for name in value
            ):  # reserved by `datasets`
                return ("object", {n: _type(entry, level + 1) for n, entry in value.items()})
    return "text"


def _joined(one: Type, other: Type) -> Type:
    """The narrowest type that holds the values of both."""
    if other in (one, "null"):
        return one
    if one == "null":
        return other
    if isinstance(one, tuple) and isinstance(other, tuple) and one[0] == other[0]:
        if one[0] == "list":
            return ("list", _joined(one[1], other[1]))
        names = one[1] | other[1]
        if len(names) <= MAX_FIELDS:
            pairs = {n: (one[1].get(n, "null"), other[1].get(n, "null")) for n in names}
            return ("object", {n: _joined(*pair) for n, pair in pairs.items()})
        return "text"
    if isinstance(one, tuple) or isinstance(other, tuple):
        return "text"
    return {("int", "wide"): "wide", ("float", "int"): "float"}.get(
        (min(one, other), max(one, other)), "text"
    )
