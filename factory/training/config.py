"""Options of a training in a recipe."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from factory.core.config import Config
from factory.training import TRAINERS


def _own_view(given: dict[str, Any]) -> str:
    listed = TRAINERS.get(given.get("kind", ""))
    return listed.view if listed else ""


class TrainingConfig(Config):
    """One entry of a recipe's `training:`."""

    kind: str = Field(json_schema_extra=lambda schema: schema.update(enum=list(TRAINERS)))
    """The trainer."""
    name: str | None = Field(None, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of its result, which a model of the recipe can use: `model: trained:prm`. None: the kind."""
    view: str = Field(default_factory=_own_view)
    """The recipe's view to train on; by default the kind's own, such as `preference` for `dpo`."""
    model: str | None = None
    """Recipe name of the model to train. `factory align` gives it the new weights."""
    lora: dict[str, Any] | None = None
    """Options of `peft.LoraConfig`, such as `{r: 16}`. All linear layers are adapted unless it says
    otherwise, and the adapter is merged into the saved weights. None: all weights are trained."""
    config: dict[str, Any] = {}
    """Options of the trainer's config class (TRL's or one that extends it), such as `{max_steps: 20}`.
    Defaults are those of the trainer's class and `factory/training/common/options.py`, else TRL's.
    Checkpoints stay after the training only if it sets `save_total_limit`."""

    @field_validator("kind")
    @classmethod
    def _check_kind(cls, value: str) -> str:
        if value not in TRAINERS:
            raise ValueError(f"no trainer '{value}' (have: {', '.join(TRAINERS)})")
        return value

    @property
    def result(self) -> str:
        """Name of its result."""
        return self.name or self.kind
