"""Reader and writer of PRM800K files: solutions with a person's rating of every step.

In: JSON lines as published with "Let's Verify Step by Step" (Lightman et al. 2023, arXiv
2305.20050), both phases. Out, in the file's order: `ProcessRow`; `Dropped` (left out by rule); `BadLine`
(not of the format). No line raises, and none is skipped silently.

A line is a tree: each step has several alternatives, and the solution continues from the chosen one, or
from the step that the labeler wrote. A line becomes

- one row for the solution's path. If the labeler stopped without choosing (at the first error, in phase
  2), the path ends with the first alternative rated wrong, else the first rated.
- one row for every other rated alternative: the path so far, then the alternative. The prefix has no
  ratings there, so that every rating of a file is learned exactly once; `ProcessRow.shared` keeps them.

A completion that the labeler flagged has no rating. On the path it is a step of unknown rating;
elsewhere it is left out. Both are counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from factory.core.errors import RecipeError
from factory.core.files import whole
from factory.sources.formats.base import RAW_CHARS
from factory.sources.formats.text import JsonLines

EXTENSIONS = (".jsonl", ".jsonl.gz")

_FINISH_REASONS = ("found_error", "solution", "bad_problem", "give_up")


class ProcessRow(msgspec.Struct):
    """A problem and the steps of a solution, with the rating of each step."""

    prompt: str
    steps: list[str]
    ratings: list[int | None]
    """Of each step: -1 wrong, 0 neither wrong nor useful, 1 right, None unknown. At least one is known."""
    answer: str | None = None
    """The problem's true answer, if the file has it."""
    finish_reason: str = "solution"
    """Reason for the end of labeling: found_error, solution or give_up."""
    line: int = 0
    """Line of the file, from 1."""
    shared: list[int | None] = []
    """For an alternative: the ratings of the steps before it, which are learned from the path's row."""


class Dropped(msgspec.Struct, frozen=True):
    """A line, a step or an alternative that was left out by rule."""

    line: int
    reason: str
    """One of a few reasons, for counting."""


class BadLine(msgspec.Struct, frozen=True):
    """A line that is not of the format. Nothing of it is used."""

    line: int
    reason: str
    raw: str
    """The line as read, cut to `RAW_CHARS` characters."""


class _Completion(msgspec.Struct):
    text: str
    rating: int | None = None
    flagged: bool | None = None
    """True: the labeler flagged it as faulty, so its rating does not count."""


class _Step(msgspec.Struct):
    completions: list[_Completion] | None = None
    human_completion: _Completion | str | None = None
    chosen_completion: int | None = None


class _Label(msgspec.Struct):
    steps: list[_Step]
    finish_reason: str


class _Question(msgspec.Struct):
    problem: str
    ground_truth_answer: str | None = None


class _Line(msgspec.Struct):
    question: _Question
    label: _Label
    is_quality_control_question: bool | None = None
    is_initial_screening_question: bool | None = None


class _Alternative(NamedTuple):
    text: str
    rating: int | None
    is_flagged: bool = False


def is_prm800k(path: Path) -> bool:
    """True if a JSON-lines file is PRM800K, by the keys of its first line that is an object.

    Raises `SourceError` if the file cannot be read.
    """
    rows = (row for row in JsonLines(path).rows() if row.error is None)
    return any({"question", "label"} <= row.fields.keys() for row in itertools.islice(rows, 1))


def read(path: Path) -> Iterator[ProcessRow | Dropped | BadLine]:
    """The contents of the file's lines, one line at a time (memory stays flat).

    Raises `SourceError` if the file itself cannot be read.
    """
    for row in JsonLines(path).rows():
        number = row.line or 0
        reason = row.error
        if reason is None:
            try:
                line = msgspec.convert(row.fields, _Line)
            except msgspec.ValidationError as error:
                reason = str(error)
            else:
                reason = _problem(line)
        if reason is not None:
            raw = (row.raw or b"").decode("utf-8", "replace")
            yield BadLine(number, reason, raw[:RAW_CHARS])
        elif line.is_quality_control_question:
            yield Dropped(number, "quality control")
        elif line.is_initial_screening_question:
            yield Dropped(number, "initial screening")
        elif line.label.finish_reason == "bad_problem":
            yield Dropped(number, "bad problem")
        else:
            yield from _rows(line, number)


