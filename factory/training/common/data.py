"""The dataset to train on, opened, converted to one form, and checked before anything slow begins.

In: a file or folder of any format that a recipe's source takes, or a Hub dataset id (its `train`
split). Out: a `datasets.Dataset` with at least one row and the trainer's columns, and a hash of its
contents. Rows that cannot be trained on are not in it, and counted by reason.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from factory.core.errors import RecipeError, SampleError, SourceError
from factory.core.files import file_hash
from factory.core.saved import STATE, file_names, is_saved
from factory.sources.conversation import as_responses, countable, is_ultrafeedback
from factory.sources.formats import FILE_READERS, extension
from factory.sources.formats.base import listed
from factory.sources.prm800k import rating_of
from factory.training import TRAINERS, trainer_of
from factory.training.common import rows as row_forms
from factory.training.common.quiet import no_progress_bars

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 1000
_REASONS_SHOWN = 3

# The columns that tell one view from another. The first whose columns are all there is the one to
# suggest, so those with more columns stand first.
VIEWS: dict[str, tuple[str, ...]] = {
    "preference": ("prompt", "chosen", "rejected"),
    "kto": ("prompt", "completion", "label"),
    "process": ("prompt", "completions", "labels"),
    "reward": ("prompt", "responses", "scores"),
    "sft": ("prompt", "completion"),
    "grpo": ("prompt",),
}


class Opened(NamedTuple):
    """A dataset that is ready for training."""

    dataset: Dataset
    fingerprint: str
    """Hash of the contents, 32 hex digits."""
    left_out: dict[str, int] = {}
    """Reason -> number of rows that are not in `dataset`."""
    forms: dict[str, int] = {}
    """Form of the conversations (strings, transcripts, messages) -> number of rows."""
    is_plain: bool = False
    """True: all conversations are texts, also in `dataset`. False: `dataset` has messages."""
    prm800k: dict[str, int] = {}
    """For PRM800K's files: reason -> number of steps and lines that made no row."""


@dataclass(frozen=True)
class SourceRows:
    """Rows of any origin, which can be read any number of times."""

    columns: list[str]
    count: int
    rows: Callable[[], Iterator[tuple[str, dict[str, Any]]]]
    """Rows with their places, such as `line 12`."""
    schema: Any
    """pyarrow's schema. None: the format has no types."""
    fingerprint: str
    dataset: Callable[[], Dataset] | None = None
    """The same rows as `datasets` opens them."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of rows that cannot be read."""
    first_bad: str = ""
    """The first of them: its place and the error."""


def open_dataset(
    data: Path | str, kind: str, columns: tuple[str, ...], or_columns: tuple[str, ...] = ()
) -> Opened:
    """Open the dataset for a training of this kind.

    Raises `RecipeError` if it does not exist, has no rows or none that can be trained on, or lacks one
    of `columns` (and one of `or_columns`, if these are given).
    """
    where = f"factory train {kind}: the dataset at {data}"
    given = open_given(data, where)
    if given.count == 0:
        bad = f"; what cannot be read, as {given.first_bad}" if given.first_bad else ""
        raise RecipeError(
            f"{where} has 0 rows; a run's report counts by reason what made no row "
            f"(ties, unparsed verdicts, answers the judge did not prefer){bad}"
        )
    if not or_columns or not set(or_columns) <= set(given.columns):
        # Whole conversations hold their prompts.
        is_whole = {"chosen", "rejected"} <= set(given.columns) and "chosen" in columns
        needed = tuple(c for c in columns if c != "prompt") if is_whole else columns
        _check_columns(given.columns, kind, needed, or_columns, where)
    return _read(given, kind, where)


def open_view(kind: str, data: Path | str, config: Mapping[str, Any]) -> Opened:
    """The dataset, with the columns of the kind's own view."""
    return open_dataset(data, kind, VIEWS[TRAINERS[kind].view])


