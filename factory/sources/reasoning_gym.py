"""A source of generated problems with answers, without end: `path: reasoning-gym:TASK`.

In: a task of the package reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760) and its options.
Out: rows as in a file (prompt, id, tags, reference). Any row can be made without those before it.
The reference ends with `#### <answer>`, after the steps that lead there, where these are known: a sum
is worked out here, and a sum for which we get another answer is a bad row. An answer of several lines
is the reference unchanged.

Two seeds may make the same problem, often so for small sums. `options.exclude` holds the `limit` and
options of another source of the task; its problems are left out and others made instead.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping
from fractions import Fraction
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from factory.core.errors import SourceError
from factory.core.seeds import derive_seed
from factory.math import arithmetic, worked
from factory.math.answers import MARK, final_line, number
from factory.math.steps import split_steps
from factory.sources.formats.base import Row
from factory.sources.overlap import prompt_hash

PREFIX = "reasoning-gym:"
TRIES = 20
"""Problems made per excluded one before the source counts as exhausted."""
SUMS = ("basic_arithmetic", "chain_sum", "decimal_chain_sum", "products")
"""Tasks whose `metadata.expression` is worked out here."""


def is_problems(path: str) -> bool:
    return path.startswith(PREFIX)


class Problems:
    """The first `limit` problems of a task.

    `options.seed` (default 0) is hashed before the package gets it. In the package, row i of seed s is
    row i - 1 of seed s + 1, so seeds 0 and 1 would share nearly all rows.
    """

    columns = ["prompt", "id", "tags", "reference"]
    has_schema = True

    def __init__(self, path: str, options: Mapping[str, Any], limit: int | None) -> None:
        self.files: list[Path] = []
        self._task = path.removeprefix(PREFIX)
        if limit is None:
            raise SourceError(f"{path}: problems without end; set source.limit to their number")
        self._limit = limit
        if "size" in options:
            raise SourceError(f"{path}: source.options.size: set source.limit instead")
        self._seed = options.get("seed", 0)
        if type(self._seed) is not int:
            raise SourceError(
                f"{path}: source.options.seed: expected a whole number, found {self._seed!r}"
            )
        tasks, create = _package(path)
        if self._task not in tasks:
            near = difflib.get_close_matches(self._task, tasks, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"have: {', '.join(tasks)}"
            raise SourceError(f"{path}: no task {self._task!r}; {hint}")
        self._excluded = self._left_out(path, options)
        self._size = limit + TRIES * len(self._excluded)
        options = {name: value for name, value in options.items() if name != "exclude"}
        seed = derive_seed("problems", self._seed)
        try:
            self._data = create(self._task, **{**options, "seed": seed, "size": self._size})
        except Exception as error:  # each task raises its own errors for its options
            have = ", ".join(sorted({*tasks[self._task], "exclude"} - {"size"}))
            raise SourceError(f"{path}: source.options: {error} (have: {have})") from error
        self.version = f"reasoning-gym {version('reasoning-gym')}"

    def count(self, limit: int | None) -> int:
        return self._limit

    def rows(self, start: int, columns: list[str]) -> Iterator[Row]:
        if not self._excluded:
            yield from map(self._made, range(start, self._limit))
            return
        made = map(self._made, range(self._size))
        others = (row for row in made if not row.fields or _hash(row) not in self._excluded)
        at = start
        for row in islice(others, start, self._limit):
            at += 1
            yield row
        for _ in range(at, self._limit):
            yield Row(
                None, {}, f"{PREFIX}{self._task} makes no more problems that are not excluded"
            )

    def _made(self, index: int) -> Row:
        try:
            item = self._data[index]
        except Exception as error:  # each generator raises its own errors
            return Row(None, {}, f"{PREFIX}{self._task} made no problem {index}: {error!r}")
        return self._row(index, item)

    def _row(self, index: int, item: dict[str, Any]) -> Row:
        fields = {
            "prompt": item["question"].strip(),
            "id": f"{self._task}-{self._seed}-{index}",
            "tags": [self._task],
        }
        try:
            fields["reference"] = _reference(self._task, item)
        except ValueError as error:
            return Row(None, fields, str(error))
        return Row(None, fields)

    def _left_out(self, path: str, options: Mapping[str, Any]) -> set[bytes]:
        """Hashes of the prompts of the source that `options.exclude` describes."""
        if "exclude" not in options:
            return set()
        other = options["exclude"]
        limit = other.get("limit") if isinstance(other, dict) else None
        if type(limit) is not int or limit < 1 or "exclude" in other:
            raise SourceError(
                f"{path}: source.options.exclude: expected the limit and options of the other "
                f"source, as {{limit: 500, seed: 1}}, found {other!r:.100}"
            )
        rest = {name: value for name, value in other.items() if name != "limit"}
        return {_hash(row) for row in Problems(path, rest, limit).rows(0, []) if row.fields}


def _hash(row: Row) -> bytes:
    return prompt_hash([{"role": "user", "content": row.fields["prompt"]}])


def _package(path: str) -> tuple[dict[str, list[str]], Any]:
    """Task -> its options, and the function that makes a task."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the package's own dependencies
            import reasoning_gym
            from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise SourceError(
            f"{path}: needs the package reasoning-gym ({error}); pip install reasoning-gym==0.1.25"
        ) from error
    tasks = {name: list(config.__dataclass_fields__) for name, (_, config) in DATASETS.items()}
    return dict(sorted(tasks.items())), reasoning_gym.create_dataset


def _reference(task: str, item: dict[str, Any]) -> str | None:
    """The reference of a problem. Raises `ValueError` if its steps do not lead to the task's answer."""
    if item["answer"] is None:
        return None
    answer, facts = str(item["answer"]).strip(), item["metadata"]
    plain = answer if "\n" in answer else f"{MARK} {answer}"
    if task in SUMS:
        return _worked_sum(facts["expression"], answer, plain)
    if "answer_cot" in facts:
        solution = "\n".join(split_steps(facts["answer_cot"], "newline"))
        _compare(number(final_line(solution) or ""), answer, "its own solution")
        return solution
    return plain


def _worked_sum(expression: str, answer: str, plain: str) -> str:
    tokens = arithmetic.parse(expression)
    _compare(arithmetic.value(tokens), answer, expression)
    try:
        return "\n".join(worked.solve(tokens)[0])
    except ValueError:  # an intermediate value that no decimal can write
        return plain


def _compare(found: Fraction | None, answer: str, what: str) -> None:
    if found is None or found != number(answer):
        raise ValueError(f"the task's answer is {answer}, but {what} comes to {found}")
