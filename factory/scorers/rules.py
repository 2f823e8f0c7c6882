"""Rules: a number from the text of an answer and its length. No model, no reference.

A recipe has them within a stage, online rewards by their kinds, so what a training is rewarded for can
be measured on prompts that it did not see:

    {kind: rule, name: short, rule: {kind: length, target: 30}}
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from factory.core.records import Sample, Score
from factory.core.sentences import has_ended, sentences
from factory.core.words import words
from factory.scorers.comparison import DECIMALS
from factory.stages.base import Models, Scorer, Stage, pattern_problem


class Rule(Stage):
    """The base of all rules: score each candidate by `score`. The model that wrote it counts its tokens."""

    name: str | None = Field(None, min_length=1)
    """Name in the log. None: the kind."""
    weight: float = 1.0
    """Weight in the total. Negative: a penalty. 0: logged only."""

    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})

    def facts_made(self) -> frozenset[str]:
        return frozenset({f"score:{self.name or self.kind}", "ranking"})

    def needs_tokens(self) -> bool:
        """True if `score` uses the number of tokens."""
        return False

    def score(self, text: str, tokens: int) -> float:
        """The reward of a completion of `tokens` tokens; higher is better."""
        raise TypeError(f"{type(self).__name__} does not define score")

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        name = self.kind if self.name is None else self.name
        for candidate in sample.answered():
            if self.needs_tokens() and not candidate.output_tokens:  # no model wrote it here
                unknown = "its tokens are not known"
                sample.scores.append(Score(name, candidate.index, None, unknown))
                continue
            value = self.score(candidate.text, candidate.output_tokens)
            sample.scores.append(Score(name, candidate.index, round(value, DECIMALS)))
        return sample


class Length(Rule):
    """Distance of the length from `target`: -|n - target| / target, at most 0. Or with `maximum`: 1 if the
    length is at most that, else 0."""

    kind: Literal["length"] = "length"
    target: int | None = Field(None, ge=1)
    maximum: int | None = Field(None, ge=0)
    unit: Literal["words", "tokens"] = "words"
    """Unit of the length n. Words are those of `factory/core/words.py`, in any script; tokens are the
    policy's, including the end of the text."""

    def problem(self) -> tuple[str, str] | None:
        if (self.target is None) == (self.maximum is None):
            return "target", "give `target` or `maximum`, one of the two"
        return None

    def needs_tokens(self) -> bool:
        return self.unit == "tokens"

    def score(self, text: str, tokens: int) -> float:
        n = tokens if self.unit == "tokens" else words(text)
        if self.target is not None:
            return -abs(n - self.target) / self.target
        return float(n <= (self.maximum or 0))


class Sentences(Rule):
    """1 if the text has one to `maximum` sentences and the last one has ended, else 0. An answer that was
    cut within its first sentence scores 0."""

    kind: Literal["sentences"] = "sentences"
    maximum: int = Field(1, ge=1)

    def score(self, text: str, tokens: int) -> float:
        found = sentences(text)
        return float(0 < len(found) <= self.maximum and has_ended(found[-1]))


class Pattern(Rule):
    """1 if the regular expression is found anywhere in the completion, else 0."""

    kind: Literal["pattern", "format"] = "pattern"
    pattern: str = Field(min_length=1)
    r"""A regular expression, such as `(?s)<think>.*</think>\s*\S`."""

    def problem(self) -> tuple[str, str] | None:
        return pattern_problem(self.pattern)

    def score(self, text: str, tokens: int) -> float:
        return float(re.search(self.pattern, text) is not None)


class Overlong(Rule):
    """DAPO's soft overlong punishment (Yu et al. 2025, arXiv 2503.14476, eq. 13), in tokens: 0 up to
    `maximum - cache`, from there linear to -1 at `maximum`, and -1 beyond."""

    kind: Literal["overlong"] = "overlong"
    maximum: int = Field(ge=1)
    """L_max, in tokens; usually the training's `max_completion_length`."""
    cache: int = Field(ge=1)
    """L_cache, in tokens: the punishment begins this long before `maximum`."""

    def problem(self) -> tuple[str, str] | None:
        if self.cache > self.maximum:
            return "cache", f"expected at most maximum ({self.maximum}), found {self.cache}"
        return None

    def needs_tokens(self) -> bool:
        return True

    def score(self, text: str, tokens: int) -> float:
        return max(-1.0, min(0.0, (self.maximum - self.cache - tokens) / self.cache))


RULES: dict[str, type[Rule]] = {
    "length": Length,
    "sentences": Sentences,
    "pattern": Pattern,
    "format": Pattern,
    "overlong": Overlong,
}


class RuleScore(Scorer):
    """Score each candidate by a rule."""

    kind: Literal["rule"] = "rule"
    name: str = "rule"
    """Name of the score, for views: `score: rule`."""
    rule: Annotated[Length | Sentences | Pattern | Overlong, Field(discriminator="kind")]

    def problem(self) -> tuple[str, str] | None:
        for field in ("name", "weight"):
            if getattr(self.rule, field) != type(self.rule).model_fields[field].default:
                return "rule", f"{field} is for the rewards of a training; here it has no effect"
        problem = self.rule.problem()
        return ("rule", f"{problem[0]}: {problem[1]}") if problem else None

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        return await self.rule.model_copy(update={"name": self.name})(sample, models)
