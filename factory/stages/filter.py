"""Drop candidates, each with a reason. What is dropped stays in the trace and makes no dataset."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field

from factory.records import Candidate, Sample
from factory.stages.base import Models, Stage
from factory.words import spelling, words

_CANNOT = (
    r"(can(no|['’])t|can not|won['’]t|will not|( am|['’]m) (unable|not (able|going|allowed)) to)"
)
# How chat models say no, in the first 300 characters: a refusal comes first. "I can't wait to help",
# "I'm sorry for your loss" and "as an AI researcher" are none.
REFUSAL = re.compile(
    # I cannot (in good conscience) help ..., but not "I can't help but ..."
    rf"\bI ?{_CANNOT}( (ethically|legally|simply|really|in good conscience))?"
    r" (assist|provide|fulfil|comply|answer|discuss|support|engage|participate|do (that|this)"
    r"|help(?! but\b| \w+ing\b))"
    r"|\bI (must|have to|need to)( respectfully)? (decline|refuse)\b"
    # Sorry, but I cannot ..., as the first words
    r"|\A\W*((I['’]?m|I am)( very| so| really| truly)? )?(sorry|afraid|(I )?apologi[sz]e)\b"
    rf"[^.!?\n]{{0,40}}\bI ?{_CANNOT}\b"
    # As an AI (language model made by ...), I cannot ...
    r"|\bas an? (AI|(large )?language model)\b[^.!?\n]{0,60}"
    rf"\bI ?({_CANNOT}\b| (do not|don['’]t) have (access|the ability|personal))",
    re.IGNORECASE,
)


class Filter(Stage):
    """Drop candidates by rules that need no model. Rules are tried in the order of these fields."""

    kind: Literal["filter"] = "filter"
    min_words: int = Field(1, ge=0)
    max_words: int | None = Field(None, ge=1)
    """Words as `factory/words.py` counts them, in any script."""
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
                seen.add(spelling(candidate.text))
        return sample

    def _reason(self, candidate: Candidate, seen: set[str]) -> str | None:
        length = words(candidate.text)
        if length < self.min_words:
            return "too-short"
        if self.max_words is not None and length > self.max_words:
            return "too-long"
        if self.truncated and candidate.finish_reason == "length":
            return "truncated"
        if self.refusals and REFUSAL.search(candidate.text[:300]):
            return "refusal"
        if self.pattern is not None and re.search(self.pattern, candidate.text):
            return "pattern"
        if self.duplicates and spelling(candidate.text) in seen:
            return "duplicate"
        return None
