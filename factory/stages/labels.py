"""Judges answer by the log-probabilities of label tokens; here they become probabilities."""

from __future__ import annotations

import math

from factory.engines.base import Completion

MIN_MASS = 0.01
"""Labels that together get less probability than this were not an answer: unparsed."""


def read_labels(
    completion: Completion, labels: tuple[str, ...]
) -> tuple[dict[str, float] | None, float]:
    """(probability of each label, normalised to 1; probability of all labels together, in [0, 1]).

    The first is None, unparsed, when a label's log-probability is missing or not finite or the
    labels' mass is below `MIN_MASS`.
    """
    logprobs = completion.label_logprobs or {}
    weights = [math.exp(logprobs[label]) for label in labels if label in logprobs]
    mass = sum(weights)
    if math.isnan(mass):
        return None, 0.0
    mass = min(mass, 1.0)
    if len(weights) < len(labels) or mass < MIN_MASS:
        return None, mass
    total = sum(weights)
    return {label: weight / total for label, weight in zip(labels, weights, strict=True)}, mass
