"""The columns of every view, side by side. TRL 1.16 trains on these unchanged.

Features are always explicit: a type is never guessed from the first rows, which may all be null.
"""

from __future__ import annotations

from factory.export.features import Features, List, Value


def _messages(*more: str) -> List:
    return List(dict.fromkeys(("role", "content", *more), TEXT))


TEXT, NUMBER, TRUTH = Value("string"), Value("float64"), Value("bool")
MESSAGES = _messages()

PREFERENCE = Features(
    prompt=MESSAGES,
    chosen=MESSAGES,
    rejected=MESSAGES,
    preference=NUMBER,
    margin=NUMBER,
    chosen_score=NUMBER,
    rejected_score=NUMBER,
    principle_ids=List(TEXT),
    revised_by=List(TEXT),
    judged_by=List(TEXT),
    agreement=NUMBER,
    chosen_origin=TEXT,
    rejected_origin=TEXT,
    chosen_finish_reason=TEXT,
    rejected_finish_reason=TEXT,
    prompt_id=TEXT,
)
KTO = Features(
    prompt=MESSAGES,
    completion=MESSAGES,
    label=TRUTH,
    score=NUMBER,
    finish_reason=TEXT,
    prompt_id=TEXT,
)
SFT = Features(
    prompt=MESSAGES, completion=MESSAGES, origin=TEXT, finish_reason=TEXT, prompt_id=TEXT
)
REWARD = Features(
    prompt=MESSAGES,
    responses=List(TEXT),
    scores=List(NUMBER),
    finish_reasons=List(TEXT),
    prompt_id=TEXT,
)
GRPO = Features(prompt=MESSAGES, reference=TEXT, tags=List(TEXT), prompt_id=TEXT)
PROCESS = Features(
    prompt=MESSAGES, completions=List(TEXT), labels=List(TRUTH), scores=List(NUMBER), prompt_id=TEXT
)


def with_extra(features: Features) -> Features:
    return Features(features, extra=TEXT)


def with_thoughts(features: Features, key: str) -> Features:
    """The features with a key for the thought in the answers' messages."""
    answers = {name for name in ANSWERS if features.get(name) == MESSAGES}
    return Features(features, **{name: _messages(key) for name in answers})


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
    "reviewed": "true: people chose; the judge's figures are null where it or the view did otherwise",
    "edited": "true: a person corrected the chosen answer",
    "extra": "the source's other columns, as the text of a JSON object",
}
"""Column -> its description in the dataset card."""
