"""Readers of rows, one for each kind of source. The table is the registry.

In: a file, a folder saved by `datasets`, or a Hub dataset. Out: one `Row` for every row, in the
source's order. A row that cannot be read has the reason in `Row.error`. Readers do not know which
fields form a prompt. A source that cannot be read raises `SourceError`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from factory.core.errors import SourceError
from factory.core.saved import STATE, is_saved
from factory.sources.formats.arrow import ArrowFiles, Parquet, saved_dataset
from factory.sources.formats.base import Reader, readable, refuse_special
from factory.sources.formats.text import Delimited, Json, JsonLines

FILE_READERS: dict[str, Callable[[Path], Reader]] = {
    ".json": Json,
    ".json.gz": Json,
    ".jsonl": JsonLines,
    ".jsonl.gz": JsonLines,
    ".csv": lambda path: Delimited(path, ","),
    ".csv.gz": lambda path: Delimited(path, ","),
    ".tsv": lambda path: Delimited(path, "\t"),
    ".tsv.gz": lambda path: Delimited(path, "\t"),
    ".parquet": Parquet,
    ".arrow": ArrowFiles,
}

SUPPORTED = f"{', '.join(FILE_READERS)}, or a folder saved by datasets.save_to_disk"


def extension(path: Path) -> str:
    """The file name's last suffix, in lower case; of `.gz`, with the suffix before it."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])


def open_local(path: Path, split: str = "train") -> Reader:
    """The reader of a file or folder that exists."""
    refuse_special(path)
    if path.is_dir():
        return saved_dataset(_split_folder(path, split))
    reader = FILE_READERS.get(extension(path))
    if reader is None:
        raise SourceError(
            f"{path}: unknown kind of file {extension(path)!r}; supported: {SUPPORTED}"
        )
    return reader(path)


class _Splits(msgspec.Struct):
    splits: list[str]


def _split_folder(path: Path, split: str) -> Path:
    """The folder of one dataset in a saved folder: itself, or the split's."""
    if is_saved(path):
        return path
    if not (path / "dataset_dict.json").is_file():
        with readable(path):
            inside = sorted(p.name for p in path.iterdir() if extension(p) in FILE_READERS)
        remedy = f"name one of its files ({', '.join(inside[:5])})" if inside else "name a file"
        raise SourceError(
            f"{path}: a folder, but not one saved by datasets.save_to_disk (it has no {STATE} "
            f"or dataset_dict.json); {remedy}"
        )
    with readable(path, ValueError):
        have = msgspec.json.decode((path / "dataset_dict.json").read_bytes(), type=_Splits).splits
    if split not in have:
        raise SourceError(f"{path}: no split {split!r} (have: {', '.join(have)}); set source.split")
    if Path(split).name != split:
        raise SourceError(f"{path}: the split {split!r} is not a folder's name; rename it")
    return path / split
