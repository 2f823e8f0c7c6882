"""Samples -> prompts with all their scored answers, for training a reward model.

Listwise: one row per prompt, so that all pairs of a prompt can share a batch (InstructGPT). Pairs
derive from it. No two answers of a row are the same text; equal scores stay. Answers that were cut
at max_tokens are left out, each with a note. Thoughts are left out too: scores are of the answers,
and a reward model sees only answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from factory.core.config import Config
from factory.core.records import Candidate, Sample
from factory.export.features import Features
from factory.export.schemas import REWARD
from factory.export.view import Drop, FolderName, Note, Truncated, unfit
from factory.scorers.comparison import scores_of


class RewardView(Config):
    """Prompts, each with several answers and their scores."""

    kind: Literal["reward"] = "reward"
    name: FolderName | None = None
    """Folder of the dataset; None: the kind."""
    score: str | None = None
    """Name of the score. None: the only one there is, the combined one before its parts."""
    min_responses: int = Field(2, ge=1)
    """Prompts with fewer different scored answers are dropped."""
    truncated: Truncated = "drop"
    """Answers that were cut at max_tokens: `drop` or `keep`."""

    def rows(self, sample: Sample) -> Iterator[dict[str, Any] | Drop | Note]:
        scores = scores_of(sample, self.score)
        if isinstance(scores, Drop):
            yield scores
            return
        scored: dict[str, Candidate] = {}  # stripped text -> the first with it
        cut = 0
        for candidate in sample.kept():
            if candidate.index not in scores:
                continue
            reason = unfit(candidate, self.truncated)
            if reason is None:
                scored.setdefault(candidate.text.strip(), candidate)
            cut += reason == Drop("truncated")
        if len(scored) < self.min_responses:
            yield Drop("truncated" if cut else "too-few-scored")
            return
        yield from (Note("truncated") for _ in range(cut))
        yield {
            "prompt": sample.prompt,
            "responses": [candidate.text for candidate in scored.values()],
            "scores": [scores[candidate.index] for candidate in scored.values()],
            "finish_reasons": [candidate.finish_reason for candidate in scored.values()],
            "prompt_id": sample.id,
        }

    def needs(self) -> frozenset[str]:
        return frozenset({"candidates", f"score:{self.score or '*'}"})

    def features(self) -> Features:
        return REWARD