def open_given(data: Path | str, where: str) -> SourceRows:
    """The rows of a file, a folder or a Hub id, whatever their columns.

    Raises `RecipeError`, which begins with `where`, if there is none or it cannot be read.
    """
    path = Path(data).expanduser()
    try:
        is_local = "\0" not in str(path) and os.path.lexists(path)
        given = _local(path, where) if is_local else _from_hub(str(data), where)
    except SourceError as error:
        found = str(error).removeprefix(f"{path}: ")  # `where` names it
        raise RecipeError(f"{where}: {found}") from error
    except OSError as error:
        raise RecipeError(f"{where} cannot be read: {error}") from error
    first = next((row for _, row in given.rows()), {})
    if not is_ultrafeedback(first):
        return given
    columns = list(dict.fromkeys(["prompt", *given.columns, "responses", "scores"]))
    return replace(
        given,
        columns=[name for name in columns if name not in ("completions", "instruction")],
        rows=lambda: ((place, as_responses(row)) for place, row in given.rows()),
        schema=None,
        dataset=None,
    )


def to_messages(dataset: Dataset, kind: str) -> Dataset:
    """A dataset of plain texts as one of messages."""
    shape = row_forms.shape_of(kind, dataset.column_names)

    def rows() -> Iterator[dict[str, Any]]:
        for row in plain(dataset):
            made, _ = row_forms.read_row(row, shape)
            yield row | {name: made[name] for name in shape.columns}

    return _built(rows, shape, {}, dataset.features.arrow_schema, is_plain=False)


