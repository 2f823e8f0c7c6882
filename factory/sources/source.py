"""The source of prompts: its rows as `Sample`s, or as `BadRow`s with a reason.

One record for every row, with `index` 0, 1, 2 ... in the source's order; no row is skipped or raises. The
same bytes and the same config always give the same records. A source that cannot be read raises
`SourceError`, on opening if possible.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import xxhash
from pydantic import Field

from factory.core.config import Config
from factory.core.errors import SampleError, SourceError
from factory.core.records import BadRow, Message, Sample
from factory.sources.conversation import read_prompt, read_text, wrong_type
from factory.sources.formats import open_local
from factory.sources.formats.base import RAW_CHARS, Reader, Row, readable, text_of
from factory.sources.formats.hub import HubDataset
from factory.sources.formats.text import Delimited, split_cell
from factory.sources.reasoning_gym import Problems, is_problems

MAX_NAMES = 12
"""Most names of fields that an error lists."""
LIKELY_PROMPTS = ("messages", "question", "instruction", "conversations", "problem", "query")
"""Names of the prompt's column in public datasets. Errors suggest them; they are never used unasked."""


class Columns(Config):
    """Names of the source's columns. The prompt's must exist, and so must any that is set here."""

    prompt: str = "prompt"
    """The prompt: a string (one user turn, or a "Human: ... Assistant:" transcript), or a list of
    messages of which the last is the user's. A message is `{role, content}` or ShareGPT's
    `{from, value}`."""
    id: str = "id"
    """The id: a string or an integer. Absent: a hash of the prompt, so equal prompts have equal ids."""
    tags: str = "tags"
    """The tags: a string or a list of strings. In a cell of CSV or TSV, separated by commas."""
    reference: str = "reference"
    """The reference answer: a string, a number or a date, read as text."""
    system: str = "system"
    """The row's own system prompt."""


class SourceConfig(Config):
    """Options of the source of prompts."""

    path: str
    """A JSONL, JSON, CSV, TSV (each also .gz), Parquet or Arrow file, or a folder saved by
    `datasets.save_to_disk`, relative to the recipe's folder; or a Hub dataset's id; or generated
    problems: `reasoning-gym:chain_sum` (see `factory/sources/reasoning_gym.py`)."""
    split: str = "train"
    """Split of a Hub dataset, or of a saved folder with several splits."""
    subset: str | None = None
    """Subset of a Hub dataset that has several."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset. None: the newest commit, which is recorded."""
    columns: Columns = Columns()
    system: str | None = None
    """System prompt for every row that has none of its own."""
    limit: int | None = Field(None, ge=1, le=10**12)
    """Number of rows to read, from the first, bad ones included. None: all."""
    options: dict[str, Any] = {}
    """For generated problems: options of the task (`max_terms: 6`), a `seed`, and `exclude`, the `limit`
    and options of another source of the task, whose problems are left out."""


class Source:
    """Prompts that can be read any number of times, from any row."""

    def __init__(self, config: SourceConfig, name: str, reader: Reader) -> None:
        self.name = name
        self._config = config
        self._reader = reader
        self._named = set(config.columns.model_dump().values())

    def count(self) -> int | None:
        """Number of rows that `rows()` gives. None: unknown before they are read (some Hub datasets).

        Text files have to be scanned for it, at some hundred MB per second.
        """
        limit = self._config.limit
        found = self._reader.count(limit)
        return found if found is None or limit is None else min(found, limit)

    def rows(self, start: int = 0) -> Iterator[Sample | BadRow]:
        """Records from index `start` on."""
        columns = [*self._named, *self.carried()]
        has_cells = isinstance(self._reader, Delimited)
        left = None if self._config.limit is None else max(0, self._config.limit - start)
        rows = islice(self._reader.rows(start, columns), left)
        for index, row in enumerate(rows, start):
            record = _record(index, row, self._config, has_cells=has_cells)
            if isinstance(record, Sample):
                record.extra = _extra(row.fields, self._named)
            yield record

    def carried(self) -> list[str]:
        """Columns that are not in `source.columns` and go to `Sample.extra`, except bytes, lists of
        numbers and columns whose name occurs twice. Without a schema, only those of the first rows are
        listed; later ones go there too."""
        counts = Counter(self._reader.columns)
        return [name for name, count in counts.items() if name not in self._named and count == 1]

    def __iter__(self) -> Iterator[Sample | BadRow]:
        return self.rows()

    def digest(self) -> str:
        """Hash (32 hex digits) of the config and the bytes read (Hub: the commit)."""
        identity = self._config.model_dump_json() + self._reader.version
        hasher = xxhash.xxh3_128(identity.encode())
        for path in self._reader.files:
            with readable(path), path.open("rb") as stream:
                hashlib.file_digest(stream, lambda: hasher)  # updates the hash block by block
        return hasher.hexdigest()


