"""The rows of a dataset that somebody else made, as samples with their answers already there.

In: a folder saved by `datasets`, a JSON-lines, JSON or Parquet file, a Hub dataset, PRM800K or
ProcessBench. Out: its rows as plain values, in order, any number of times, memory flat; and for
each row the `Sample` that a scoring stage reads, or the `BadRow` that says why there is none.

    preference   prompt, chosen, rejected     candidates 0 and 1; without prompt: whole conversations
    completion   prompt, completion           candidate 0
    reward       prompt, responses            a candidate each
    process      prompt, completions          candidate 0; the steps as they are in `step_labels`
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from factory import prm800k
from factory.errors import RecipeError, SampleError, SourceError
from factory.evaluation.data import read_processbench
from factory.records import BadRow, Candidate, Message, Sample, StepLabels

if TYPE_CHECKING:
    from datasets import Dataset, Features

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
_BATCH = 256
_PROCESSBENCH = ("problem", "steps", "label")
_RAW_CHARS = 2000
_ROLES = ("system", "user", "assistant", "tool")


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

    def limited(self, limit: int | None) -> Rows:
        """The first `limit` rows; None: all."""
        if limit is None:
            return self
        return msgspec.structs.replace(
            self,
            read=lambda: islice(self.read(), limit),
            count=None if self.count is None else min(self.count, limit),
        )

    def require(self, columns: Sequence[str], what: str) -> None:
        """Raises `RecipeError` unless all the columns are there; `what` names who wants them."""
        if missing := [column for column in columns if column not in self.features]:
            raise RecipeError(
                f"{self.name} has no column {', '.join(map(repr, missing))}, which {what} needs "
                f"(has: {', '.join(self.features)})"
            )


# Opening -----------------------------------------------------------------------------------------


def open_rows(data: str) -> Rows:
    """Raises `RecipeError` if there is no dataset, it cannot be read, or it has no rows."""
    path = Path(data).expanduser()
    try:
        if path.is_file() and path.suffix == ".jsonl" and prm800k.is_prm800k(path):
            return _prm800k_rows(data, path)
    except SourceError as error:
        raise RecipeError(str(error)) from error
    if path.is_file() and _is_processbench(path):
        return _processbench_rows(data, path)
    return _table_rows(data)


def shape_of(rows: Rows) -> Shape:
    """Raises `RecipeError` if the columns are of no shape."""
    for shape, columns in SHAPES.items():
        if all(column in rows.features for column in columns):
            return shape
    known = "; ".join(f"{shape}: {', '.join(columns)}" for shape, columns in SHAPES.items())
    raise RecipeError(
        f"{rows.name} has the columns {', '.join(rows.features)}, which are those of no dataset "
        f"that can be scored ({known}); rename its columns"
    )


def _table_rows(data: str) -> Rows:
    from factory.training.data import read_dataset

    where = f"the dataset at {data}"
    table, digest = read_dataset(data, where)
    if len(table) == 0:
        raise RecipeError(f"{where} has 0 rows; give one with rows, or export the view again")
    return Rows(data, table.features, digest, lambda: _plain(table), len(table))


def _plain(table: Dataset) -> Iterator[dict[str, Any]]:
    """Rows as Arrow holds them: nothing is decoded, so that they can be written as they were."""
    for batch in table.with_format("arrow").iter(batch_size=_BATCH):
        yield from batch.to_pylist()


def _prm800k_rows(data: str, path: Path) -> Rows:
    from datasets import Features, List, Value

    from factory.training.data import content_hash

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
        raise RecipeError(f"{data} has no solution with a rating ({_listed(reasons) or 'empty'})")
    return Rows(data, features, content_hash(path), read, count, dict(reasons))


def _is_processbench(path: Path) -> bool:
    """By the names in its first row."""
    if path.suffix not in {".json", ".jsonl"}:
        return False
    with path.open("rb") as file:
        head = file.readline(1 << 20) + file.read(1 << 16)
    return all(f'"{name}":'.encode() in head.replace(b" ", b"") for name in _PROCESSBENCH)


def _processbench_rows(data: str, path: Path) -> Rows:
    from datasets import Features, List, Value

    from factory.training.data import content_hash

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
        for s in solutions:
            yield {
                "id": s.id,
                "prompt": s.prompt,
                "completions": s.steps,
                "labels": s.labels,
                "subset": s.subset,
                "is_right": s.is_right,
            }

    left_out = Counter(row.error for row in bad)
    return Rows(data, features, content_hash(path), read, len(solutions), dict(left_out))


def _listed(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items())


# Rows as samples ---------------------------------------------------------------------------------


def sample_of(row: Mapping[str, Any], index: int, shape: Shape) -> Sample | BadRow:
    """The row as scoring stages read it. `index`: its place, from 0."""
    try:
        prompt, answers = _answers(row, shape)
        return made_sample(index, row, prompt, answers, _given_steps(row, shape))
    except SampleError as error:
        return bad_row(row, index, str(error))


def bad_row(row: Mapping[str, Any], index: int, error: str) -> BadRow:
    raw = msgspec.json.encode(row, enc_hook=repr)[: 4 * _RAW_CHARS]
    return BadRow(index, None, error, raw.decode("utf-8", "ignore")[:_RAW_CHARS])


def made_sample(
    index: int,
    row: Mapping[str, Any],
    prompt: list[Message],
    answers: Sequence[str],
    steps: list[StepLabels] | None = None,
) -> Sample:
    """A sample of these answers; id, tags and reference are the row's, where it has them."""
    name, tags, reference = row.get("prompt_id"), row.get("tags"), row.get("reference")
    digest = hashlib.blake2b(msgspec.json.encode(prompt), digest_size=8)
    return Sample(
        id=digest.hexdigest() if name is None or name == "" else str(name),
        index=index,
        prompt=prompt,
        tags=[t for t in tags if isinstance(t, str)] if isinstance(tags, list) else [],
        reference=None if reference is None else str(reference),
        candidates=[Candidate(i, text, GIVEN, GIVEN, "") for i, text in enumerate(answers)],
        step_labels=steps or [],
    )


