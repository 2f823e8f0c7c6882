"""The columns of every view, side by side. TRL 1.16 trains on these unchanged.

Features are always explicit: a type is never guessed from the first rows, which may all be null.
"""

from __future__ import annotations

from factory.export.features import Features, List, Value


def preference() -> Features:
    return Features(
        {
            "prompt": _messages(),
            "chosen": _messages(),
            "rejected": _messages(),
            "preference": Value("float64"),
            "margin": Value("float64"),
            "chosen_score": Value("float64"),
            "rejected_score": Value("float64"),
            "principle_ids": List(Value("string")),
            "revised_by": List(Value("string")),
            "judged_by": List(Value("string")),
            "agreement": Value("float64"),
            "chosen_origin": Value("string"),
            "rejected_origin": Value("string"),
            "chosen_finish_reason": Value("string"),
            "rejected_finish_reason": Value("string"),
            "prompt_id": Value("string"),
        }
    )


def kto() -> Features:
    return Features(
        {
            "prompt": _messages(),
            "completion": _messages(),
            "label": Value("bool"),
            "score": Value("float64"),
            "finish_reason": Value("string"),
            "prompt_id": Value("string"),
        }
    )


def sft() -> Features:
    return Features(
        {
            "prompt": _messages(),
            "completion": _messages(),
            "origin": Value("string"),
            "finish_reason": Value("string"),
            "prompt_id": Value("string"),
        }
    )


def reward() -> Features:
    return Features(
        {
            "prompt": _messages(),
            "responses": List(Value("string")),
            "scores": List(Value("float64")),
            "finish_reasons": List(Value("string")),
            "prompt_id": Value("string"),
        }
    )


def grpo() -> Features:
    return Features(
        {
            "prompt": _messages(),
            "reference": Value("string"),
            "tags": List(Value("string")),
            "prompt_id": Value("string"),
        }
    )


def process() -> Features:
    return Features(
        {
            "prompt": _messages(),
            "completions": List(Value("string")),
            "labels": List(Value("bool")),
            "scores": List(Value("float64")),
            "prompt_id": Value("string"),
        }
    )


def with_extra(features: Features) -> Features:
    return Features({**features, "extra": Value("string")})


def with_thoughts(features: Features, key: str) -> Features:
    """The features with a key for the thought in the answers' messages."""
    return Features(
        {
            name: _messages(key) if name in ANSWERS and feature == _messages() else feature
            for name, feature in features.items()
        }
    )


def _messages(*more: str) -> List:
    return List({name: Value("string") for name in ("role", "content", *more)})


ANSWERS = ("chosen", "rejected", "completion")
"""Columns that hold an answer as messages."""
MEANINGS = {
    "prompt": "the conversation to answer, as messages",
    "chosen": "the better answer, as one assistant message",
    "rejected": "the worse answer, as one assistant message",
    "completion": "the answer, as one assistant message",
    "preference": "the judge's P(chosen is better), in (0.5, 1]; null where scores ranked the pair",
    "margin": "chosen_score - rejected_score, above 0; null where nothing was measured",
    "chosen_score": "the chosen answer's score, or the judge's P(it is better)",
    "rejected_score": "the same of the rejected answer",
    "principle_ids": "the constitution's principles that were applied",
    "revised_by": "principles of the critique that the chosen answer was revised by; of several "
    "rounds, the last; empty: it is no revision",
    "judged_by": "principles that the judge compared the two by; empty: no judge did",
    "agreement": "share of the judge's readings that prefer the chosen answer, in [0, 1]",
    "chosen_origin": "the stage that wrote the chosen answer",
    "rejected_origin": "the stage that wrote the rejected answer",
    "chosen_finish_reason": "stop: the chosen answer ended; length: it was cut at max_tokens",
    "rejected_finish_reason": "the same of the rejected answer",
    "finish_reason": "stop: the answer ended by itself; length: it was cut at max_tokens",
    "finish_reasons": "of each response: stop or length, as it ended",
    "label": "true: a good answer",
    "score": "the score behind the label",
    "origin": "the stage that wrote the answer",
    "responses": "different answers to the prompt, as texts",
    "reference": "the source's reference answer; null where it has none",
    "tags": "the source's tags of the prompt",
    "scores": "of each response: its score; of each step: P(correct), in [0, 1], null: unknown",
    "completions": "the steps of one solution, in order, as texts",
    "labels": "of each step: true: correct; null: unknown, as after the first error",
    "prompt_id": "the source's id of the prompt",
    "extra": "the source's other columns, as the text of a JSON object",
}
"""Column -> its description in the dataset card."""
