"""Rules: a number from the text of an answer and its length. No model, no reference. Stage `rule`
scores candidates by them, online trainings are rewarded by them."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from factory.core.config import Config
from factory.core.sentences import has_ended, sentences
from factory.core.words import words


class Rule(Config):
    """The base of all rules."""

    kind: str
    name: str | None = Field(None, min_length=1)
    """What it is logged as. None: the kind."""
    weight: float = 1.0
    """Its share of the total; negative: a penalty; 0: logged only."""

    def problem(self) -> tuple[str, str] | None:
        """A field and what is wrong with it; None: nothing."""
        return None

    def needs_tokens(self) -> bool:
        """Whether `score` reads the number of tokens."""
        return False

    def score(self, text: str, tokens: int) -> float:
        """The reward of a completion of `tokens` tokens; higher is better."""
        raise TypeError(f"{type(self).__name__} does not define score")


class Length(Rule):
    """How near the length is to `target`: -|n - target| / target, 0 at best; or whether it is at
    most `maximum`: 1 or 0."""

    kind: Literal["length"] = "length"
    target: int | None = Field(None, ge=1)
    maximum: int | None = Field(None, ge=0)
    unit: Literal["words", "tokens"] = "words"
    """What n counts. Words are those of `factory/core/words.py`, in any script; tokens are the policy's, the
    end of the text included."""

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
    """1 if the text is one to `maximum` sentences and the last one has ended, else 0: an answer that
    was cut within its first sentence is not one."""

    kind: Literal["sentences"] = "sentences"
    maximum: int = Field(1, ge=1)

    def score(self, text: str, tokens: int) -> float:
        found = sentences(text)
        return float(0 < len(found) <= self.maximum and has_ended(found[-1]))


class Pattern(Rule):
    """1 if the regular expression is found anywhere in the completion, else 0."""

    kind: Literal["pattern", "format"] = "pattern"
    pattern: str = Field(min_length=1)
    r"""As `(?s)<think>.*</think>\s*\S`."""

    def problem(self) -> tuple[str, str] | None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            return "pattern", f"'{self.pattern}' is not a regular expression: {error}"
        return None

    def score(self, text: str, tokens: int) -> float:
        return float(re.search(self.pattern, text) is not None)


class Overlong(Rule):
    """DAPO's soft overlong punishment (Yu et al. 2025, arXiv 2503.14476, eq. 13), in tokens: 0 up to
    `maximum - cache`, from there linear to -1 at `maximum`, and -1 beyond."""

    kind: Literal["overlong"] = "overlong"
    maximum: int = Field(ge=1)
    """L_max, in tokens: usually the training's `max_completion_length`."""
    cache: int = Field(ge=1)
    """L_cache, in tokens: how long before `maximum` the punishment begins."""

    def problem(self) -> tuple[str, str] | None:
        if self.cache > self.maximum:
            return "cache", f"expected at most maximum ({self.maximum}), found {self.cache}"
        return None

    def needs_tokens(self) -> bool:
        return True

    def score(self, text: str, tokens: int) -> float:
        return max(-1.0, min(0.0, (self.maximum - self.cache - tokens) / self.cache))
