"""Rows -> a dataset folder that `datasets.load_from_disk()` memory-maps; whole or absent.

    FOLDER/data-00000-of-0000N.arrow   Arrow IPC streams
    FOLDER/dataset_info.json           features
    FOLDER/README.md                   the card
    FOLDER/state.json                  files and fingerprint; written last

or, for other readers, FOLDER/data.jsonl or FOLDER/data.parquet and the card alone.

Rows stream into a hidden sibling folder. Once every file is on disk, it replaces the old dataset by
rename. A reader never sees half a dataset: a crash leaves the old one or the new one. A crash between
the two renames leaves the old one under its hidden name, and `recover` puts it back. The bytes depend
only on the rows. The run's lock ensures one writer per folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from factory.core import saved
from factory.core.errors import FactoryError
from factory.core.files import sync

if TYPE_CHECKING:
    import pyarrow as pa

FileFormat = Literal["arrow", "jsonl", "parquet"]
BATCH_ROWS = 1_000
"""Rows per record batch. A memory-mapped reader loads one batch to read one row."""
SHARD_BYTES = 500_000_000
"""Bytes after which a file is closed, at the next end of a batch; the default of `datasets`."""

# Files that we write, and cache files that `datasets` puts beside a dataset that it loaded.
_OURS = re.compile(
    r"data-\d+(-of-\d+)?\.arrow|data\.(jsonl|parquet)|dataset_info\.json|state\.json|README\.md|cache-.*|tmp.*|\..*"
)


def is_whole(folder: Path, fingerprint: str) -> bool:
    """The folder holds the dataset that was published with this fingerprint, unchanged, and beside
    it a card and what `datasets` reads of its columns."""
    beside = [folder / name for name in (saved.STATE, "dataset_info.json", "README.md")]
    try:
        if not all(path.is_file() for path in beside):
            return False
        shards = [folder / name for name in saved.file_names(folder)]
        if not all(shard.is_file() for shard in shards) or _fingerprint(shards) != fingerprint:
            return False
        info = json.loads((folder / "dataset_info.json").read_bytes())
        has_card = bool((folder / "README.md").read_bytes().strip())
        return has_card and all(_has_features(shard, info["features"]) for shard in shards)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _has_features(shard: Path, features: Mapping[str, Any]) -> bool:
    """True if an Arrow file has these columns. Both describe them as `datasets` does; the file leaves
    out fields that are null or a default."""
    import pyarrow as pa

    with pa.OSFile(str(shard)) as file:
        schema = pa.ipc.open_stream(file).schema
    if list(features) != schema.names:
        return False
    told = (schema.metadata or {}).get(b"huggingface")
    return told is None or _holds(features, json.loads(told)["info"]["features"])


def _holds(held: object, told: object) -> bool:
    if isinstance(told, dict):
        return isinstance(held, dict) and all(k in held and _holds(held[k], told[k]) for k in told)
    return held == told


def rows_in(folder: Path) -> int:
    """Number of rows of the dataset in `folder`; 0 if there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if (lines := folder / "data.jsonl").is_file():
        with lines.open("rb") as file:
            return sum(1 for _ in file)
    if (table := folder / "data.parquet").is_file():
        return int(pq.read_metadata(table).num_rows)
    rows = 0
    for shard in folder.glob("data-*.arrow"):
        with pa.memory_map(str(shard)) as file, pa.ipc.open_stream(file) as stream:
            rows += sum(batch.num_rows for batch in stream)
    return rows


def recover(datasets: Path) -> None:
    """Repair a folder of datasets after writers were killed."""
    for replaced in datasets.glob(".*.old"):
        _restore(datasets / replaced.name[1:].removesuffix(".old"), replaced)
        if replaced.exists():
            shutil.rmtree(replaced)
    for building in datasets.glob(".*.tmp"):
        shutil.rmtree(building)


def _restore(folder: Path, replaced: Path) -> None:
    """Put the old dataset back, if it was moved aside and not replaced."""
    if replaced.exists() and not folder.exists():
        replaced.rename(folder)


