"""Training: a dataset and a model in, a model out. One thin module per trainer.

`TRAINERS` is the whole registry: `TRAINERS[kind].train(data, model, out, config=...)`.
"""

from __future__ import annotations

from factory.training import dpo, grpo, kto, ppo, prm, reward, rloo, sft
from factory.training.base import Trainer

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
