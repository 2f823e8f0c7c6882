"""The dataset to train on: opened, and checked before anything slow begins.

In: a view's folder, a JSON-lines or Parquet file, or a Hub dataset id (its `train` split). Out: a
`datasets.Dataset` with at least one row and the trainer's columns, and a hash of its contents.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from factory.errors import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset

_FILES = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}

# The columns that tell one view from another, by the kind of training that takes it. The first
# whose columns are all there is the one to suggest, so those with more columns stand first.
_VIEWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dpo": ("preference", ("prompt", "chosen", "rejected")),
    "kto": ("kto", ("prompt", "completion", "label")),
    "prm": ("process", ("prompt", "completions", "labels")),
    "reward": ("reward", ("prompt", "responses", "scores")),
    "sft": ("sft", ("prompt", "completion")),
    "grpo": ("grpo", ("prompt",)),
    "rloo": ("grpo", ("prompt",)),
    "ppo": ("grpo", ("prompt",)),
}


def open_dataset(
    data: Path | str, kind: str, columns: tuple[str, ...], or_columns: tuple[str, ...] = ()
) -> tuple[Dataset, str]:
    """The dataset and the hash (32 hex digits) of its contents.

    Raises `RecipeError` if there is no dataset, it has no rows, or it lacks one of `columns`; having
    all of `or_columns`, if any, will do as well.
    """
    where = f"factory train {kind}: the dataset at {data}"
    dataset, fingerprint = read_dataset(data, where)
    if len(dataset) == 0:
        raise RecipeError(
            f"{where} has 0 rows; a run's report counts by reason what made no row "
            "(ties, unparsed verdicts, answers the judge did not prefer)"
        )
    if not or_columns or not set(or_columns) <= set(dataset.column_names):
        _check_columns(dataset.column_names, kind, columns, or_columns, where)
    return dataset, fingerprint


def read_dataset(data: Path | str, where: str) -> tuple[Dataset, str]:
    """The dataset of a folder, a file or a Hub id, whatever its columns, and its contents' hash.

    Raises `RecipeError`, which begins with `where`, if there is none or it cannot be read.
    """
    path = Path(data).expanduser()
    with no_progress_bars():
        if path.is_dir():
            dataset = _from_folder(path, where)
        elif path.is_file():
            dataset = _from_file(path, where)
        else:
            dataset = _from_hub(str(data), where)
    return dataset, content_hash(path) if path.exists() else str(dataset._fingerprint)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """`datasets` draws none in here."""
    import datasets

    were_shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            datasets.enable_progress_bars()


def _from_folder(path: Path, where: str) -> Dataset:
    from datasets import Dataset, load_from_disk

    if (path / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir()))
        raise RecipeError(f"{where} holds several splits ({splits}); give one: {path}/<split>")
    if not (path / "state.json").is_file():
        views = path / "datasets"
        names = ", ".join(sorted(p.name for p in views.iterdir())) if views.is_dir() else ""
        hint = f"; a run's views are its subfolders: {views}/ has {names}" if names else ""
        raise RecipeError(f"{where} is no dataset folder: it has no state.json{hint}")
    try:
        if not json.loads((path / "state.json").read_text(encoding="utf-8"))["_data_files"]:
            return Dataset.from_dict({})  # load_from_disk fails on a dataset without files
        dataset: Dataset = load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(f"{where} cannot be read: {error}; export the view again") from error
    return dataset


def _from_file(path: Path, where: str) -> Dataset:
    from datasets import Dataset, load_dataset

    if path.suffix not in _FILES:
        raise RecipeError(f"{where} is no dataset: expected a folder, {', '.join(_FILES)}")
    if path.stat().st_size == 0:
        return Dataset.from_dict({})
    try:
        return load_dataset(_FILES[path.suffix], data_files=str(path), split="train")
    except Exception as error:  # datasets wraps whatever its reader raised
        reason = error.__cause__ or error
        raise RecipeError(f"{where} cannot be read as {_FILES[path.suffix]}: {reason}") from error


def _from_hub(name: str, where: str) -> Dataset:
    from datasets import load_dataset

    if name.count("/") != 1 or name.startswith((".", "/", "~")) or Path(name).suffix in _FILES:
        raise RecipeError(f"{where}: no such file or folder")
    try:
        return load_dataset(name, split="train")
    except Exception as error:  # the hub client raises a dozen unrelated kinds
        raise RecipeError(
            f"{where}: no such folder here, and no 'train' split of a Hub dataset of that name "
            f"({type(error).__name__}: {error})"
        ) from error


def _check_columns(
    has: list[str], kind: str, needed: tuple[str, ...], or_needed: tuple[str, ...], where: str
) -> None:
    missing = [column for column in needed if column not in has]
    if not missing:
        return
    plural = "s" if len(missing) > 1 else ""
    view = "preference" if or_needed else _VIEWS[kind][0]
    other = f", or a {_VIEWS[kind][0]} view's: {', '.join(or_needed)}" if or_needed else ""
    raise RecipeError(
        f"{where} has no column{plural} {', '.join(map(repr, missing))} (has: {', '.join(has)}); "
        f"a {view} view has {'them' if plural else 'it'}: {', '.join(needed)}{other}"
        f"{_suggestion(has)}"
    )


def _suggestion(has: list[str]) -> str:
    """What these columns are good for instead, or nothing."""
    for kind, (view, columns) in _VIEWS.items():
        if set(columns) <= set(has):
            return f". These columns are a {view} view's: use factory train {kind}"
    return ""


def content_hash(path: Path) -> str:
    import xxhash

    files = sorted(path.glob("data-*.arrow")) if path.is_dir() else [path]
    digest = xxhash.xxh3_128()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()
