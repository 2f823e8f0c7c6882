"""The rows of a dataset that somebody else made, as samples with their answers already there.

In: a file or folder of any format that a recipe's source takes, a Hub dataset, PRM800K or
ProcessBench. Out: its rows as plain values, in order, any number of times, memory flat; and for
each row the `Sample` that a scoring stage reads, or the `BadRow` that says why there is none.

    preference   prompt, chosen, rejected     candidates 0 and 1; without prompt: whole conversations
    completion   prompt, completion           candidate 0
    reward       prompt, responses            a candidate each
    process      prompt, completions          candidate 0; the steps as they are in `step_labels`
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from factory.core.errors import RecipeError, SampleError, SourceError
from factory.core.records import BadRow, Candidate, Message, Sample, StepLabels
from factory.sources import prm800k
from factory.sources.benchmarks import read_processbench
from factory.sources.conversation import WITH_TOOL, read_exchange, read_messages
from factory.sources.formats import extension
from factory.sources.formats.base import RAW_CHARS, listed, refuse_special, text_of
from factory.sources.formats.text import Json
from factory.sources.source import prompt_id

if TYPE_CHECKING:
    from datasets import Features

Shape = Literal["preference", "completion", "reward", "process"]

# The first whose columns are all there.
SHAPES: dict[Shape, tuple[str, ...]] = {
    "process": ("prompt", "completions", "labels"),
    "preference": ("chosen", "rejected"),
    "reward": ("prompt", "responses"),
    "completion": ("prompt", "completion"),
}
GIVEN = "data"
"""Names the steps that came with a row, in `Sample.step_labels`, and what made its answers."""
_PROCESSBENCH = ("problem", "steps", "label")
_PROCESSBENCH_EXTENSIONS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


class Rows(msgspec.Struct, frozen=True):
    """A dataset that can be read any number of times."""

    name: str
    """As the user wrote it."""
    features: Features
    digest: str
    """Hash of the contents, 32 hex digits."""
    read: Callable[[], Iterator[dict[str, Any]]]
    count: int | None
    """None: only reading them would tell."""
    left_out: dict[str, int] = {}
    """Lines of a file that are no row of it, by reason."""
    stored: Callable[[dict[str, Any]], dict[str, Any]] = dict
    """A row as `features` have it: where the rows of a column differ in type, in one that holds all."""

    def limited(self, limit: int | None) -> Rows:
        """The first `limit` rows; None: all."""
        if limit is None:
            return self
        return msgspec.structs.replace(
            self,
            read=lambda: islice(self.read(), min(limit, sys.maxsize)),
            count=None if self.count is None else min(self.count, limit),
        )

    def require(self, columns: Sequence[str], what: str) -> None:
        """Raises `RecipeError` unless all the columns are there; `what` names who wants them."""
        if missing := [column for column in columns if column not in self.features]:
            raise RecipeError(
                f"{self.name} has no column {', '.join(map(repr, missing))}, which {what} needs "
                f"(has: {listed(self.features)})"
            )


# Opening -----------------------------------------------------------------------------------------


def open_rows(data: str) -> Rows:
    """Raises `RecipeError` if there is no dataset, it cannot be read, or it has no rows."""
    path = Path(data).expanduser()
    try:
        if "\0" not in data and path.exists():
            refuse_special(path)
            has_lines = path.is_file() and extension(path) in prm800k.EXTENSIONS
            if has_lines and prm800k.is_prm800k(path):
                return _prm800k_rows(data, path)
            if path.is_file() and _is_processbench(path):
                return _processbench_rows(data, path)
    except SourceError as error:
        raise RecipeError(str(error)) from error
    except OSError as error:
        raise RecipeError(f"{data} cannot be read: {error}") from error
    return _table_rows(data)


def shape_of(rows: Rows) -> Shape:
    """Raises `RecipeError` if the columns are of no shape."""
    for shape, columns in SHAPES.items():
        if all(column in rows.features for column in columns):
            return shape
    known = "; ".join(f"{shape}: {', '.join(columns)}" for shape, columns in SHAPES.items())
    raise RecipeError(
        f"{rows.name} has the columns {listed(rows.features)}, which are those of no dataset "
        f"that can be scored ({known}); rename its columns"
    )


def _table_rows(data: str) -> Rows:
    from factory.training.common.data import open_given

    where = f"the dataset at {data}"
    given = open_given(data, where)
    if given.count == 0:
        bad = f" ({given.first_bad})" if given.first_bad else ""
        raise RecipeError(f"{where} has 0 rows{bad}; give one with rows, or export the view again")

    def read() -> Iterator[dict[str, Any]]:
        absent = dict.fromkeys(given.columns)
        return (absent | row for _, row in given.rows())

    features, stored = _typed(read, given.schema)
    left_out = dict(given.left_out)
    return Rows(data, features, given.fingerprint, read, given.count, left_out, stored)


_ROLE_OF = {
    "prompt": "user",
    "chosen": "assistant",
    "rejected": "assistant",
    "completion": "assistant",
}


def _typed(
    read: Callable[[], Iterator[dict[str, Any]]], schema: Any
) -> tuple[Features, Callable[[dict[str, Any]], dict[str, Any]]]:
    """Features that hold all the rows, and what makes a row fit them."""
    from datasets import Features, List, Value

    from factory.sources.formats.table import (
        Type,
        add_types,
        conformed,
        feature_of,
        features_of_schema,
    )

    types: dict[str, Type] = {}
    if schema is not None:
        features, as_text = features_of_schema(schema)
        types = dict.fromkeys(as_text, "text")
        return features, lambda row: row | {n: conformed(row[n], "text") for n in types}
    hold_messages: set[str] = set()
    for row in read():
        add_types(types, row)
        hold_messages.update(n for n in _ROLE_OF if isinstance(row.get(n), list | dict))
    # Texts among messages become messages.
    mixed = {name for name in hold_messages if types[name] == "text"}
    message = List({"role": Value("string"), "content": Value("string")})

    def stored(row: dict[str, Any]) -> dict[str, Any]:
        made = {n: conformed(row.get(n), kind) for n, kind in types.items() if n not in mixed}
        for name in mixed:
            try:
                made[name] = read_messages(row.get(name), name, _ROLE_OF[name], roles=WITH_TOOL)
            except SampleError:
                made[name] = None
        return made

    found = {name: message if name in mixed else feature_of(kind) for name, kind in types.items()}
    return Features(found), stored


def _prm800k_rows(data: str, path: Path) -> Rows:
    from datasets import Features, List, Value

    from factory.training.common.data import content_hash

    features = Features(
        prompt=Value("string"),
        completions=List(Value("string")),
        labels=List(Value("int8")),
        shared=Value("int32"),
        is_alternative=Value("bool"),
        reference=Value("string"),
    )

    def found() -> Iterator[prm800k.ProcessRow | prm800k.Dropped | prm800k.BadLine]:
        try:
            yield from prm800k.read(path)
        except SourceError as error:
            raise RecipeError(str(error)) from error

    def read() -> Iterator[dict[str, Any]]:
        line = 0
        for row in found():
            # What a line's own solution is, a row or dropped, comes before its alternatives.
            is_alternative, line = row.line == line, row.line
            if isinstance(row, prm800k.ProcessRow):
                shared = len(row.shared)
                yield {
                    "prompt": row.prompt,
                    "completions": row.steps,
                    "labels": row.shared + row.ratings[shared:],
                    "shared": shared,
                    "is_alternative": is_alternative,
                    "reference": row.answer,
                }

    reasons: Counter[str] = Counter()
    count = 0
    for row in found():
        if isinstance(row, prm800k.BadLine):
            reasons[f"bad line: {row.reason}"] += 1
        elif isinstance(row, prm800k.Dropped):
            reasons[row.reason] += 1
        else:
            count += 1
    if not count:
        found_instead = ", ".join(f"{n} {reason}" for reason, n in reasons.items()) or "empty"
        raise RecipeError(f"{data} has no solution with a rating ({found_instead})")
    return Rows(data, features, content_hash(path), read, count, dict(reasons))


def _is_processbench(path: Path) -> bool:
    """By the names in its first row."""
    if extension(path) not in _PROCESSBENCH_EXTENSIONS:
        return False
    first = next((row.fields for row in Json(path).rows() if row.error is None), {})
    return set(_PROCESSBENCH) <= first.keys()


def _processbench_rows(data: str, path: Path) -> Rows:
    from datasets import Features, List, Value

    from factory.training.common.data import content_hash

    solutions, bad = read_processbench(path)
    if not solutions:
        first = f"; the first row: {bad[0].error}" if bad else ""
        raise RecipeError(f"{data} has no solution that can be read{first}")
    features = Features(
        id=Value("string"),
        prompt=Value("string"),
        completions=List(Value("string")),
        labels=List(Value("bool")),
        subset=Value("string"),
        is_right=Value("bool"),
    )

    def read() -> Iterator[dict[str, Any]]:
        return (msgspec.structs.asdict(solution) for solution in solutions)

    left_out = Counter(row.error for row in bad)
    return Rows(data, features, content_hash(path), read, len(solutions), dict(left_out))


# Rows as samples ---------------------------------------------------------------------------------


def sample_of(row: Mapping[str, Any], index: int, shape: Shape) -> Sample | BadRow:
    """The row as scoring stages read it. `index`: its place, from 0."""
    try:
        prompt, answers = _answers(row, shape)
        steps = steps_of(row) if shape == "process" else []
        unknown: list[None] = [None] * len(steps)
        labels = [StepLabels(GIVEN, 0, steps, [*unknown], [*unknown])] if steps else []
        return made_sample(index, row, prompt, answers, labels)
    except SampleError as error:
        return bad_row(row, index, str(error))


def bad_row(row: Mapping[str, Any], index: int, error: str) -> BadRow:
    raw = msgspec.json.encode(row, enc_hook=repr)[: 4 * RAW_CHARS]
    return BadRow(index, None, error, raw.decode("utf-8", "ignore")[:RAW_CHARS])


def made_sample(
    index: int,
    row: Mapping[str, Any],
    prompt: list[Message],
    answers: Sequence[str],
    steps: list[StepLabels] | None = None,
) -> Sample:
    """A sample of these answers; id, tags and reference are the row's, where it has them."""
    name, tags, reference = row.get("prompt_id"), row.get("tags"), row.get("reference")
    if isinstance(tags, str):
        tags = [tags] if tags else []
    return Sample(
        id=prompt_id(prompt) if name is None or name == "" else str(name),
        index=index,
        prompt=prompt,
        tags=[t for t in tags if isinstance(t, str)] if isinstance(tags, list) else [],
        reference=text_of(reference) or None,
        candidates=[Candidate(i, text, GIVEN, GIVEN, "") for i, text in enumerate(answers)],
        step_labels=steps or [],
    )