def open_source(config: SourceConfig, folder: Path) -> Source:
    """Open the source. `folder`: the recipe's, from which relative paths start."""
    if "\0" in config.path or not config.path.strip():
        raise SourceError(f"source.path is {config.path!r:.60}; name a file, a folder or a dataset")
    path = folder / os.path.expanduser(config.path)
    if config.options and not is_problems(config.path):
        raise SourceError(f"{config.path}: source.options is for reasoning-gym:TASK; remove it")
    reader: Reader
    if is_problems(config.path):
        name, reader = config.path, Problems(config.path, config.options, config.limit)
    elif os.path.lexists(path):
        name, reader = path.name, open_local(path, config.split)
    elif _is_hub_id(config.path):
        try:
            reader = HubDataset(config.path, config.subset, config.split, config.revision)
        except SourceError as error:
            raise SourceError(f"{error} (no file {path} either{_nearest(path)})") from error
        name = config.path
    else:
        raise SourceError(
            f"{path}: no such file{_nearest(path)}; "
            "source.path is absolute or relative to the recipe's folder"
        )
    _check_columns(name, reader, config.columns)
    return Source(config, name, reader)


def _is_hub_id(path: str) -> bool:
    """True for `name` or `owner/name` without a file extension. (`.5` in `owner/data-v1.5` is none.)"""
    has_extension = re.search(r"\.[a-zA-Z]\w*$", path)
    return not has_extension and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path) is not None


def _nearest(path: Path) -> str:
    """Names similar to the missing one, in the deepest folder of `path` that exists."""
    while not os.path.isdir(path.parent):
        path = path.parent
    names = os.listdir(path.parent) if os.access(path.parent, os.R_OK) else []
    near = difflib.get_close_matches(path.name, sorted(names), n=3, cutoff=0.5)
    return f" (nearest in {path.parent}: {', '.join(near)})" if near else ""


def _check_columns(name: str, reader: Reader, columns: Columns) -> None:
    """Raise `SourceError` for names that no row has. Without a schema, one without a prompt is a bad row."""
    for ours, column in columns.model_dump().items():
        if reader.columns.count(column) > 1:
            raise SourceError(f"{name}: more than one column is named {column!r}; rename one")
        is_chosen = column != Columns.model_fields[ours].default
        is_expected = reader.has_schema if ours == "prompt" else is_chosen
        if is_expected and not _has_column(reader, column):
            raise SourceError(f"{name}: {_missing(ours, column, reader.columns)}")


def _has_column(reader: Reader, column: str) -> bool:
    """True if some row has the column. Without a schema, all rows are read if the first lack it."""
    if column in reader.columns or reader.has_schema:
        return column in reader.columns
    names_are_unknown = not reader.columns
    return names_are_unknown or any(column in row.fields for row in reader.rows(0, [column]))


def _missing(ours: str, column: str, have: list[str]) -> str:
    """The message: `no field 'prompt' (have: question, answer); set source.columns.prompt: question`."""
    shown = ", ".join(name[:40] for name in have[:MAX_NAMES]) or "nothing"
    more = ", ..." if len(have) > MAX_NAMES else ""
    likely = [name for name in LIKELY_PROMPTS if name in have and ours == "prompt"]
    near = difflib.get_close_matches(column, have, n=1)
    best = [*likely, *near] if column == "prompt" else [*near, *likely]
    remedy = f": {best[0]}" if best else f" to the name of its {ours} field"
    return f"no field {column!r} (have: {shown}{more}); set source.columns.{ours}{remedy}"


