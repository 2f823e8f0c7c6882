"""Trace files: complete samples in source order. A part is whole or absent.

A part holds a fixed range of source rows. Its bytes are a function of its samples alone, and the
manifest keeps their checksum.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import msgspec.inspect

from factory.core.errors import FactoryError, SampleError
from factory.core.files import whole
from factory.core.records import Sample, from_row, to_row

if TYPE_CHECKING:
    import pyarrow as pa


def schema() -> pa.Schema:
    """The columns of a trace file: the fields of `Sample`, nested records as structs."""
    import pyarrow as pa

    columns = pa.schema(_arrow_type(msgspec.inspect.type_info(Sample)))
    return columns.set(columns.get_field_index("index"), pa.field("index", pa.int64()))


def _arrow_type(kind: msgspec.inspect.Type) -> pa.DataType:
    import pyarrow as pa
    from msgspec import inspect

    match kind:
        case inspect.UnionType():  # with None, which every column may hold
            return _arrow_type(next(k for k in kind.types if not isinstance(k, inspect.NoneType)))
        case inspect.StructType() | inspect.TypedDictType():
            types = {field.name: _arrow_type(field.type) for field in kind.fields}
            # msgspec describes the fields of a TypedDict in another order.
            return pa.struct({name: types[name] for name in kind.cls.__annotations__})
        case inspect.ListType():
            return pa.list_(_arrow_type(kind.item_type))
    return {
        inspect.StrType: pa.string(),
        inspect.IntType: pa.int32(),
        inspect.FloatType: pa.float64(),
        inspect.BoolType: pa.bool_(),
    }[type(kind)]


class TracePart(msgspec.Struct, frozen=True):
    """A part as it was written."""

    samples: int
    """Number of samples."""
    sha256: str
    """Checksum of the file, in hex."""


_PART = re.compile(r"part-(\d{5,})\.parquet")


def part_path(run: Path, part: int) -> Path:
    return run / "traces" / f"part-{part:05d}.parquet"


def write_part(run: Path, part: int, samples: Sequence[Sample]) -> TracePart:
    """Write a part whole or not at all, replacing an older one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([to_row(s) for s in samples], schema=schema())
    path = part_path(run, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as half:
        pq.write_table(table, half, compression="zstd", write_page_checksum=True)
        return TracePart(len(samples), _sha256(half))


def look_at_part(run: Path, part: int) -> TracePart:
    """A part as it is on disk. Raises `OSError` or `ValueError` if it cannot be read."""
    import pyarrow.parquet as pq

    path = part_path(run, part)
    with pq.ParquetFile(path) as file:
        return TracePart(file.metadata.num_rows, _sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_no_file(path: Path) -> bool:
    """True if the path exists and is not a file. Opening a pipe would wait forever."""
    return path.exists() and not path.is_file()


def damaged_parts(run: Path, parts: Sequence[TracePart]) -> dict[int, str]:
    """Number of each damaged part -> how it differs from what was written, in words. `parts`: the
    first parts of the run as they were written."""
    damaged = {}
    for number, part in enumerate(parts):
        try:
            if is_no_file(part_path(run, number)):
                damaged[number] = "is no file"
            elif _sha256(part_path(run, number)) != part.sha256:
                damaged[number] = "has another content"
        except FileNotFoundError:
            damaged[number] = "is missing"
        except OSError as error:
            damaged[number] = f"cannot be read ({error.strerror})"
    return damaged


def indexes_in(run: Path, part: int) -> list[int]:
    """The `index` of each sample of a part. Raises `OSError` or `ValueError` if it cannot be read."""
    import pyarrow.parquet as pq

    if is_no_file(part_path(run, part)):
        raise OSError("is no file")
    found: list[int] = pq.read_table(part_path(run, part), columns=["index"])["index"].to_pylist()
    return found


def parts_from(run: Path, first: int) -> list[int]:
    """Numbers of the parts on disk from `first` on."""
    return sorted(number for number, _ in _parts(run) if number >= first)


def read_samples(run: Path) -> Iterator[Sample]:
    """All samples of a run, in source order, a batch in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for _, path in sorted(_parts(run)):
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                for batch in file.iter_batches(batch_size=128):
                    for row in batch.to_pylist():
                        yield from_row(row)
        except (OSError, ValueError, pa.ArrowException, msgspec.ValidationError) as error:
            raise FactoryError(
                f"{path} cannot be read as a trace file of this version ({error}); move "
                f"{run / 'manifest.json'} away and run the recipe again: the traces are then "
                "written again, from the ledger"
            ) from error


def read_sample(run: Path, part_size: int, index: int) -> Sample | None:
    """The sample of the source row `index`. None: the traces have none now, or cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        path = part_path(run, index // part_size)
        table = pq.read_table(
            path, filters=[("index", "=", index)], page_checksum_verification=True
        )
        return next((from_row(row) for row in table.to_pylist()), None)
    except (OSError, ValueError, pa.ArrowException, msgspec.ValidationError):
        return None


def drop_parts_from(run: Path, first: int) -> None:
    """Remove parts beyond the end of a run that has become shorter, and half-written ones."""
    for path in (run / "traces").glob("part-*.half"):
        path.unlink()
    for part, path in _parts(run):
        if part >= first:
            path.unlink()


def _parts(run: Path) -> list[tuple[int, Path]]:
    """Parts on disk by number; names alone do not sort beyond 99,999."""
    found = ((_PART.fullmatch(path.name), path) for path in (run / "traces").glob("part-*"))
    numbered = ((int(match[1]), path) for match, path in found if match)
    # part-000001 is no other name of part-00001: it would be read twice.
    return [(number, path) for number, path in numbered if path == part_path(run, number)]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Sample).decode


def check_storable(sample: Sample) -> None:
    """Raise `SampleError` for what a trace cannot hold, such as a NumPy number or half a surrogate pair."""
    try:
        _decode(_encode(sample))
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise SampleError(f"a stage made a record that cannot be stored: {error}") from error


def write_json(path: Path, value: object) -> None:
    """Write a JSON file, indented, whole or not at all."""
    with whole(path) as half:
        half.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
