"""Training: a dataset and a model in, a model out. One thin module per trainer.

`TRAINERS` is the whole registry: `TRAINERS[kind].train(data, model, out, config=...)`.
"""

from __future__ import annotations

from factory.training import dpo, prm, reward
from factory.training.base import Trainer

TRAINERS: dict[str, Trainer] = {"dpo": dpo, "prm": prm, "reward": reward}
