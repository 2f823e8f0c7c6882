"""Score each candidate with one reward model, or with several, one per criterion.

A reward model with one label gives its raw logit. A model with two or more gives the log-odds of one
label, log p / (1 - p) under a softmax. With two labels that is the second, logit[1] - logit[0], unless
`label` says otherwise. There is no activation or scale: rewards are comparable only within one model.
So several are standardized over the run and combined at view time (`factory/scorers/combine.py`); the
trace keeps the raw ones.

An output that is not finite is an unparsed score: None, never zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import ConfigDict, Field

from factory.core.errors import EngineError
from factory.core.records import Combination, How, Sample, Score
from factory.core.yamlfile import nearest
from factory.engines.base import Scoring, Task
from factory.scorers.comparison import DECIMALS
from factory.scorers.process_reward import NOT_FINITE
from factory.stages.base import NOT_SAMPLED, Models, Question, Scorer

_FOR_SEVERAL = ("combine", "weights", "penalty", "standardize")


class Reward(Scorer):
    """Score each candidate with reward models."""

    model_config = ConfigDict(serialize_by_alias=True)  # digests of older runs stay valid
    old_names = {"standardise": "standardize"}

    kind: Literal["reward"] = "reward"
    name: str = Field("reward", min_length=1)
    """Name of the score, for views: `score: reward`. With several models it is the combined score, and
    each model's own score is `reward/<criterion>`."""
    model: str | None = None
    """The reward model, if there is only one."""
    models: dict[str, str] = {}
    """Several reward models: criterion -> model, such as `{helpful: rm1, harmless: rm2}`."""
    label: int | None = Field(None, ge=0)
    """Index, from 0, of the output for a good answer. None: the only one, or the second of two."""
    combine: How = "weights"
    """`weights`: the weighted sum. `minimum`: the worst criterion. `mean_minus_variance`: the mean
    minus `penalty` times the variance over the models."""
    weights: dict[str, float] = {}
    """Criterion -> weight. Empty: equal weights that sum to 1."""
    penalty: float = Field(1.0, ge=0)
    """Weight of the variance, for `combine: mean_minus_variance`."""
    standardize: bool = Field(True, serialization_alias="standardise")
    """Standardize each model's scores to mean 0 and variance 1 over the run before combining them."""

    def facts_made(self) -> frozenset[str]:
        return super().facts_made() | {f"score:{name}" for name in self._scorers()}

    def models_used(self) -> dict[str, str]:
        several = {f"models.{criterion}": model for criterion, model in self.models.items()}
        return several if self.model is None else {"model": self.model, **several}

    @classmethod
    def task(cls) -> Task:
        return "classify"

    def problem(self) -> tuple[str, str] | None:
        if self.model is None and not self.models:
            return "model", "expected `model: NAME` or `models: {CRITERION: NAME, ...}`, found none"
        if self.model is not None and self.models:
            return "models", "expected `model` or `models`, found both; leave one out"
        if self.model is not None:
            for field in _FOR_SEVERAL:
                if getattr(self, field) != type(self).model_fields[field].default:
                    return field, f"combines several `models`; there is one, '{self.model}'"
            return None
        if self.weights and self.combine != "weights":
            return "weights", f"is for combine: weights; {self.combine} has none"
        if self.combine != "mean_minus_variance" and self.penalty != 1.0:
            return "penalty", f"is for combine: mean_minus_variance; {self.combine} has none"
        return self._weights_problem() if self.weights else None

    def _weights_problem(self) -> tuple[str, str] | None:
        have = f"(have: {', '.join(self.models)})"
        for criterion in self.weights:
            if criterion not in self.models:
                hint = nearest(criterion, self.models)
                return "weights", f"'{criterion}' is none of the `models`{hint} {have}"
        if missing := [criterion for criterion in self.models if criterion not in self.weights]:
            return "weights", f"expected a weight for each of the `models`; add '{missing[0]}'"
        if not any(self.weights.values()):
            return "weights", "all are 0, so every answer would score the same; raise one"
        return None

    def combinations(self) -> list[Combination]:
        if self.model is not None:
            return []
        equal = 1 / len(self.models)
        return [
            Combination(
                name=self.name,
                parts={f"{self.name}/{c}": self.weights.get(c, equal) for c in self.models},
                how=self.combine,
                penalty=self.penalty,
                standardize=self.standardize,
            )
        ]

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        candidates = sample.answered()
        questions = [
            Question(sample.conversation(candidate), NOT_SAMPLED, scoring=Scoring())
            for candidate in candidates
        ]
        for name, model in self._scorers().items():
            answers = await models.ask(model, questions)
            for candidate, answer in zip(candidates, answers, strict=True):
                logits = _logits(answer.completion.scores, model)
                value = reward(logits, self.label, model)
                is_read = all(math.isfinite(x) for x in (*logits, value))
                given, detail = (round(value, DECIMALS), "") if is_read else (None, NOT_FINITE)
                sample.scores.append(Score(name, candidate.index, given, detail, [answer.call]))
        return sample

    def _scorers(self) -> dict[str, str]:
        """Name of each raw score -> its model."""
        if self.model is not None:
            return {self.name: self.model}
        return {f"{self.name}/{criterion}": model for criterion, model in self.models.items()}


def reward(logits: Sequence[float], label: int | None, model: str) -> float:
    """The reward of one answer from one model's outputs; higher is better. Not finite if they are not.

    Raises `EngineError` if `label` does not fit the number of outputs, as every sample would fail.
    """
    count = len(logits)
    if label is not None and label >= count:
        raise EngineError(
            f"model '{model}' has {count} label{'s' * (count != 1)}, so `label: {label}` is not "
            "there (labels count from 0); fix the reward stage's `label`, or name another model"
        )
    if count == 1:
        return logits[0]
    if label is None:
        if count > 2:
            raise EngineError(
                f"model '{model}' has {count} labels and the reward stage does not say which is "
                f"the good one; set its `label` (0 to {count - 1}), or name a model with one label"
            )
        label = 1
    others = [x for i, x in enumerate(logits) if i != label]
    most = max(others)
    return logits[label] - most - math.log(sum(math.exp(x - most) for x in others))


def _logits(scores: list[list[float]] | None, model: str) -> list[float]:
    if scores is None or len(scores) != 1 or not scores[0]:
        raise EngineError(
            f"model '{model}' was asked for one row of scores and gave {scores}; a reward stage "
            "needs a sequence classification model"
        )
    return scores[0]
