"""Encoding of rows of a preference or reward view as token ids for the reward trainer.

The ids are `engines.render.conversation_ids`'s, which the engines score; a cut answer has no end (see
`endings`). Out: `Encoded`, whose rows have of pairs chosen_ids, rejected_ids, preference, margin; of
lists ids, scores, best (an index into them); of both answer_start, where the best's last message begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import RecipeError, SampleError
from factory.core.records import Message
from factory.engines.render import prompt_ids
from factory.sources.conversation import read_exchange
from factory.training.common.data import Opened, open_dataset
from factory.training.common.endings import REASONS, common, scored_ids
from factory.training.offline.encoding import (
    LIST_COLUMNS,
    NO_PAIR,
    NO_SCORE,
    PAIR_COLUMNS,
    Encoded,
    encoded,
    number,
    preference_of,
    responses_of,
)

if TYPE_CHECKING:
    from datasets import Dataset

SAME = "both answers are the same"


def open_rows(kind: str, data: Path | str, config: Mapping[str, Any]) -> Opened:
    """The dataset, of pairs or of lists."""
    return open_dataset(data, kind, PAIR_COLUMNS, LIST_COLUMNS)


def encode_pairs(
    dataset: Dataset,
    tokenizer: Any,
    max_length: int | None,
    *,
    weigh: str | None,
    finds_answer: bool,
) -> Encoded:
    """`weigh`: the column that is asked for, `preference` (null: 1) or `margin` (null: 0).
    `finds_answer`: fill `answer_start`, else 0."""
    import datasets

    def encode(row: dict[str, Any], index: int) -> dict[str, Any]:
        chosen, rejected = (_conversation(row, row[n], n, index) for n in ("chosen", "rejected"))
        chosen_ids = scored_ids(tokenizer, chosen, row.get(REASONS["chosen"]))
        rejected_ids = scored_ids(tokenizer, rejected, row.get(REASONS["rejected"]))
        longest = max(len(chosen_ids), len(rejected_ids))
        reason = ""
        if max_length is not None and longest > max_length:
            reason = too_long(max_length)
        elif chosen_ids == rejected_ids:
            reason = SAME
        weight = None
        if weigh == "preference":
            weight = preference_of(row, index)
        elif weigh is not None:
            weight = number(row[weigh], weigh, index)
        return {
            "chosen_ids": chosen_ids,
            "rejected_ids": rejected_ids,
            "preference": 1.0 if weigh != "preference" or weight is None else weight,
            "margin": 0.0 if weigh != "margin" or weight is None else weight,
            "answer_start": _answer_start(tokenizer, chosen, chosen_ids) if finds_answer else 0,
            "reason": reason,
            "is_missing": weigh is not None and weight is None,
            "longest": longest,
        }

    ids = datasets.List(datasets.Value("int32"))
    columns = {"chosen_ids": ids, "rejected_ids": ids}
    columns |= {name: datasets.Value("float64") for name in ("preference", "margin")}
    return encoded(dataset, encode, {**columns, "answer_start": datasets.Value("int32")})


def encode_lists(
    dataset: Dataset,
    tokenizer: Any,
    max_length: int | None,
    *,
    needs_pair: bool,
    finds_answer: bool,
) -> Encoded:
    """`needs_pair`: leave out prompts whose answers have one score. `finds_answer`: as in `encode_pairs`."""
    import datasets

    def encode(row: dict[str, Any], index: int) -> dict[str, Any]:
        kept, reasons, longest = [], [], 0
        for response, score, ending in responses_of(row, index):
            answer = _conversation(row, response, "responses", index)
            ids = scored_ids(tokenizer, answer, ending)
            longest = max(longest, len(ids))
            if score is None:
                reasons.append(NO_SCORE)
            elif max_length is not None and len(ids) > max_length:
                reasons.append(too_long(max_length))
            else:
                kept.append((ids, score, answer))
        reason = ""
        if len({score for _, score, _ in kept}) < (2 if needs_pair else 1):
            reason = NO_PAIR if needs_pair else NO_SCORE
            if max_length is not None and too_long(max_length) in reasons:
                reason = too_long(max_length)
        # The first of the best.
        best = max(range(len(kept)), key=lambda i: kept[i][1], default=0)
        start = 0
        if kept and finds_answer:
            start = _answer_start(tokenizer, kept[best][2], kept[best][0])
        return {
            "ids": [ids for ids, _, _ in kept],
            "scores": [score for _, score, _ in kept],
            "best": best,
            "answer_start": start,
            "reason": reason,
            "answer_reasons": [] if reason else reasons,
            "longest": longest,
        }

    columns = {
        "ids": datasets.List(datasets.List(datasets.Value("int32"))),
        "scores": datasets.List(datasets.Value("float64")),
        "best": datasets.Value("int32"),
    }
    return encoded(dataset, encode, {**columns, "answer_start": datasets.Value("int32")})


def too_long(max_length: int) -> str:
    return f"longer than max_length, {max_length} tokens"


def _conversation(row: Mapping[str, Any], answer: Any, column: str, index: int) -> list[Message]:
    """Prompt and answer, or without a prompt column the conversation that the answer is."""
    try:
        prompt, turns = read_exchange(row, answer, column)
    except SampleError as error:
        raise RecipeError(f"row {index}: {error}") from error
    return [*prompt, *turns]


def _answer_start(tokenizer: Any, messages: Sequence[Message], ids: Sequence[int]) -> int:
    """The first token that the messages before the last do not already decide."""
    before = prompt_ids(tokenizer, messages[:-1], {}) if len(messages) > 1 else []
    return common(before, ids[:-1])
