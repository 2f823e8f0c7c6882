"""Encoding shared by pairs and lists of answers.

A row that cannot be trained on is left out with a reason, and `Encoded` counts it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from factory.core.errors import RecipeError
from factory.stats.finite import finite
from factory.training.common.endings import REASONS, reasons_of
from factory.training.common.progress import say

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from factory.training.common.session import Session

PAIR_COLUMNS = ("chosen", "rejected")
LIST_COLUMNS = ("prompt", "responses", "scores")
ScoredAnswer = tuple[Any, float | None, Any]
"""An answer, its score, and how it ended."""
NO_PAIR = "no two answers with different scores"
NO_SCORE = "no score"


@dataclass(frozen=True)
class Encoded:
    """A tokenized dataset, and counts of what was left out."""

    rows: Dataset
    rows_left_out: dict[str, int]
    """By reason."""
    answers_left_out: dict[str, int]
    """Single answers of lists whose other answers are used, by reason."""
    missing: int
    """Rows used whose preference or margin, though asked for, was null."""
    rows_cut: int
    """Rows used, of which an answer does not fit whole."""
    longest: int
    """Tokens of the longest answer with its prompt, left out or not."""


Encode = Callable[[dict[str, Any], int], dict[str, Any]]
"""A function from a row and its position to its columns, `reason` (empty: the row is used), and those of
the other notes of `encoded` that differ from their defaults."""


def encoded(dataset: Dataset, encode: Encode, columns: Mapping[str, Any]) -> Encoded:
    """`columns`: name -> feature of what `encode` makes besides its notes."""
    import datasets

    notes = {
        "reason": datasets.Value("string"),
        "answer_reasons": datasets.List(datasets.Value("string")),
        "is_missing": datasets.Value("bool"),
        "is_cut": datasets.Value("bool"),
        "longest": datasets.Value("int32"),
    }
    unsaid = {"answer_reasons": [], "is_missing": False, "is_cut": False, "longest": 0}

    def noted(row: dict[str, Any], index: int) -> dict[str, Any]:
        return unsaid | encode(row, index)

    features = datasets.Features(**columns, **notes)
    table = dataset.map(
        noted, with_indices=True, remove_columns=dataset.column_names, features=features
    )
    reasons = table["reason"][:]
    used = table.select([i for i, reason in enumerate(reasons) if not reason])
    return Encoded(
        rows=used.remove_columns(list(notes)),
        rows_left_out=dict(Counter(reason for reason in reasons if reason)),
        answers_left_out=dict(Counter(r for rs in used["answer_reasons"] for r in rs)),
        missing=sum(used["is_missing"]),
        rows_cut=sum(used["is_cut"]),
        longest=max(table["longest"]),
    )


def responses_of(row: Mapping[str, Any], index: int) -> list[ScoredAnswer]:
    """A reward view's answers, each with its score and how it ended.

    Raises `RecipeError` for lists of unequal length and for what is no score.
    """
    answers, scores = row["responses"], row["scores"]
    if not isinstance(answers, list) or not isinstance(scores, list):
        raise RecipeError(f"row {index}: expected lists of responses and of scores")
    if len(answers) != len(scores):
        raise RecipeError(f"row {index} has {len(answers)} responses, {len(scores)} scores")
    numbers = [number(score, "scores", index) for score in scores]
    reasons = reasons_of(row.get(REASONS["responses"]), len(answers))
    return list(zip(answers, numbers, reasons, strict=True))


def answer_text(answer: Any, index: int) -> str:
    """An answer to a prompt that is text. Raises `RecipeError` if it is none."""
    if not isinstance(answer, str):
        raise RecipeError(f"row {index}: the prompt is text, but an answer is {answer!r:.60}")
    return answer


def preference_of(row: Mapping[str, Any], index: int) -> float | None:
    """P(chosen is better). Raises `RecipeError` for one outside 0 to 1."""
    p = number(row["preference"], "preference", index)
    if p is not None and not 0 <= p <= 1:
        raise RecipeError(f"row {index} preference: expected 0 to 1, found {p:g}")
    return p


def number(value: Any, column: str, index: int) -> float | None:
    """Raises `RecipeError` for what is neither null nor a finite number."""
    if value is None:
        return None
    if (known := finite(value)) is None:
        raise RecipeError(f"row {index} {column}: expected a finite number, found {value!r:.80}")
    return known


def say_what_is_missing(session: Session, found: Encoded, column: str | None) -> None:
    """Print and record what was left out. `column`: that of `Encoded.missing`."""
    session.leave_out(found.rows_left_out)
    for reason, count in found.answers_left_out.items():
        say(f"{count} answers of the other rows left out: {reason}")
    if found.missing:
        used = 0 if column == "margin" else 1
        say(f"{found.missing} of {len(session.dataset)} rows have no {column}: {used} is used")


def log_means(trainer: Any, values: Mapping[str, Tensor]) -> None:
    """For the log of a trainer of TRL's, which has the mean since the last."""
    mode = "train" if trainer.model.training else "eval"
    for name, value in values.items():
        trainer._metrics[mode][name].append(
            trainer.accelerator.gather_for_metrics(value.detach()).mean().item()
        )
