"""Judges answer with one label token; its log-probabilities, not prose, are what is read.

The answer's first words are put into the judge's mouth, so that the next token is the label. With
reasoning the judge is first asked to think aloud, and what it said stands before those words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from factory.engines.base import Completion, Sampling
from factory.records import Message
from factory.stages.base import Models, Question

MIN_MASS = 0.01
"""Labels that together get less probability than this were not an answer: unparsed."""
DECIMALS = 6
"""Kept of probabilities and of means over them. Below is float noise, which would make a winner of
a tie."""
REASON = "Let us think step by step:"
LABEL_CALL = Sampling(temperature=0.0, max_tokens=1)


class Label(NamedTuple):
    """A judge's answer to one conversation."""

    probabilities: dict[str, float] | None
    """Of each label, in [0, 1], summing to 1. None: unparsed."""
    mass: float
    """Probability of all labels together, in [0, 1]."""
    call: str
    reasoning: str = ""
    reasoning_call: str = ""
    """The call that reasoned, of a judge that was asked to."""


async def ask_labels(
    models: Models,
    model: str,
    conversations: Sequence[list[Message]],
    labels: tuple[str, ...],
    *,
    prefix: str,
    reasoning: Sampling | None,
    salts: Sequence[tuple[object, ...]],
) -> list[Label]:
    """The label that follows `prefix` in each conversation. `reasoning`: think first, sampled so,
    with the conversation's salt; None: answer at once."""
    reasons = reasoning_calls = [""] * len(conversations)
    prefixes = [prefix] * len(conversations)
    if reasoning is not None:
        thoughts = await models.ask(
            model,
            [
                Question(messages, reasoning, salt=salt, prefix=REASON)
                for messages, salt in zip(conversations, salts, strict=True)
            ],
        )
        reasons = [thought.completion.text.strip() for thought in thoughts]
        reasoning_calls = [thought.call for thought in thoughts]
        prefixes = [f"{REASON} {reason}\n{prefix}" for reason in reasons]
    asked = await models.ask(
        model,
        [
            Question(messages, LABEL_CALL, prefix=words, labels=labels)
            for messages, words in zip(conversations, prefixes, strict=True)
        ],
    )
    return [
        Label(*read_labels(answer.completion, labels), answer.call, reason, reasoning_call)
        for answer, reason, reasoning_call in zip(asked, reasons, reasoning_calls, strict=True)
    ]


def label_examples(
    messages: list[Message], labels: tuple[str, ...], *, prefix: str, reasoning: Sampling | None
) -> list[Question]:
    """The kinds of call that `ask_labels` makes, for `Stage.examples`."""
    if reasoning is None:
        return [Question(messages, LABEL_CALL, prefix=prefix, labels=labels)]
    return [
        Question(messages, reasoning, prefix=REASON),
        Question(messages, LABEL_CALL, prefix=f"{REASON} I see.\n{prefix}", labels=labels),
    ]


def leaning(p: float | None) -> bool | None:
    """Which way a probability leans: above one half, or below. None: it is unknown, or a tie, which
    is neither; of float noise no tie is broken."""
    if p is None or round(p, DECIMALS) == 0.5:
        return None
    return p > 0.5


def read_labels(
    completion: Completion, labels: tuple[str, ...]
) -> tuple[dict[str, float] | None, float]:
    """(probability of each label, normalised to 1; probability of all labels together, in [0, 1]).

    The first is None, unparsed, when a label's log-probability is missing or not finite or the
    labels' mass is below `MIN_MASS`.
    """
    logprobs = completion.label_logprobs or {}
    known = [logprobs[label] for label in labels if math.isfinite(logprobs.get(label, math.nan))]
    weights = [math.exp(min(logprob, 0.0)) for logprob in known]
    total = sum(weights)
    mass = min(total, 1.0)
    if len(weights) < len(labels) or mass < MIN_MASS:
        return None, mass
    return {label: weight / total for label, weight in zip(labels, weights, strict=True)}, mass
