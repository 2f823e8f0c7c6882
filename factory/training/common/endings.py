"""Cut answers in training: they get no end token, so that no model learns to stop there.

The columns `REASONS` hold the answers' finish reasons: `stop`, or `length` for a cut answer. The ids of a
cut answer end with its own text, without the template's end of a turn or an end-of-text token. An answer
without the column, or with any other value, counts as ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from factory.core.records import Message
from factory.engines.render import conversation_ids, prompt_ids

if TYPE_CHECKING:
    from datasets import Dataset

REASONS = {
    "completion": "finish_reason",
    "chosen": "chosen_finish_reason",
    "rejected": "rejected_finish_reason",
    "responses": "finish_reasons",
}
"""Column of answers -> column of their finish reasons."""


def is_cut(reason: Any) -> bool:
    return bool(reason == "length")


def reasons_of(given: Any, count: int) -> list[Any]:
    """Finish reason of each of `count` responses, from a row's `finish_reasons`. None: unknown."""
    return given if isinstance(given, list) and len(given) == count else [None] * count


def unended_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Ids of a conversation up to the last character of its last message."""
    if tokenizer.chat_template is None:
        return prompt_ids(tokenizer, list(messages), {})
    apply = tokenizer.apply_chat_template
    try:
        return list(apply(messages, continue_final_message=True, return_dict=False))
    except ValueError:  # the template changes the answer, as one that takes its thought away
        return prompt_ids(tokenizer, list(messages[:-1]), {}, messages[-1]["content"])


def scored_ids(tokenizer: Any, messages: Sequence[Message], reason: Any) -> list[int]:
    """Ids that a reward model reads for a conversation whose last answer has the finish reason `reason`."""
    if is_cut(reason):
        return unended_ids(tokenizer, messages)
    return conversation_ids(tokenizer, messages, {})


def with_answer(tokenizer: Any, prompt: Any, answer: Any) -> list[int]:
    """Ids of a prompt and a cut answer, both messages or both text: those of TRL without the end."""
    if isinstance(prompt, str):
        text = prompt + answer.removesuffix(tokenizer.eos_token or "")  # which TRL has put there
        ids: list[int] = tokenizer(text)["input_ids"]
        return ids
    return unended_ids(tokenizer, [*prompt, *answer])


def without_ends(rows: Dataset, tokenizer: Any, ids_of: Mapping[str, str]) -> Dataset:
    """Rows that TRL tokenized, without the ends of cut answers. `ids_of`: column of answers -> of ids."""
    known = {answer: ids for answer, ids in ids_of.items() if REASONS[answer] in rows.column_names}
    if not known:
        return rows

    def trim(row: dict[str, Any]) -> dict[str, Any]:
        trimmed = {}
        for answer, ids in known.items():
            trimmed[ids] = row[ids]
            if is_cut(row[REASONS[answer]]):
                whole = with_answer(tokenizer, row["prompt"], row[answer])
                trimmed[ids] = whole[len(row["prompt_ids"]) :]
        return trimmed

    return rows.map(trim)


def labels_without_ends(rows: Dataset, tokenizer: Any) -> Dataset:
    """As `without_ends`, for rows with `input_ids` and `labels`."""
    if REASONS["completion"] not in rows.column_names:
        return rows

    def trim(row: dict[str, Any]) -> dict[str, Any]:
        ids, labels = row["input_ids"], row["labels"]
        if is_cut(row[REASONS["completion"]]):
            whole = with_answer(tokenizer, row["prompt"], row["completion"])
            same = common(ids, whole)
            ids, labels = whole, [*labels[:same], *whole[same:]]
        return {"input_ids": ids, "labels": labels}

    return rows.map(trim)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of tokens that both have in common from the start."""
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    return shared
