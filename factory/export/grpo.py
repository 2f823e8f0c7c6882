"""Samples -> prompts for online training with rewards: GRPO and its family.

One row per sample. The trained model writes its own answers, so the run's and their `reasoning` are
not used. TRL passes every column except the prompt to the reward functions, by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from factory.core.config import Config
from factory.core.records import Sample
from factory.export.features import Features
from factory.export.schemas import GRPO
from factory.export.view import Drop, FolderName


class GrpoView(Config):
    """Prompts, each with the columns that a reward function needs."""

    kind: Literal["grpo"] = "grpo"
    name: FolderName | None = None
    """Folder of the dataset; None: the kind."""
    needs_reference: bool = False
    """Keep only prompts with a reference answer, as a verifier needs."""

    def rows(self, sample: Sample) -> Iterator[dict[str, Any] | Drop]:
        if self.needs_reference and not (sample.reference or "").strip():
            yield Drop("no-reference")
            return
        yield {
            "prompt": sample.prompt,
            "reference": sample.reference,
            "tags": sample.tags,
            "prompt_id": sample.id,
        }

    def needs(self) -> frozenset[str]:
        return frozenset()

    def features(self) -> Features:
        return GRPO
