"""TRL's RLOO trainer, with our rewards among its options.

Imports TRL at the top, so it is itself imported inside functions only. The config stands at module
level because checkpoints pickle it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import trl

from factory.training.online.online import OnlineTrainer


@dataclass
class RlooConfig(trl.RLOOConfig):  # type: ignore[misc]
    """TRL's options and these."""

    rewards: list[Any] | None = None
    """What a completion is worth; see `factory.training.online.rewards`."""
    max_prompt_length: int | None = None
    """Tokens. Longer prompts are left out. None: what the model's context leaves."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward_weights is not None:
            raise ValueError("reward_weights: give each entry of rewards its weight instead")


class RlooTrainer(OnlineTrainer, trl.RLOOTrainer):  # type: ignore[misc]
    """Leave-one-out."""
