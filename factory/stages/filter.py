"""Drop candidates, each with a reason. What is dropped stays in the trace and makes no dataset."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field

from factory.records import Candidate, Sample
from factory.stages.base import Models, Stage

# How chat models say no. Looked for in the first 300 characters: a refusal comes first.
REFUSAL = re.compile(
    r"\bas an ai\b|\bas a (large )?language model\b"
    r"|\bi(['’]m| am) (very |really |so )?(sorry|afraid)\b.{0,60}"
    r"\b(can(no|['’])t|unable|not able|won['’]t)\b"
    r"|\bi (can(['’]t|not)|am (unable|not able) to|won['’]t|must decline to)"
    r" (\w+ ){0,2}(help|assist|provide|fulfil|comply|answer|discuss|support|do that)",
    re.IGNORECASE | re.DOTALL,
)


class Filter(Stage):
    """Drop candidates by rules that need no model. Rules are tried in the order of these fields."""

    kind: Literal["filter"] = "filter"
    min_words: int = Field(1, ge=0)
    max_words: int | None = Field(None, ge=1)
    truncated: bool = False
    """Drop answers cut at max_tokens."""
    refusals: bool = False
    """Drop answers in which a language model refuses (English phrases)."""
    pattern: str | None = None
    """Drop answers in which this regular expression is found."""
    duplicates: bool = False
    """Drop answers equal to an earlier kept candidate of the sample, but for case and spacing."""

    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})

    def problem(self) -> tuple[str, str] | None:
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            return "pattern", f"'{self.pattern}' is not a regular expression: {error}"
        if self.max_words is not None and self.max_words < self.min_words:
            return "max_words", f"expected at least min_words ({self.min_words})"
        return None

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        seen: set[str] = set()
        for candidate in sample.kept():
            candidate.drop_reason = self._reason(candidate, seen)
            if candidate.drop_reason is None:
                seen.add(_normal(candidate.text))
        return sample

    def _reason(self, candidate: Candidate, seen: set[str]) -> str | None:
        words = len(candidate.text.split())
        if words < self.min_words:
            return "too-short"
        if self.max_words is not None and words > self.max_words:
            return "too-long"
        if self.truncated and candidate.finish_reason == "length":
            return "truncated"
        if self.refusals and REFUSAL.search(candidate.text[:300]):
            return "refusal"
        if self.pattern is not None and re.search(self.pattern, candidate.text):
            return "pattern"
        if self.duplicates and _normal(candidate.text) in seen:
            return "duplicate"
        return None


def _normal(text: str) -> str:
    return " ".join(text.lower().split())
