"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740), by `trl.RLOOTrainer`.

In: a grpo view, and `rewards:` in the config. For each prompt the model writes `num_generations`
completions. The reward of one is R_i = r_i - beta * KL_i, with KL_i the sum over its tokens of
log pi_old - log ref; its advantage A_i is R_i less the mean R of the others; the loss is
-min(w_i A_i, clip(w_i, 1 - epsilon, 1 + epsilon) A_i), w_i the ratio of the whole completion's
probabilities, which is 1 where a batch makes one update: the paper's REINFORCE.

A completion that a reward's scorer could not score is left out, of the others' mean too, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trl

from factory.training.common.session import Session
from factory.training.online import common
from factory.training.online.common import OnlineTrainer
from factory.training.online.rewards import parse_rewards
from factory.training.trainer import Trainer


@dataclass
class RlooConfig(trl.RLOOConfig):  # type: ignore[misc]
    """Options of RLOO: TRL's, and these."""

    rewards: list[Any] | None = None
    """The rewards of a completion; see `factory.training.online.rewards`."""
    max_prompt_length: int | None = None
    """Most tokens of a prompt. Longer ones are left out. None: limited by the model's context."""

    def __post_init__(self) -> None:
        super().__post_init__()
        common.refuse_reward_weights(self)


class RlooTrainer(OnlineTrainer, trl.RLOOTrainer):  # type: ignore[misc]
    """Leave-one-out."""


class Rloo(Trainer):
    """REINFORCE leave-one-out. With `beta` and no adapter, the reference is in memory too."""

    kind = "rloo"
    config_class = RlooConfig
    # TRL's own, stated because they decide the result.
    defaults = {"beta": 0.05, "epsilon": 0.2, "learning_rate": 1e-6}
    lora_defaults = {"learning_rate": 1e-5}
    checked = common.CHECKED
    advice = common.ADVICE

    def defaults_for(self, given: Mapping[str, Any], *, is_lora: bool) -> dict[str, Any]:
        return {**super().defaults_for(given, is_lora=is_lora), **common.sizes(given)}

    def check_given(self, given: Mapping[str, Any], lora: Mapping[str, Any] | None) -> None:
        parse_rewards(given.get("rewards"))

    def fit(self, session: Session, config: Mapping[str, Any]) -> dict[str, Any]:
        return common.fit(session, RlooTrainer)
