"""Samples -> prompts with all their scored answers, for training a reward model.

Listwise: one row a prompt, so that all pairs of a prompt can share a batch (InstructGPT). Pairs
derive from it. No two answers of a row are the same text; equal scores stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from factory.config import Config
from factory.export import schemas
from factory.export.evidence import scores_of
from factory.export.view import Drop, FolderName, is_blank
from factory.records import Sample

if TYPE_CHECKING:
    from datasets import Features


class RewardView(Config):
    """Prompts, each with several answers and their scores."""

    kind: Literal["reward"] = "reward"
    name: FolderName | None = None
    """Folder of the dataset; None: the kind."""
    score: str | None = None
    """Name of the score. None: the only one there is, the combined one before its parts."""
    min_responses: int = Field(2, ge=1)
    """Prompts with fewer different scored answers make no row."""

    def rows(self, sample: Sample) -> Iterator[dict[str, Any] | Drop]:
        scores = scores_of(sample, self.score)
        if isinstance(scores, Drop):
            yield scores
            return
        scored: dict[str, tuple[str, float]] = {}  # stripped text -> text, score
        for candidate in sample.kept():
            if candidate.index in scores and not is_blank(candidate):
                of_first = (candidate.text, scores[candidate.index])
                scored.setdefault(candidate.text.strip(), of_first)
        if len(scored) < self.min_responses:
            yield Drop("too-few-scored")
            return
        yield {
            "prompt": sample.prompt,
            "responses": [text for text, _ in scored.values()],
            "scores": [score for _, score in scored.values()],
            "prompt_id": sample.id,
        }

    def needs(self) -> frozenset[str]:
        return frozenset({"candidates", f"score:{self.score or '*'}"})

    def features(self) -> Features:
        return schemas.reward()