def _record(index: int, row: Row, config: SourceConfig, *, has_cells: bool) -> Sample | BadRow:
    """A row as a record. `has_cells`: a list is written as the text of a cell."""
    named = config.columns.model_dump().values()
    error = row.error or next((row.unread[name] for name in named if name in row.unread), None)
    if error is not None:
        return BadRow(index, row.line, error, _raw(row))
    try:
        return _sample(index, row.fields, config, has_cells=has_cells)
    except SampleError as error:
        return BadRow(index, row.line, str(error), _raw(row))


# Writes dates as text, and whole numbers and decimals with all their digits.
_encode_extra = msgspec.json.Encoder(decimal_format="number", enc_hook=text_of).encode


def _extra(fields: dict[str, Any], named: set[str]) -> str | None:
    others = {
        name: value
        for name, value in fields.items()
        if name not in named and value is not None and not _is_bulk(value)
    }
    return _encode_extra(others).decode() if others else None


def _is_bulk(value: object) -> bool:
    """True for bytes or a list of numbers: pictures, embeddings and token ids are not kept."""
    is_list = isinstance(value, list)
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, bytes) or (is_list and isinstance(value, int | float))


def _raw(row: Row) -> str:
    raw = msgspec.json.encode(row.fields, enc_hook=repr) if row.raw is None else row.raw
    text = raw[: 4 * RAW_CHARS].decode("utf-8", "backslashreplace")
    return text.rstrip("\r\n")[:RAW_CHARS]


def _sample(index: int, fields: dict[str, Any], config: SourceConfig, *, has_cells: bool) -> Sample:
    names = config.columns
    if names.prompt not in fields:
        raise SampleError(_missing("prompt", names.prompt, list(fields)))
    prompt = _messages(fields[names.prompt], names.prompt)
    system = _optional(fields.get(names.system), names.system) or config.system
    if system and prompt[0]["role"] != "system":
        prompt.insert(0, {"role": "system", "content": system})
    return Sample(
        id=_id(fields.get(names.id), names.id) or prompt_id(prompt),
        index=index,
        prompt=prompt,
        tags=_tags(fields.get(names.tags), names.tags, has_cells=has_cells),
        reference=_reference(fields.get(names.reference), names.reference),
    )


def prompt_id(prompt: list[Message]) -> str:
    """The id of a row without one: equal prompts have equal ids."""
    return hashlib.blake2b(msgspec.json.encode(prompt), digest_size=8).hexdigest()


def _messages(value: object, name: str) -> list[Message]:
    """The conversation in a prompt's field; its last message is the user's and not blank."""
    turns = read_prompt(value, name)
    if turns[-1]["role"] != "user":
        raise SampleError(
            f"field {name!r} ends with a message of role {turns[-1]['role']!r}, expected 'user': "
            "remove the answer, or set source.columns.prompt to a field without it"
        )
    return turns


def _tags(value: object, name: str, *, has_cells: bool) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, str):
        text = read_text(value, name)
        return split_cell(text) if has_cells else [text]
    if not isinstance(value, list):
        raise wrong_type(value, name, "a string or a list of strings")
    return [read_text(tag, f"{name}[{at}]") for at, tag in enumerate(value)]


# An optional field is None if it is null or empty, as an absent CSV cell is.


def _optional(value: object, name: str, expected: str = "a string") -> str | None:
    return None if value is None or value == "" else read_text(value, name, expected)


def _id(value: object, name: str) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _optional(value, name, "a string or an integer")


def _reference(value: object, name: str) -> str | None:
    if value is None or value == "":
        return None
    text = None if isinstance(value, bool) else text_of(value)
    return read_text(value if text is None else text, name, "a string or a number")
