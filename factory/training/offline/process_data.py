"""Training data of process reward models: from file to token ids and labels.

In: a process view (labels: true, false, null or a rating of -1, 0, 1), or PRM800K. Out: token ids with a
class at the token where each step is read, and `IGNORED` at all others. The ids are
`engines.render.step_ids`'s, which the engines serve.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from factory.core.errors import EngineError, RecipeError, SampleError, SourceError
from factory.core.records import Message
from factory.engines.base import Scoring
from factory.engines.render import step_ids
from factory.sources import prm800k
from factory.sources.formats import extension
from factory.training.common.data import VIEWS, Opened, content_hash, open_dataset
from factory.training.common.progress import say

if TYPE_CHECKING:
    from datasets import Dataset

IGNORED = -100
"""The label of a token that no step is read at, or whose step's label is unknown."""

CLASSES: dict[int, tuple[str, ...]] = {2: ("wrong", "right"), 3: ("wrong", "neutral", "right")}
"""Names by class, for each number of labels. A rating r of three classes is class r + 1; of two, 0
counts as right, as in "Let's Verify Step by Step": neutral steps do no harm."""


class Layout(NamedTuple):
    """The layout of a row as tokens and labels."""

    num_labels: int
    separator: str
    tag: str
    max_length: int | None
    """Tokens."""
    truncate_after_first_error: bool


class EncodedSteps(NamedTuple):
    """The encoded dataset, and counts of what was left out."""

    dataset: Dataset
    """Columns `input_ids`, `labels`, `length`."""
    left_out: dict[str, int]
    """Rows that are not in it, by reason."""
    counts: list[int]
    """Labeled steps of each class."""


# From file to rows -------------------------------------------------------------------------------


def is_prm800k(data: Path | str) -> bool:
    """True if `data` is a PRM800K file. Raises `RecipeError` if it is a file that cannot be read."""
    path = Path(data).expanduser()
    if extension(path) not in prm800k.EXTENSIONS or not path.is_file():
        return False
    try:
        return prm800k.is_prm800k(path)
    except SourceError as error:
        raise RecipeError(str(error)) from error