def _problem(line: _Line) -> str | None:
    """An error that the types do not show; None: none. Steps and completions count from 0."""
    if line.label.finish_reason not in _FINISH_REASONS:
        expected = ", ".join(_FINISH_REASONS)
        return f"label.finish_reason: expected {expected}, found {line.label.finish_reason!r}"
    if not line.question.problem.strip():
        return "question.problem is blank"
    for number, step in enumerate(line.label.steps):
        where = f"label.steps[{number}]"
        completions = step.completions or []
        given = {f"completions[{index}]": found.rating for index, found in enumerate(completions)}
        if isinstance(step.human_completion, _Completion):
            given["human_completion"] = step.human_completion.rating
        for name, rating in given.items():
            if rating not in (-1, 0, 1, None):
                return f"{where}.{name}.rating: {rating}; a rating is -1, 0, 1 or null"
        chosen = step.chosen_completion
        if chosen is not None and not 0 <= chosen < len(completions):
            return f"{where}.chosen_completion: {chosen}, of {len(completions)} completions"
    return None


def _rows(line: _Line, number: int) -> Iterator[ProcessRow | Dropped]:
    """The path's row, then those of the other alternatives in the file's order."""

    def row(steps: Sequence[_Alternative], **more: Any) -> ProcessRow:
        return ProcessRow(
            prompt=line.question.problem,
            steps=[step.text for step in steps],
            ratings=more.pop("ratings", [step.rating for step in steps]),
            answer=line.question.ground_truth_answer,
            finish_reason=line.label.finish_reason,
            line=number,
            **more,
        )

    path: list[_Alternative] = []
    others: list[ProcessRow | Dropped] = []
    steps = line.label.steps
    for index, step in enumerate(steps):
        alternatives, chosen = _alternatives(step)
        on_path = _ending(alternatives) if chosen is None else chosen
        for place, alternative in enumerate(alternatives):
            if not alternative.text.strip():
                others.append(Dropped(number, "blank step"))
            elif alternative.is_flagged:
                others.append(Dropped(number, "flagged completion"))
            elif place == on_path:
                continue
            elif alternative.rating is None:
                others.append(Dropped(number, "alternative without a rating"))
            else:
                shared = [before.rating for before in path]
                ratings = [None] * len(path) + [alternative.rating]
                others.append(row([*path, alternative], ratings=ratings, shared=shared))
        if on_path is not None and alternatives[on_path].text.strip():
            path.append(alternatives[on_path])
        if chosen is None:
            if index < len(steps) - 1:
                others.append(Dropped(number, "steps after one where nothing was chosen"))
            break
    if any(step.rating is not None for step in path):
        yield row(path)
    else:
        yield Dropped(number, "no rating on the solution's path")
    yield from others


def _alternatives(step: _Step) -> tuple[list[_Alternative], int | None]:
    """The alternatives at a step, the labeler's own last, and the position of the one chosen.

    The labeler's own step, written as all alternatives were wrong, counts as right unless rated otherwise.
    """
    found = [
        _Alternative(c.text, None if c.flagged else c.rating, bool(c.flagged))
        for c in step.completions or []
    ]
    chosen = step.chosen_completion
    human = step.human_completion
    if human is not None:
        own = _Completion(human) if isinstance(human, str) else human
        rating = 1 if own.rating is None else own.rating
        chosen = len(found) if chosen is None else chosen
        found.append(_Alternative(own.text, None if own.flagged else rating, bool(own.flagged)))
    return found, chosen


