"""Readers of Parquet, Arrow and folders saved by `datasets`, by batches, in flat memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from factory.core.errors import SourceError
from factory.core.saved import STATE, file_names
from factory.sources.formats.base import Row, readable, refuse_special

BATCH_ROWS = 256
BLOCK_BYTES = 2**20


class Parquet:
    """A Parquet file. Only the requested columns are read."""

    has_schema = True
    version = ""

    def __init__(self, path: Path) -> None:
        self.files = [path]
        with self._open() as file:
            self.schema = file.schema_arrow
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

        # The default would read a whole column of a row group, of any size, at once.
        buffered = {"buffer_size": BLOCK_BYTES, "pre_buffer": False}
        path = self.files[0]
        with (
            readable(path, pa.ArrowException, ValueError),
            pq.ParquetFile(path, **buffered) as file,
        ):
            yield file


class ArrowFiles:
    """Arrow IPC files or streams of one dataset, in order, memory-mapped."""

    has_schema = True
    version = ""

    def __init__(self, *files: Path) -> None:
        self.files = list(files)
        schemas = []
        for file in files:
            with _mapped(file) as reader:
                schemas.append(reader.schema)
        self.schema = schemas[0]
        self.columns = list(self.schema.names)

    def count(self, limit: int | None) -> int:
        rows = 0
        for file in self.files:
            with _mapped(file) as reader:
                rows += sum(batch.num_rows for batch in _batches(reader))
        return rows

    def rows(self, start: int, columns: list[str]) -> Iterator[Row]:
        for file in self.files:
            with _mapped(file) as reader:
                wanted = [name for name in reader.schema.names if name in columns]
                for batch in _batches(reader):
                    if start < batch.num_rows:
                        yield from _mapped_rows(batch.select(wanted).slice(start))
                    start = max(0, start - batch.num_rows)


def saved_dataset(folder: Path) -> ArrowFiles:
    """One dataset written by `datasets.save_to_disk`: the Arrow streams that its `state.json` names, in
    order, as for `datasets.load_from_disk`. Importing `datasets` for it would take seconds."""
    with readable(folder, ValueError):
        names = file_names(folder)
        if not names:
            raise ValueError(f"{STATE} names no files")
    if strange := [name for name in names if Path(name).name != name or "\0" in name]:
        raise SourceError(
            f"{folder}: {STATE} names {strange[0]!r}, which is no file of the folder; write "
            "the dataset again"
        )
    files = [folder / name for name in names]
    for file in files:
        refuse_special(file)
    return ArrowFiles(*files)


@contextmanager
def _mapped(path: Path) -> Iterator[Any]:
    """pyarrow's reader of a file or a stream."""
    import pyarrow as pa

    # Whole batches: leaving out columns would copy the others out of the mapped file.
    with readable(path, pa.ArrowException, ValueError), pa.memory_map(str(path)) as mapped:
        is_file = mapped.read(6) == b"ARROW1"
        mapped.seek(0)
        with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(mapped) as reader:
            yield reader


def _batches(reader: Any) -> Iterator[Any]:
    """The record batches of an IPC file (indexed) or of a stream (not indexed)."""
    if hasattr(reader, "get_batch"):
        return (reader.get_batch(index) for index in range(reader.num_record_batches))
    return iter(reader)


def _mapped_rows(batch: Any) -> Iterator[Row]:
    """Rows of a memory-mapped batch, checked first: following damaged offsets can kill the process."""
    read = _arrow_rows if _is_sound(batch) else _single_rows
    for offset in range(0, batch.num_rows, BATCH_ROWS):
        yield from read(batch.slice(offset, BATCH_ROWS))


def _is_sound(batch: Any) -> bool:
    """False if some texts are damaged, each an error of its row. Raises `ArrowInvalid` for other damage."""
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
    """Rows of a batch. If it has a value that Python cannot hold, rows are converted one by one."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):
        yield from _single_rows(batch)
        return
    for fields in rows:
        yield Row(None, fields)


def _single_rows(batch: Any) -> Iterator[Row]:
    for index in range(batch.num_rows):
        row = Row(None, {})
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                value = column.slice(index, 1)
                value.validate()
                row.fields[name] = value.to_pylist()[0]
            except UnicodeDecodeError as error:
                byte = f"byte 0x{error.object[error.start]:02x} at byte offset {error.start}"
                row.unread[name] = f"not UTF-8: {byte} of a field"
            except (ValueError, OverflowError) as error:
                row.unread[name] = f"a value cannot be read: {error}"
        yield row
