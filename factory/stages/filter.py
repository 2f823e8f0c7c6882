"""Drop candidates, each with a reason. They stay in the trace and are in no dataset."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field

from factory.core.constitution import Constitution
from factory.core.records import Candidate, Sample
from factory.core.words import spelling, words
from factory.stages.base import Models, Stage, pattern_problem

_CANNOT = (
    r"(can(no|['’])t|can not|won['’]t|will not|( am|['’]m) (unable|not (able|going|allowed)) to)"
)
# Phrases of refusal. "I can't wait to help", "I'm sorry for your loss" and "as an AI researcher" are none.
_REFUSAL = re.compile(
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


_RUN = 4  # words; shorter runs are often the same by chance
_PUNCTUATION = ".,;:!?\"'()[]*"


def is_refusal(text: str) -> bool:
    """True if the first 300 characters, where refusals stand, refuse (English phrases)."""
    return _REFUSAL.search(text[:300]) is not None


class Filter(Stage):
    """Drop candidates by rules that need no model. Rules are tried in the order of these fields."""

    kind: Literal["filter"] = "filter"
    min_words: int = Field(1, ge=0)
    max_words: int | None = Field(None, ge=1)
    """Drop answers with more words, as `factory/core/words.py` counts them, in any script."""
    truncated: bool = False
    """Drop answers cut at max_tokens."""
    refusals: bool = False
    """Drop answers that refuse (English phrases)."""
    pattern: str | None = None
    """Drop answers that match this regular expression anywhere."""
    duplicates: bool = False
    """Drop answers equal to an earlier kept candidate of the sample, ignoring case and spacing."""
    copied: bool = False
    """Drop revisions that begin like their critique, or that repeat a worked example of the
    constitution for half or more of their words. Small models do both instead of revising."""

    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})

    def problem(self) -> tuple[str, str] | None:
        if (wrong := pattern_problem(self.pattern)) is not None:
            return wrong
        if self.max_words is not None and self.max_words < self.min_words:
            return "max_words", f"expected at least min_words ({self.min_words})"
        return None

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        seen: set[str] = set()
        examples = _runs_of_examples(models.constitution) if self.copied else frozenset()
        for candidate in sample.kept():
            candidate.drop_reason = self._reason(candidate, seen)
            if candidate.drop_reason is None:
                if self.copied and _is_copied(candidate, sample, examples):
                    candidate.drop_reason = "copied"
                    continue
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
        if self.refusals and is_refusal(candidate.text):
            return "refusal"
        if self.pattern is not None and re.search(self.pattern, candidate.text):
            return "pattern"
        if self.duplicates and spelling(candidate.text) in seen:
            return "duplicate"
        return None


def _runs_of_examples(constitution: Constitution | None) -> frozenset[tuple[str, ...]]:
    examples = constitution.examples if constitution else []
    texts = (text for e in examples for text in (e.answer, e.critique, e.revision))
    return frozenset(run for text in texts for run in _runs(text))


def _is_copied(candidate: Candidate, sample: Sample, examples: frozenset[tuple[str, ...]]) -> bool:
    if candidate.parent is None:
        return False
    runs = _runs(candidate.text)
    for critique in sample.critiques:
        if critique.candidate == candidate.parent and _runs(critique.text)[:1] == runs[:1]:
            return True
    return 2 * sum(run in examples for run in runs) >= len(runs) > 0


def _runs(text: str) -> list[tuple[str, ...]]:
    """Every run of four consecutive words, normalized. A text of fewer words is one run."""
    parts = [part.strip(_PUNCTUATION) for part in spelling(text).split()]
    if not parts:
        return []
    return [tuple(parts[i : i + _RUN]) for i in range(max(1, len(parts) - _RUN + 1))]