def open_prm800k(data: Path | str) -> tuple[Dataset, dict[str, int]]:
    """A PRM800K file as rows of a process view, with one column more: `shared`, how many leading
    steps have no rating of their own here (their labels are given, to see an error among them).

    Also how much made no row, by reason, which is said too. Raises `RecipeError` if that is all.
    """
    from datasets import Dataset, Features, List, Value

    path = Path(data).expanduser()
    features = Features(
        prompt=Value("string"),
        completions=List(Value("string")),
        labels=List(Value("int8")),
        shared=Value("int32"),
    )
    columns: dict[str, list[Any]] = {name: [] for name in features}
    dropped: Counter[str] = Counter()
    bad: list[prm800k.BadLine] = []
    try:
        for found in prm800k.read(path):
            if isinstance(found, prm800k.BadLine):
                bad.append(found)
            elif isinstance(found, prm800k.Dropped):
                dropped[found.reason] += 1
            else:
                columns["prompt"].append(found.prompt)
                columns["completions"].append(found.steps)
                columns["labels"].append(found.shared + found.ratings[len(found.shared) :])
                columns["shared"].append(len(found.shared))
    except SourceError as error:
        raise RecipeError(str(error)) from error
    for reason, count in sorted(dropped.items()):
        say(f"{path}: {count} left out: {reason}")
    if bad:
        say(f"{path}: {len(bad)} left out: bad line, as line {bad[0].line}: {bad[0].reason}")
        dropped["bad line"] = len(bad)
    if not columns["prompt"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
        raise RecipeError(f"{path} has no row to train on ({reasons or 'it is empty'})")
    return Dataset.from_dict(columns, features=features), dict(sorted(dropped.items()))


def open_rows(kind: str, data: Path | str, config: Mapping[str, Any]) -> Opened:
    """The dataset. Raises `RecipeError` if there are no rows, or not of the right columns."""
    if not is_prm800k(data):
        # Without the rows' forms, which are of no interest here.
        return open_dataset(data, kind, VIEWS["process"])._replace(forms={})
    dataset, dropped = open_prm800k(data)
    return Opened(dataset, content_hash(Path(data).expanduser()), prm800k=dropped)


# From rows to tokens -----------------------------------------------------------------------------


def encode(dataset: Dataset, tokenizer: Any, layout: Layout) -> EncodedSteps:
    """Raises `RecipeError` if no row is left, a tag or separator does not do, or whole-number
    labels look like 0 for wrong and 1 for right."""
    from datasets import Features, List, Value

    _check_marks(tokenizer, layout)
    left_out: Counter[str] = Counter()
    counts = [0] * layout.num_labels
    seen: Counter[object] = Counter()
    has_shared = "shared" in dataset.column_names

    def batch(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        made: dict[str, list[Any]] = {"input_ids": [], "labels": [], "length": []}
        given = zip(*(columns[name] for name in VIEWS["process"]), strict=True)
        for place, (prompt, steps, labels) in enumerate(given):
            shared = columns["shared"][place] if has_shared else 0
            seen.update(label for label in labels or () if not isinstance(label, bool))
            try:
                ids, classes = encode_row(tokenizer, prompt, steps, labels, layout, shared=shared)
            except SampleError as reason:
                left_out[str(reason)] += 1
                continue
            for label in classes:
                if label != IGNORED:
                    counts[label] += 1
            made["input_ids"].append(ids)
            made["labels"].append(classes)
            made["length"].append(len(ids))
        return made

    encoded = dataset.map(
        batch,
        batched=True,
        batch_size=256,
        remove_columns=dataset.column_names,
        # Stated: a column of truth values would stay one, and `IGNORED` in it read as true.
        features=Features(
            input_ids=List(Value("int32")), labels=List(Value("int64")), length=Value("int32")
        ),
        new_fingerprint=f"{dataset._fingerprint}-steps",  # nothing is cached, so nothing to hash
    )
    if seen[0] and seen[1] and not seen[-1] and not has_shared:
        raise RecipeError(prm800k.ZERO_AND_ONE)
    if len(encoded) == 0:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise RecipeError(f"none of the {len(dataset)} rows is left: {reasons}")
    return EncodedSteps(encoded, dict(left_out), counts)


def encode_row(
    tokenizer: Any,
    prompt: Sequence[Message] | str,
    steps: Sequence[str] | None,
    labels: Sequence[bool | int | None] | None,
    layout: Layout,
    *,
    shared: int = 0,
) -> tuple[list[int], list[int]]:
    """Token ids of one row and the label of each, up to the last step whose label is known: nothing
    is learned from those after it. The first `shared` labels only tell where the first error is.

    Raises `SampleError`, whose message is one of a few to count by, if the row is left out.
    """
    if not prompt:
        raise SampleError("no prompt")
    if not steps or labels is None or len(steps) != len(labels):
        raise SampleError("no completions, or not as many labels")
    try:
        ratings = [prm800k.rating_of(label) for label in labels]
    except ValueError as error:
        raise SampleError("a label other than true, false, null, -1, 0 and 1") from error
    if layout.truncate_after_first_error and -1 in ratings:
        ratings = ratings[: ratings.index(-1) + 1]
    ratings = [None if place < shared else rating for place, rating in enumerate(ratings)]
    while ratings and ratings[-1] is None:
        ratings.pop()
    if not ratings:
        raise SampleError("no step with a known label")
    used = tuple(steps[: len(ratings)])
    if not all(step and step.strip() for step in used):
        raise SampleError("a blank step")
    messages: Sequence[Message]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    scoring = Scoring(used, layout.separator, layout.tag)
    ids, positions = step_ids(tokenizer, messages, scoring, {})
    ids = ids[: positions[-1] + 1]
    if layout.max_length is not None and len(ids) > layout.max_length:
        raise SampleError(f"over {layout.max_length} tokens (max_length)")
    classes = [IGNORED] * len(ids)
    for position, rating in zip(positions, ratings, strict=True):
        if rating is not None:
            classes[position] = class_of(rating, layout.num_labels)
    return ids, classes


def class_of(rating: int, num_labels: int) -> int:
    """
    >>> [class_of(r, 2) for r in (-1, 0, 1)], [class_of(r, 3) for r in (-1, 0, 1)]
    ([0, 1, 1], [0, 1, 2])
    """
    return rating + 1 if num_labels == 3 else int(rating >= 0)


def _check_marks(tokenizer: Any, layout: Layout) -> None:
    """Raise `RecipeError` if tag or separator is invalid, as every row would fail."""
    try:
        scoring = Scoring(("x",), layout.separator, layout.tag)
        step_ids(tokenizer, [{"role": "user", "content": "x"}], scoring, {})
    except EngineError as error:
        raise RecipeError(f"config.tag, config.separator: {error}") from error
