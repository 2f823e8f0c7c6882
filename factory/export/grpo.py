"""Samples -> prompts to train on by trial and reward: GRPO and its family.

One row a sample: no answer of the run is trained on, so none is looked at. TRL hands every column
but the prompt to the reward functions, by its name. So there is no `reasoning` to drop or keep: the
model that is trained thinks anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from factory.core.config import Config
from factory.core.records import Sample
from factory.export import schemas
from factory.export.view import Drop, FolderName

if TYPE_CHECKING:
    from factory.export.features import Features


class GrpoView(Config):
    """Prompts, each with what a reward function needs to know."""

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
        return schemas.grpo()