def _answers(row: Mapping[str, Any], shape: Shape) -> tuple[list[Message], list[str]]:
    """The prompt that all answers share, and the answers."""
    if shape == "reward":
        responses = row["responses"]
        if not isinstance(responses, list) or not responses:
            raise SampleError(f"column 'responses': expected a list, found {_short(responses)}")
        given = [(response, "responses") for response in responses]
    elif shape == "process":
        given = [("\n".join(steps_of(row)), "completions")]
    else:
        given = [(row[name], name) for name in SHAPES[shape] if name != "prompt"]
    exchanges = [read_exchange(row, answer, name) for answer, name in given]
    conversations = [[*before, *turns] for before, turns in exchanges]
    prompt = conversations[0][:-1]
    if any(conversation[:-1] != prompt for conversation in conversations):
        raise SampleError("the answers do not follow the same conversation")
    if not prompt or prompt[-1]["role"] != "user" or not prompt[-1]["content"].strip():
        raise SampleError("there is no user's message before the answer")
    return prompt, [conversation[-1]["content"] for conversation in conversations]


def steps_of(row: Mapping[str, Any]) -> list[str]:
    """The steps of a process row. Raises `SampleError` if they are none."""
    steps = row["completions"]
    if not isinstance(steps, list) or not steps:
        raise SampleError(f"column 'completions': expected steps, found {_short(steps)}")
    if wrong := [step for step in steps if not isinstance(step, str) or not step.strip()]:
        raise SampleError(f"column 'completions': a step is no text: {_short(wrong[0])}")
    return steps


def labels_of(row: Mapping[str, Any], steps: Sequence[str]) -> list[bool | None]:
    """The labels of its steps; rating 0 counts as correct. Raises `SampleError` if they are none."""
    labels = row["labels"]
    if not isinstance(labels, list) or len(labels) != len(steps):
        raise SampleError("not as many labels as steps")
    try:
        ratings = [prm800k.rating_of(label) for label in labels]
    except ValueError as error:
        raise SampleError("a label other than true, false, null, -1, 0 and 1") from error
    return [None if rating is None else rating >= 0 for rating in ratings]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
