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

from factory.core.errors import FactoryError, SampleError
from factory.core.files import whole
from factory.core.records import Sample, from_row, to_row

if TYPE_CHECKING:
    import pyarrow as pa


def schema() -> pa.Schema:
    """The columns of a trace file: the fields of `Sample`, nested records as structs."""
    import pyarrow as pa

    text, real, number, flag = pa.string(), pa.float64(), pa.int32(), pa.bool_()
    message = pa.struct({"role": text, "content": text})
    reading = pa.struct(
        {
            "principle_id": text,
            "is_swapped": flag,
            "p": real,
            "label_mass": real,
            "call": text,
            "reasoning": text,
            "reasoning_call": text,
            "estimator": text,
            "draws": number,
            "variance": real,
            "calls": pa.list_(text),
        }
    )
    candidate = {
        "index": number,
        "text": text,
        "origin": text,
        "model": text,
        "call": text,
        "parent": number,
        "round": number,
        "finish_reason": text,
        "output_tokens": number,
        "drop_reason": text,
        "reasoning": text,
        "reasoning_tokens": number,
    }
    critique = {
        "candidate": number,
        "round": number,
        "principle_ids": pa.list_(text),
        "text": text,
        "call": text,
        "request": text,
        "few_shot": number,
        "reasoning": text,
    }
    verdict = {
        "judge": text,
        "a": number,
        "b": number,
        "p": real,
        "order_gap": real,
        "is_consistent": flag,
        "agreement": real,
        "principle_ids": pa.list_(text),
        "readings": pa.list_(reading),
        "variance": real,
    }
    score = {
        "name": text,
        "candidate": number,
        "value": real,
        "detail": text,
        "calls": pa.list_(text),
        "low": real,
        "high": real,
        "estimator": text,
        "draws": number,
        "variance": real,
    }
    step_labels = {
        "name": text,
        "candidate": number,
        "steps": pa.list_(text),
        "scores": pa.list_(real),
        "labels": pa.list_(flag),
        "calls": pa.list_(text),
    }
    return pa.schema(
        {
            "id": text,
            "index": pa.int64(),
            "prompt": pa.list_(message),
            "tags": pa.list_(text),
            "reference": text,
            "candidates": pa.list_(pa.struct(candidate)),
            "critiques": pa.list_(pa.struct(critique)),
            "verdicts": pa.list_(pa.struct(verdict)),
            "scores": pa.list_(pa.struct(score)),
            "step_labels": pa.list_(pa.struct(step_labels)),
            "extra": text,
        }
    )


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
    """Raise `SampleError` if the sample holds something that a trace cannot, such as a NumPy number or
    half a surrogate pair."""
    try:
        _decode(_encode(sample))
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise SampleError(f"a stage made a record that cannot be stored: {error}") from error


def write_json(path: Path, value: object) -> None:
    """Write a JSON file, indented, whole or not at all."""
    with whole(path) as half:
        half.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
