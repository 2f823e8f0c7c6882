"""What a trainer is, and what a recipe says about one.

A trainer is a module with `COLUMNS`, `check` and `train`; `factory.training.TRAINERS` lists them.
The options of the library underneath are passed through, never mirrored here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from factory.core.config import Config

_OWN_VIEWS = {
    "grpo": "grpo",
    "rloo": "grpo",
    "dpo": "preference",
    "reward": "preference",
    "prm": "process",
    "ppo": "grpo",
    "sft": "sft",
    "kto": "kto",
}


WRITERS = frozenset({"sft", "dpo", "kto", "grpo", "rloo", "ppo"})
"""Kinds that train a model that writes; the others train one that scores."""


class TrainingConfig(Config):
    """One entry of a recipe's `training:`."""

    kind: Literal["dpo", "reward", "prm", "ppo", "sft", "kto", "grpo", "rloo"]
    name: str | None = Field(None, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What a model of the recipe calls its result, as `model: trained:prm`. None: the kind."""
    view: str = Field(default_factory=lambda given: _OWN_VIEWS.get(given.get("kind"), ""))
    """The recipe's view to train on; by default the kind's own, as `preference` of `dpo`."""
    model: str | None = None
    """The recipe's name of the model to train; `factory align` puts the new weights under it."""
    lora: dict[str, Any] | None = None
    """Passed to `peft.LoraConfig`, as `{r: 16}`. All linear layers are adapted unless it says
    otherwise, and the adapter is merged into the saved weights. None: all weights are trained."""
    config: dict[str, Any] = {}
    """Passed to the trainer's config class, TRL's or one that extends it, as `{max_steps: 20}`. What
    it does not name has the defaults of `factory/training/common/options.py` and of the trainer's module,
    else TRL's. Checkpoints stay after the training only if it sets `save_total_limit`."""

    @property
    def result(self) -> str:
        """The name of what it makes."""
        return self.name or self.kind


class Trainer(Protocol):
    """The shape of a trainer's module."""

    COLUMNS: tuple[str, ...]
    """The columns that its dataset must have."""

    def check(self, config: Mapping[str, Any], lora: Mapping[str, Any] | None = None) -> None:
        """Raise `RecipeError` if an option is misspelt or refused. Loads no model, but imports the
        trainer's library, which takes seconds."""
        ...

    def train(
        self,
        data: Path | str,
        model: Path | str,
        out: Path,
        *,
        lora: Mapping[str, Any] | None = None,
        config: Mapping[str, Any],
        resume: bool = False,
    ) -> dict[str, Any]:
        """Train `model` (a name that `factory.core.weights` resolves) on `data`; return training.json.

        Afterwards `out` loads with transformers and vLLM. A finished `out` of the same training is
        left alone; one that holds anything else is refused.

        Raises `RecipeError` for a wrong dataset, model or option, before any weights load, and
        `FactoryError` for a training that failed (out of memory, not a number, a disk).
        """
        ...
