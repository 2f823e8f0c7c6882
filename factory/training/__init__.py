"""Training: a dataset and a model in, a model out. One thin module per trainer.

`TRAINERS` is the whole registry: `TRAINERS[kind].train(data, model, out, config=...)`.
"""

from __future__ import annotations

from factory.training.common.base import Trainer
from factory.training.offline import dpo, kto, prm, reward, sft
from factory.training.online import grpo, rloo
from factory.training.ppo import ppo

TRAINERS: dict[str, Trainer] = {
    "dpo": dpo,
    "ppo": ppo,
    "prm": prm,
    "reward": reward,
    "sft": sft,
    "kto": kto,
    "grpo": grpo,
    "rloo": rloo,
}