def _fingerprint(shards: Sequence[Path]) -> str:
    content = hashlib.sha256()
    for shard in shards:
        with shard.open("rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
    return content.hexdigest()[:16]


class HasSchema(Protocol):
    """Features: ours, or those of `datasets`."""

    @property
    def arrow_schema(self) -> pa.Schema: ...


class DatasetWriter:
    """Writes one dataset: `add` every row, then `finish` and `publish`, or `abandon`."""

    def __init__(
        self, folder: Path, features: HasSchema, file_format: FileFormat = "arrow"
    ) -> None:
        self.folder = folder
        self._format = file_format
        self._schema: pa.Schema = features.arrow_schema
        self._building = folder.with_name(f".{folder.name}.tmp")
        self._replaced = folder.with_name(f".{folder.name}.old")
        self._rows: list[Mapping[str, Any]] = []
        self._shards: list[Path] = []
        self._stream: pa.RecordBatchStreamWriter | None = None
        self._file: pa.NativeFile | None = None
        self._clear_up()
        self._building.mkdir(parents=True)

    def widen(self, features: HasSchema) -> None:
        """Replace the features. Call it before the first row."""
        self._schema = features.arrow_schema

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row. It must have a value for every feature."""
        self._rows.append(row)
        if len(self._rows) >= BATCH_ROWS:
            self._write_batch()

    def finish(self) -> str:
        """Close the last file. Returns the fingerprint: a hash of features and rows."""
        if self._rows:
            self._write_batch()
        if not self._shards:
            self._open_shard()  # load_from_disk needs a file even without rows
        self._close_shard()
        for i, shard in enumerate(self._shards):
            # The number of shards is only known now.
            self._shards[i] = shard.rename(
                self._building / f"data-{i:05d}-of-{len(self._shards):05d}.arrow"
            )
        self._fingerprint = _fingerprint(self._shards)
        return self._fingerprint

    def publish(self, card: str) -> None:
        """Move the dataset, with its card, into place."""
        self._write_text("README.md", card)
        if self._format == "arrow":
            self._describe()
        else:
            self._convert()
        sync(self._building)
        if self.folder.exists():
            self.folder.rename(self._replaced)
        self._building.rename(self.folder)
        sync(self.folder.parent)
        shutil.rmtree(self._replaced, ignore_errors=True)

    def _describe(self) -> None:
        """Write the files that `load_from_disk` reads beside the rows."""
        info = {"citation": "", "description": "", "homepage": "", "license": ""}
        told = json.loads(self._schema.metadata[b"huggingface"])["info"]
        self._write_text("dataset_info.json", _json(dict(sorted((info | told).items()))))
        state = saved.state((shard.name for shard in self._shards), self._fingerprint)
        self._write_text(saved.STATE, _json(state))

    def _convert(self) -> None:
        """Replace the Arrow files by one file of the other format."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._building / f"data.{self._format}"
        with contextlib.ExitStack() as opened:
            if self._format == "parquet":
                write = opened.enter_context(pq.ParquetWriter(path, self._schema)).write_batch
            else:
                file = opened.enter_context(path.open("w", encoding="utf-8"))

                def write(batch: pa.RecordBatch) -> None:
                    file.writelines(
                        json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist()
                    )

            for shard in self._shards:
                with pa.memory_map(str(shard)) as rows, pa.ipc.open_stream(rows) as stream:
                    for batch in stream:
                        write(batch)
        sync(path)
        for shard in self._shards:
            shard.unlink()

    def abandon(self) -> None:
        """Remove what was written and leave the old dataset. Does nothing after `publish`."""
        if self._file is not None:
            self._file.close()
        self._stream = self._file = None
        shutil.rmtree(self._building, ignore_errors=True)
        _restore(self.folder, self._replaced)

    def _clear_up(self) -> None:
        """Repair what an interrupted writer left."""
        _restore(self.folder, self._replaced)
        for stale in (self._building, self._replaced):
            if stale.exists():
                shutil.rmtree(stale)
        if not self.folder.exists():
            return
        names = [p.name for p in self.folder.iterdir()] if self.folder.is_dir() else ["a file"]
        if others := sorted(name for name in names if not _OURS.fullmatch(name)):
            raise FactoryError(
                f"{self.folder} is not replaced: besides a dataset it holds {others[0]}; "
                "move it away, or give the view another name"
            )

    def _write_batch(self) -> None:
        import pyarrow as pa

        columns = [
            pa.array([row[field.name] for row in self._rows], type=field.type)
            for field in self._schema
        ]
        stream = self._stream or self._open_shard()
        stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._rows.clear()
        assert self._file is not None
        if self._file.tell() >= SHARD_BYTES:
            self._close_shard()

    def _open_shard(self) -> pa.RecordBatchStreamWriter:
        import pyarrow as pa

        path = self._building / f"data-{len(self._shards):05d}.arrow"
        self._shards.append(path)
        self._file = pa.OSFile(str(path), "wb")
        self._stream = pa.ipc.new_stream(self._file, self._schema)
        return self._stream

    def _close_shard(self) -> None:
        if self._stream is None or self._file is None:
            return
        self._stream.close()
        self._file.close()
        self._stream = self._file = None
        sync(self._shards[-1])

    def _write_text(self, name: str, text: str) -> None:
        path = self._building / name
        path.write_text(text, encoding="utf-8")
        sync(path)


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