def _answers(row: Mapping[str, Any], shape: Shape) -> tuple[list[Message], list[str]]:
    """The prompt that all answers share, and the answers."""
    columns = {"preference": ("chosen", "rejected"), "completion": ("completion",)}
    if shape in columns:
        names = columns[shape]
        conversations = [_conversation(row, row[name], name) for name in names]
    elif shape == "reward":
        responses = row["responses"]
        if not isinstance(responses, list) or not responses:
            raise SampleError(f"column 'responses': expected a list, found {_short(responses)}")
        conversations = [_conversation(row, r, "responses") for r in responses]
    else:
        conversations = [_conversation(row, "\n".join(steps_of(row)), "completions")]
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


def _given_steps(row: Mapping[str, Any], shape: Shape) -> list[StepLabels]:
    if shape != "process":
        return []
    steps = steps_of(row)
    unknown = [None] * len(steps)
    return [StepLabels(GIVEN, 0, steps, [*unknown], [*unknown])]


def _conversation(row: Mapping[str, Any], answer: Any, column: str) -> list[Message]:
    """The prompt and an answer; without a prompt, the conversation that the answer is.

    An answer that repeats the prompt, as UltraFeedback's do, is not put behind it again.
    """
    from factory.training.reward_rows import split_transcript

    prompt = row.get("prompt")
    if prompt is None:
        turns = split_transcript(answer) if isinstance(answer, str) else answer
        conversation = messages(turns, column)
    else:
        before = messages(prompt, "prompt")
        is_text = isinstance(answer, str)
        after = messages([{"role": "assistant", "content": answer}] if is_text else answer, column)
        is_repeated = len(after) > len(before) and after[: len(before)] == before
        conversation = after if is_repeated else [*before, *after]
    if conversation[-1]["role"] != "assistant":
        raise SampleError(f"column '{column}' does not end with the assistant's answer")
    if not conversation[-1]["content"].strip():
        raise SampleError(f"column '{column}' holds a blank answer")
    return conversation


def messages(value: Any, column: str) -> list[Message]:
    """A text (one user's turn) or a list of messages. Raises `SampleError` for anything else."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise SampleError(f"column '{column}': expected text or messages, found {_short(value)}")
    made: list[Message] = []
    for turn in value:
        role, content = (
            turn.get(k) if isinstance(turn, dict) else None for k in Message.__annotations__
        )
        if role not in _ROLES or not isinstance(content, str):
            raise SampleError(f"column '{column}': a message is {_short(turn)}")
        made.append({"role": role, "content": content})
    return made


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
