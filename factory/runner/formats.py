"""How the rows of each kind of source are read: text line by line, Arrow by batches, memory flat.

In: a file, a folder saved by `datasets`, or a Hub dataset. Out: one `Row` for every row there is,
in the source's order; what cannot be read as a row says why in `Row.error`, and the next follows.
Which fields make a prompt is not known here. A source that cannot be read raises `SourceError`.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec

from factory.errors import SourceError

MAX_LINE = 16 * 2**20
"""Bytes. No prompt is that long: it is a file without newlines, or a quote never closed."""
BATCH_ROWS = 256
PEEK_ROWS = 1000
BLOCK_BYTES = 2**20
HUB_TIMEOUT = 20.0
"""Seconds to wait for the Hub's first answer."""


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


# Text ------------------------------------------------------------------------------------------


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


# Arrow -----------------------------------------------------------------------------------------


class Parquet:
    """A Parquet file. Only the columns wanted are read."""

    has_schema = True
    version = ""

    def __init__(self, path: Path) -> None:
        self.files = [path]
        with self._open() as file:
            self.columns = list(file.schema_arrow.names)
            groups = range(file.metadata.num_row_groups)
            self._group_rows = [file.metadata.row_group(group).num_rows for group in groups]

    def count(self, limit: int | None) -> int:
        return sum(self._group_rows)

    def rows(self, start: int, columns: list[str]) -> Iterator[Row]:
        first = 0
        while first < len(self._group_rows) and start >= self._group_rows[first]:
            start -= self._group_rows[first]
            first += 1
        groups = list(range(first, len(self._group_rows)))
        with self._open() as file:
            wanted = [name for name in self.columns if name in columns]
            for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=wanted):
                yield from _arrow_rows(batch.slice(start))
                start = max(0, start - batch.num_rows)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        # By default a whole column of a row group, of any size, is read at once.
        buffered = {"buffer_size": BLOCK_BYTES, "pre_buffer": False}
        path = self.files[0]
        with (
            readable(path, pa.ArrowException, ValueError),
            pq.ParquetFile(path, **buffered) as file,
        ):
            yield file


class ArrowFile:
    """An Arrow IPC file or stream, memory-mapped."""

    has_schema = True
    version = ""

    def __init__(self, path: Path) -> None:
        self.files = [path]
        with self._open() as reader:
            self.columns = list(reader.schema.names)

    def count(self, limit: int | None) -> int:
        with self._open() as reader:
            return sum(batch.num_rows for batch in _batches(reader))

    def rows(self, start: int, columns: list[str]) -> Iterator[Row]:
        wanted = [name for name in self.columns if name in columns]
        with self._open() as reader:
            for batch in _batches(reader):
                if start < batch.num_rows:
                    yield from _mapped_rows(batch.select(wanted).slice(start))
                start = max(0, start - batch.num_rows)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        import pyarrow as pa

        # Whole batches, because leaving columns out would copy the others out of the mapped file.
        path = self.files[0]
        with readable(path, pa.ArrowException, ValueError), pa.memory_map(str(path)) as mapped:
            is_file = mapped.read(6) == b"ARROW1"
            mapped.seek(0)
            with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(mapped) as reader:
                yield reader


class SavedDataset:
    """A folder that `datasets.save_to_disk` wrote: a dataset, or a folder for each split.

    A dataset is the Arrow streams that its `state.json` names, one after the other, which is also all
    that `datasets.load_from_disk` makes of them; importing `datasets` for it would take seconds.
    """

    has_schema = True
    version = ""

    def __init__(self, path: Path, split: str) -> None:
        folder = _split_folder(path, split)
        with readable(folder, ValueError):
            state = msgspec.json.decode((folder / "state.json").read_bytes(), type=_State)
        self.files = [folder / file.filename for file in state.data_files]
        self._parts = [ArrowFile(file) for file in self.files]
        self.columns = self._parts[0].columns

    def count(self, limit: int | None) -> int:
        return sum(part.count(None) for part in self._parts)

    def rows(self, start: int, columns: list[str]) -> Iterator[Row]:
        for part in self._parts:
            yield from part.rows(start, columns)
            start = max(0, start - part.count(None)) if start else 0


class _DataFile(msgspec.Struct):
    filename: str


class _State(msgspec.Struct):
    data_files: Annotated[list[_DataFile], msgspec.Meta(min_length=1)] = msgspec.field(
        name="_data_files"
    )


class _Splits(msgspec.Struct):
    splits: list[str]