def plain(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Rows as Arrow holds them: nothing is decoded, so that they can be written as they were."""
    for batch in dataset.with_format("arrow").iter(batch_size=_BATCH):
        yield from batch.to_pylist()


def _local(path: Path, where: str) -> SourceRows:
    from factory.sources.formats.base import refuse_special
    from factory.sources.formats.table import Table

    refuse_special(path)
    is_folder = path.is_dir()
    if is_folder:
        _check_folder(path, where)
    if (is_folder and _has_no_files(path, where)) or (
        not is_folder and extension(path) in FILE_READERS and path.stat().st_size == 0
    ):
        return SourceRows([], 0, lambda: iter(()), None, content_hash(path))
    table = Table(path)
    return SourceRows(
        table.columns,
        table.count,
        table.placed,
        table.schema,
        content_hash(path),
        (lambda: _loaded(path, where)) if is_folder else None,
        dict(table.left_out),
        table.first_bad,
    )


def _check_folder(path: Path, where: str) -> None:
    if (path / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir()))
        raise RecipeError(f"{where} holds several splits ({splits}); give one: {path}/<split>")
    if not is_saved(path):
        views = path / "datasets"
        names = ", ".join(sorted(p.name for p in views.iterdir())) if views.is_dir() else ""
        hint = f"; a run's views are its subfolders: {views}/ has {names}" if names else ""
        raise RecipeError(f"{where} is no dataset folder: it has no {STATE}{hint}")


def _has_no_files(path: Path, where: str) -> bool:
    try:
        return not file_names(path)
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{where} cannot be read: {error}; export the view again") from error


def _loaded(path: Path, where: str) -> Dataset:
    from datasets import load_from_disk

    try:
        with no_progress_bars():
            dataset: Dataset = load_from_disk(str(path))
    except Exception as error:  # of a damaged dataset_info.json `datasets` raises what it likes
        raise RecipeError(f"{where} cannot be read: {error}; export the view again") from error
    return dataset


def _from_hub(name: str, where: str) -> SourceRows:
    from datasets import load_dataset

    if (
        name.count("/") != 1
        or name.startswith((".", "/", "~"))
        or extension(Path(name)) in FILE_READERS
    ):
        raise RecipeError(f"{where}: no such file or folder")
    try:
        with no_progress_bars():
            dataset = load_dataset(name, split="train")
    except Exception as error:  # the hub client raises a dozen unrelated kinds
        raise RecipeError(
            f"{where}: no such folder here, and no 'train' split of a Hub dataset of that name "
            f"({type(error).__name__}: {error})"
        ) from error
    return SourceRows(
        dataset.column_names,
        len(dataset),
        lambda: ((f"row {i}", row) for i, row in enumerate(plain(dataset))),
        dataset.features.arrow_schema,
        str(dataset._fingerprint),
        lambda: dataset,
    )


# From rows as written to the trainer's ----------------------------------------------------------


def _read(given: SourceRows, kind: str, where: str) -> Opened:
    from factory.sources.formats.table import Type, add_types

    shape = row_forms.shape_of(kind, given.columns)
    left_out, forms = Counter(given.left_out), Counter[str]()
    first_bad = given.first_bad
    types: dict[str, Type] = {}
    is_same = True  # as `given.dataset`
    for index, (place, row) in enumerate(given.rows()):
        try:
            made, form = row_forms.read_row(row, shape)
        except SampleError as error:
            left_out[countable(error)] += 1
            first_bad = first_bad or f"{place}: {error}"
            continue
        if kind == "kto" and made.get("label") not in (True, False, None):
            found = made["label"]
            raise RecipeError(f"row {index} label: expected true or false, found {found!r:.60}")
        forms[form] += 1
        is_same = is_same and made == row
        add_types(types, {n: v for n, v in made.items() if n not in shape.columns})
    if not forms:
        reasons = "; ".join(f"{n} x {reason}" for reason, n in left_out.most_common(_REASONS_SHOWN))
        raise RecipeError(
            f"{where}: none of the {left_out.total()} rows can be trained on ({reasons}); the first, "
            f"{first_bad}"
        )
    is_plain = TRAINERS[kind].is_plain and set(forms) == {row_forms.TEXT}

    def rows() -> Iterator[dict[str, Any]]:
        for _, row in given.rows():
            try:
                made, _ = row_forms.read_row(row, shape)
            except SampleError:
                continue
            yield {**made, **{n: row[n] for n in shape.columns}} if is_plain else made

    if given.dataset is not None and is_same and not left_out:
        dataset = given.dataset()
    else:
        dataset = _built(rows, shape, types, given.schema, is_plain=is_plain)
    return Opened(dataset, given.fingerprint, dict(left_out), dict(forms), is_plain)


def _built(
    rows: Callable[[], Iterator[dict[str, Any]]],
    shape: row_forms.Shape,
    types: dict[str, Any],
    schema: Any,
    *,
    is_plain: bool,
) -> Dataset:
    """The rows as a dataset in memory. `types` of the columns that are no conversations; where there
    is a schema, most keep its own."""
    import pyarrow as pa
    from datasets import Dataset, Features, List, Value

    from factory.sources.formats.table import conformed, feature_of, features_of_schema

    text = Value("string")
    messages = List({"role": text, "content": text})
    features: dict[str, Any] = {
        name: List(text) if name == "responses" else text if is_plain else messages
        for name in shape.columns
    }
    if schema is not None:
        own, as_text = features_of_schema(schema)
        kept = [n for n in own if n not in features and n not in as_text]
        features |= {n: own[n] for n in kept if n not in row_forms.VALUES or n not in types}
    are_mixed = shape.has_steps and types.get("labels") == ("list", "text")
    if are_mixed:  # true and false among ratings
        types = {**types, "labels": ("list", "int")}
    typed = {name: kind for name, kind in types.items() if name not in features}
    features |= {name: feature_of(kind) for name, kind in typed.items()}

    def batches() -> Iterator[Any]:
        held: list[dict[str, Any]] = []
        for row in rows():
            if are_mixed:
                row["labels"] = [rating_of(label) for label in row["labels"]]
            for name, kind in typed.items():
                row[name] = conformed(row.get(name), kind)
            held.append(row)
            if len(held) == _BATCH:
                yield pa.Table.from_pylist(held, schema=arrow)
                held = []
        yield pa.Table.from_pylist(held, schema=arrow)

    arrow = Features(features).arrow_schema
    return Dataset(pa.concat_tables(batches()))


def _check_columns(
    has: list[str], kind: str, needed: tuple[str, ...], or_needed: tuple[str, ...], where: str
) -> None:
    missing = [column for column in needed if column not in has]
    if not missing:
        return
    plural = "s" if len(missing) > 1 else ""
    view = TRAINERS[kind].view
    other = ""
    if or_needed:
        second = next(name for name, columns in VIEWS.items() if columns == or_needed)
        other = f", or a {second} view's: {', '.join(or_needed)}"
    raise RecipeError(
        f"{where} has no column{plural} {', '.join(map(repr, missing))} (has: {listed(has)}); "
        f"a {view} view has {'them' if plural else 'it'}: {', '.join(needed)}{other}"
        f"{_suggestion(has)}"
    )


def _suggestion(has: list[str]) -> str:
    """A hint for which training these columns are suited; or empty."""
    for view, columns in VIEWS.items():
        if set(columns) <= set(has):
            return f". These columns are a {view} view's: use factory train {trainer_of(view)}"
    return ""


def content_hash(path: Path) -> str:
    return file_hash(*(sorted(path.glob("data-*.arrow")) if path.is_dir() else [path]))