def _ending(alternatives: Sequence[_Alternative]) -> int | None:
    """Position of the alternative where labeling stopped: the first rated wrong, else the first rated."""
    rated = [
        place
        for place, alternative in enumerate(alternatives)
        if alternative.rating is not None and alternative.text.strip()
    ]
    wrong = [place for place in rated if alternatives[place].rating == -1]
    return next(iter(wrong or rated), None)


# Writing -----------------------------------------------------------------------------------------


def from_view(row: Mapping[str, Any]) -> ProcessRow:
    """A row of a process view (`prompt`, `completions`, `labels`) as a process row.

    A prompt of one message becomes its text; a prompt of several, one paragraph per turn with its role.

    Raises `ValueError` for an invalid label, or if the number of labels is not that of the steps.
    """
    prompt = row["prompt"]
    if not isinstance(prompt, str):
        turns = [f"{m['role'].capitalize()}: {m['content']}" for m in prompt]
        prompt = prompt[0]["content"] if len(prompt) == 1 else "\n\n".join(turns)
    steps, labels = row["completions"], row["labels"]
    if len(steps) != len(labels):
        raise ValueError(f"{len(steps)} completions and {len(labels)} labels")
    return ProcessRow(prompt, list(steps), [rating_of(label) for label in labels])


def rating_of(label: bool | int | None) -> int | None:
    """A label as a rating: true is 1, false is -1; a number is a rating already.

    Raises `ValueError` for anything but true, false, null, -1, 0 and 1.

    >>> [rating_of(label) for label in (True, False, None, 0)]
    [1, -1, None, 0]
    """
    if isinstance(label, bool):
        return 1 if label else -1
    if label is None or (isinstance(label, int) and label in (-1, 0, 1)):
        return label
    raise ValueError(f"a label is true, false, null, or a rating of -1, 0 or 1; found {label!r}")


ZERO_AND_ONE = (
    "the labels are 0 and 1, never -1: whole numbers are ratings (-1 wrong, 0 neutral, 1 right), so "
    "no step would be wrong; write false and true"
)
"""The error in a file whose labels are 0 and 1, although each of them could be a rating."""


def write(rows: Iterable[ProcessRow], path: Path, labeler: str = "factory") -> int:
    """Write the rows as PRM800K, one completion per step, and return the number of lines written.

    `labeler`: the model or person that gave the ratings. The same rows make the same bytes. `path` is
    written whole or not at all. A row read back is the same, except for `line`, `shared` and a finish
    reason of give_up, which a single row does not show.

    Raises `RecipeError` if the file cannot be written.
    """
    count = 0
    try:
        with whole(path, is_shared=True) as half, half.open("wb") as file:
            for row in rows:
                file.write(msgspec.json.encode(_line_of(row, labeler)) + b"\n")
                count += 1
    except OSError as error:
        raise RecipeError(f"{path} cannot be written: {error.strerror or error}") from error
    return count


def _line_of(row: ProcessRow, labeler: str) -> dict[str, Any]:
    last = len(row.steps) - 1
    known = [rating for rating in row.ratings if rating is not None]
    ends_in_error = bool(known) and known[-1] == -1
    is_error_last = row.ratings[last] == -1
    is_first_error_last = is_error_last and -1 not in row.ratings[:last]
    steps = [
        {
            "completions": [{"text": text, "rating": rating, "flagged": False}],
            "human_completion": None,
            "chosen_completion": None if place == last and is_first_error_last else 0,
        }
        for place, (text, rating) in enumerate(zip(row.steps, row.ratings, strict=True))
    ]
    return {
        "labeler": labeler,
        "timestamp": None,
        "generation": None,
        "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {
            "problem": row.prompt,
            "ground_truth_solution": None,
            "ground_truth_answer": row.answer,
        },
        "label": {
            "steps": steps,
            "total_time": None,
            "finish_reason": "found_error" if ends_in_error else "solution",
        },
    }