def _split_folder(path: Path, split: str) -> Path:
    """The folder of one dataset in a saved folder: itself, or the split's."""
    if (path / "state.json").is_file():
        return path
    if not (path / "dataset_dict.json").is_file():
        inside = sorted(file.name for file in path.iterdir() if extension(file) in FILE_READERS)
        remedy = f"name one of its files ({', '.join(inside[:5])})" if inside else "name a file"
        raise SourceError(
            f"{path}: a folder, but not one saved by datasets.save_to_disk (it has no state.json "
            f"or dataset_dict.json); {remedy}"
        )
    with readable(path, ValueError):
        have = msgspec.json.decode((path / "dataset_dict.json").read_bytes(), type=_Splits).splits
    if split not in have:
        raise SourceError(f"{path}: no split {split!r} (have: {', '.join(have)}); set source.split")
    return path / split


def _batches(reader: Any) -> Iterator[Any]:
    """The record batches of an IPC file, which is indexed, or of a stream, which is not."""
    if hasattr(reader, "get_batch"):
        return (reader.get_batch(index) for index in range(reader.num_record_batches))
    return iter(reader)


def _mapped_rows(batch: Any) -> Iterator[Row]:
    """Rows of a batch as it lies in its file. Damaged offsets, if followed, can kill the process."""
    read = _arrow_rows if _is_sound(batch) else _single_rows
    for offset in range(0, batch.num_rows, BATCH_ROWS):
        yield from read(batch.slice(offset, BATCH_ROWS))


def _is_sound(batch: Any) -> bool:
    """False: some texts are damaged, each its own row's error. Other damage is `ArrowInvalid`."""
    import pyarrow as pa

    batch.validate()
    is_sound = True
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            if column.type not in (pa.string(), pa.large_string()):
                raise
            is_sound = False
    return is_sound


def _arrow_rows(batch: Any) -> Iterator[Row]:
    """Rows of a batch. One value that Python cannot hold spoils them all: then they go singly."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):
        yield from _single_rows(batch)
        return
    for fields in rows:
        yield Row(None, fields)


def _single_rows(batch: Any) -> Iterator[Row]:
    for index in range(batch.num_rows):
        try:
            row = batch.slice(index, 1)
            row.validate()
            yield Row(None, row.to_pylist()[0])
        except UnicodeDecodeError as error:
            byte = f"byte 0x{error.object[error.start]:02x} at byte offset {error.start}"
            yield Row(None, {}, f"not UTF-8: {byte} of a field")
        except (ValueError, OverflowError) as error:
            yield Row(None, {}, f"a value cannot be read: {error}")


# Hub -------------------------------------------------------------------------------------------


class HubDataset:
    """A dataset of the Hugging Face Hub, streamed, at the commit that was newest when opened."""

    def __init__(self, name: str, subset: str | None, split: str) -> None:
        self._name, self._split = name, split
        self.files: list[Path] = []
        with self._reachable():
            import datasets
            from huggingface_hub import HfApi

            self.version = HfApi().dataset_info(name, timeout=HUB_TIMEOUT).sha or ""
            self._data = datasets.load_dataset(
                name, subset, split=split, streaming=True, revision=self.version or None
            )
            self.columns: list[str] = self._data.column_names or []
        self.has_schema = bool(self.columns)

    def count(self, limit: int | None) -> int | None:
        splits = self._data.info.splits or {}
        return splits[self._split].num_examples if self._split in splits else None

    def rows(self, start: int, columns: list[str]) -> Iterator[Row]:
        with self._reachable():
            wanted = [name for name in self.columns if name in columns]
            data = self._data.select_columns(wanted) if wanted else self._data
            for fields in data.skip(start) if start else data:
                yield Row(None, fields)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the Hub's libraries share no base of theirs
            message = " ".join(str(error).split())[:300] or type(error).__name__
            raise SourceError(
                f"Hub dataset {self._name!r}, split {self._split!r}: {message}; check the name, "
                "source.subset, source.split and the network, or name a local file"
            ) from error


# -----------------------------------------------------------------------------------------------

FILE_READERS: dict[str, Callable[[Path], Reader]] = {
    ".jsonl": JsonLines,
    ".jsonl.gz": JsonLines,
    ".csv": lambda path: Delimited(path, ","),
    ".csv.gz": lambda path: Delimited(path, ","),
    ".tsv": lambda path: Delimited(path, "\t"),
    ".tsv.gz": lambda path: Delimited(path, "\t"),
    ".parquet": Parquet,
    ".arrow": ArrowFile,
}


def extension(path: Path) -> str:
    """The file name's last suffix, in small letters, with the one before `.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])


def open_local(path: Path, split: str) -> Reader:
    """The reader of a file or folder that exists."""
    if path.is_dir():
        return SavedDataset(path, split)
    reader = FILE_READERS.get(extension(path))
    if reader is None:
        remedy = f"supported: {', '.join(FILE_READERS)}, or a folder saved by datasets.save_to_disk"
        if extension(path) == ".json":
            remedy += f"; for a JSON array: jq -c '.[]' {path.name} > {path.stem}.jsonl"
        raise SourceError(f"{path}: unknown kind of file {extension(path)!r}; {remedy}")
    return reader(path)


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
