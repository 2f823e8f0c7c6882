"""From answers with scores to token ids, for the losses over the answers of a prompt.

In: a reward view (prompt, responses, scores), or for soft labels a preference view with its column
`preference`, which makes a list of two with scores p and 1 - p. A prompt that is messages goes
through the chat template, one that is text stays plain text with the end-of-text token after the
answer: the rules of TRL's DPO; a cut answer has no end (see `endings`). Out: per prompt its answers,
best first. No row vanishes: one that cannot be trained on has a reason, and `Encoded` counts them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from factory.core.errors import RecipeError
from factory.stats.finite import finite
from factory.training.common import endings

if TYPE_CHECKING:
    from datasets import Dataset

LOSSES = ("infonca", "nca", "rrhf")
"""Values of `loss_type` that train on lists, not pairs."""

LIST_COLUMNS = ("prompt", "responses", "scores")

NO_PAIR = "no two answers with different scores"
NO_SCORE = "no score"

Answer = tuple[Any, float | None, Any]
"""An answer, its score, and how it ended."""


@dataclass(frozen=True)
class Encoded:
    """A tokenised dataset, and what is not in it."""

    rows: Dataset
    """prompt_ids; answer_ids, a list for each answer; scores, descending (of soft labels: as given,
    chosen first). Prompt and any answer together have at most max_length tokens."""
    rows_left_out: dict[str, int]
    rows_cut: int
    """Rows used, of which an answer does not fit whole."""
    answers_left_out: dict[str, int]
    """Single answers of rows that are used."""
    missing: int
    """Rows used whose preference was null: 1 is used."""


def encode_pairs(dataset: Dataset, tokenizer: Any, max_length: int | None) -> Encoded:
    """Raises `RecipeError` for a preference outside 0 to 1."""

    def answers_of(row: Mapping[str, Any], index: int) -> list[Answer]:
        given = row["preference"]
        p = 1.0 if given is None else _number(given, "preference", index)
        if not 0 <= p <= 1:
            raise RecipeError(f"row {index} preference: expected 0 to 1, found {p:g}")
        reasons = [row.get(endings.REASONS[name]) for name in ("chosen", "rejected")]
        return list(zip((row["chosen"], row["rejected"]), (p, 1 - p), reasons, strict=True))

    missing = [given is None for given in dataset["preference"]]
    return _encoded(dataset, tokenizer, max_length, answers_of, missing, is_ranked=False)


def encode_lists(dataset: Dataset, tokenizer: Any, max_length: int | None) -> Encoded:
    """A prompt without two answers of different scores is left out: it says nothing about which is
    better. Raises `RecipeError` for lists of unequal length and for what is no score."""

    def answers_of(row: Mapping[str, Any], index: int) -> list[Answer]:
        answers, scores = row["responses"], row["scores"]
        if not isinstance(answers, list) or not isinstance(scores, list):
            raise RecipeError(f"row {index}: expected lists of responses and of scores")
        if len(answers) != len(scores):
            raise RecipeError(f"row {index} has {len(answers)} responses, {len(scores)} scores")
        numbers = [None if s is None else _number(s, "scores", index) for s in scores]
        reasons = endings.reasons_of(row.get(endings.REASONS["responses"]), len(answers))
        return list(zip(answers, numbers, reasons, strict=True))

    missing = [False] * len(dataset)
    return _encoded(dataset, tokenizer, max_length, answers_of, missing, is_ranked=True)


def too_long(max_length: int | None) -> str:
    return f"the prompt alone fills {max_length} tokens"


def _encoded(
    dataset: Dataset,
    tokenizer: Any,
    max_length: int | None,
    answers_of: Callable[[Mapping[str, Any], int], list[Answer]],
    missing: Sequence[bool],
    *,
    is_ranked: bool,
) -> Encoded:
    import datasets

    def encode(row: dict[str, Any], index: int) -> dict[str, Any]:
        answers = answers_of(row, index)
        kept = [(a, s, reason) for a, s, reason in answers if s is not None]
        if is_ranked:
            kept.sort(key=lambda answer: -answer[1])
        encoded: tuple[list[int], list[list[int]]] = ([], [])
        reason = ""
        if is_ranked and len({score for _, score, _ in kept}) < 2:
            reason = NO_PAIR
        else:
            wanted = [(a, endings.is_cut(r)) for a, _, r in kept]
            encoded = _token_ids(tokenizer, row["prompt"], wanted, index)
            if max_length is not None and len(encoded[0]) >= max_length:
                reason = too_long(max_length)
        prompt_ids, answer_ids = encoded
        room = None if max_length is None else max(max_length - len(prompt_ids), 0)
        return {
            "prompt_ids": prompt_ids,
            "answer_ids": [ids[:room] for ids in answer_ids],
            "scores": [score for _, score, _ in kept],
            "reason": reason,
            "unscored": len(answers) - len(kept),
            "is_cut": room is not None and any(len(ids) > room for ids in answer_ids),
        }

    ids = datasets.List(datasets.Value("int32"))
    columns = {
        "prompt_ids": ids,
        "answer_ids": datasets.List(ids),
        "scores": datasets.List(datasets.Value("float64")),
    }
    notes = {
        "reason": datasets.Value("string"),
        "unscored": datasets.Value("int32"),
        "is_cut": datasets.Value("bool"),
    }
    features = datasets.Features(**columns, **notes)
    table = dataset.map(
        encode, with_indices=True, remove_columns=dataset.column_names, features=features
    )
    reasons = table["reason"][:]
    places = [i for i, reason in enumerate(reasons) if not reason]
    used = table.select(places)
    unscored = sum(used["unscored"])
    return Encoded(
        rows=used.remove_columns(list(notes)),
        rows_left_out=dict(Counter(reason for reason in reasons if reason)),
        rows_cut=sum(used["is_cut"]),
        answers_left_out={NO_SCORE: unscored} if unscored else {},
        missing=sum(missing[i] for i in places),
    )


def _token_ids(
    tokenizer: Any, prompt: Any, answers: Sequence[tuple[Any, bool]], index: int
) -> tuple[list[int], list[list[int]]]:
    """The prompt's ids, and those of each answer; of one that `is_cut` without an end. The prompt ends
    where its own ids and those of some conversation part, which with most templates is its end."""
    if isinstance(prompt, str):
        before = _ids(tokenizer, prompt)
        end = tokenizer.eos_token
        texts = [
            _text(answer, index).removesuffix(end) + ("" if is_cut else end)
            for answer, is_cut in answers
        ]
        wholes = [_ids(tokenizer, prompt + text) for text in texts]
    else:
        before = _ids(tokenizer, prompt, add_generation_prompt=True)
        wholes = [
            endings.unended_ids(tokenizer, prompt + _messages(answer))
            if is_cut
            else _ids(tokenizer, prompt + _messages(answer))
            for answer, is_cut in answers
        ]
    same = min(endings.common(before, whole) for whole in wholes)
    return before[:same], [whole[same:] for whole in wholes]


def _ids(tokenizer: Any, given: Any, **template: Any) -> list[int]:
    if isinstance(given, str):
        ids: list[int] = tokenizer(given)["input_ids"]
        return ids
    ids = tokenizer.apply_chat_template(given, tokenize=True, return_dict=False, **template)
    return ids


def _messages(answer: Any) -> list[Any]:
    return [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer


def _text(answer: Any, index: int) -> str:
    if not isinstance(answer, str):
        raise RecipeError(f"row {index}: the prompt is text, but an answer is {answer!r:.60}")
    return answer


def _number(value: Any, column: str, index: int) -> float:
    if (number := finite(value)) is None:
        raise RecipeError(f"row {index} {column}: expected a finite number, found {value!r:.80}")
    return number
