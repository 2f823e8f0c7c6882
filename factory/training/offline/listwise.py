"""Encoding of answers with scores as token ids, for the losses over the answers of a prompt.

In: a reward view, or for soft labels a preference view, which makes a list of two with scores p and
1 - p. Tokens are those of TRL's DPO, but a cut answer has no end (see `endings`). Out: `Encoded`, whose
rows have prompt_ids, answer_ids (a list for each answer) and scores, descending (of soft labels: as
given, chosen first); prompt and any answer together have at most max_length tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.training.common import endings
from factory.training.common.data import VIEWS, Opened, open_dataset
from factory.training.offline.encoding import (
    NO_PAIR,
    NO_SCORE,
    Encoded,
    ScoredAnswer,
    answer_text,
    encoded,
    preference_of,
    responses_of,
)

if TYPE_CHECKING:
    from datasets import Dataset

LOSSES = ("infonca", "nca", "rrhf")
"""Values of `loss_type` that train on lists, not pairs."""


def open_rows(kind: str, data: Path | str, config: Mapping[str, Any]) -> Opened:
    """The dataset. For one of `LOSSES`, `dpo` itself looks for the columns of lists."""
    loss = config.get("loss_type")
    given = [loss] if isinstance(loss, str) else loss or ()
    needed = ("prompt",) if set(given) & set(LOSSES) else VIEWS["preference"]
    return open_dataset(data, kind, needed)


def encode_pairs(dataset: Dataset, tokenizer: Any, max_length: int | None) -> Encoded:
    """Encode pairs. Raises `RecipeError` for a preference outside 0 to 1."""

    def answers_of(row: Mapping[str, Any], index: int) -> list[ScoredAnswer]:
        given = preference_of(row, index)
        p = 1.0 if given is None else given
        reasons = [row.get(endings.REASONS[name]) for name in ("chosen", "rejected")]
        return list(zip((row["chosen"], row["rejected"]), (p, 1 - p), reasons, strict=True))

    return _encoded(dataset, tokenizer, max_length, answers_of, is_ranked=False)


def encode_lists(dataset: Dataset, tokenizer: Any, max_length: int | None) -> Encoded:
    """Encode lists. A prompt without two answers of different scores is left out, since it does not show
    which is better. Raises `RecipeError` for lists of unequal length and for an invalid score."""
    return _encoded(dataset, tokenizer, max_length, responses_of, is_ranked=True)


def too_long(max_length: int | None) -> str:
    return f"the prompt alone fills {max_length} tokens"


def _encoded(
    dataset: Dataset,
    tokenizer: Any,
    max_length: int | None,
    answers_of: Callable[[Mapping[str, Any], int], list[ScoredAnswer]],
    *,
    is_ranked: bool,
) -> Encoded:
    import datasets

    def encode(row: dict[str, Any], index: int) -> dict[str, Any]:
        answers = answers_of(row, index)
        kept = [(a, s, reason) for a, s, reason in answers if s is not None]
        if is_ranked:
            kept.sort(key=lambda answer: -answer[1])
        prompt_ids, answer_ids = list[int](), list[list[int]]()
        reason = ""
        if is_ranked and len({score for _, score, _ in kept}) < 2:
            reason = NO_PAIR
        else:
            wanted = [(a, endings.is_cut(r)) for a, _, r in kept]
            prompt_ids, answer_ids = _token_ids(tokenizer, row["prompt"], wanted, index)
            if max_length is not None and len(prompt_ids) >= max_length:
                reason = too_long(max_length)
        room = None if max_length is None else max(max_length - len(prompt_ids), 0)
        return {
            "prompt_ids": prompt_ids,
            "answer_ids": [ids[:room] for ids in answer_ids],
            "scores": [score for _, score, _ in kept],
            "reason": reason,
            "answer_reasons": [NO_SCORE] * (len(answers) - len(kept)),
            "is_missing": not is_ranked and row["preference"] is None,
            "is_cut": room is not None and any(len(ids) > room for ids in answer_ids),
        }

    ids = datasets.List(datasets.Value("int32"))
    columns = {
        "prompt_ids": ids,
        "answer_ids": datasets.List(ids),
        "scores": datasets.List(datasets.Value("float64")),
    }
    return encoded(dataset, encode, columns)


def _token_ids(
    tokenizer: Any, prompt: Any, answers: Sequence[tuple[Any, bool]], index: int
) -> tuple[list[int], list[list[int]]]:
    """The prompt's ids, and those of each answer; of one that `is_cut` without an end. The prompt ends
    where its own ids and those of some conversation part, which with most templates is its end."""
    if isinstance(prompt, str):
        before = _ids(tokenizer, prompt)
        end = tokenizer.eos_token
        texts = [
            answer_text(answer, index).removesuffix(end) + ("" if is_cut else end)
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
