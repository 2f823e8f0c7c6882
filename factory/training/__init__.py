"""Training: a dataset and a model in, a model out. READ FIRST `trainer.py`.

`TRAINERS` is the registry: a trainer is a class in a file, and a line here. May import scorers and
what is below them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from factory.core.screen import Screen


class Listed(NamedTuple):
    """A trainer in the registry. It is imported on use, so its file may import torch and TRL at the top."""

    path: str
    """`module:Class`, the class a `factory.training.trainer.Trainer`."""
    takes: tuple[str, ...]
    """Kinds of view that it can train on; the first is the default."""
    trains_policy: bool = True
    """True: it trains a model that generates. False: one that scores."""
    is_plain: bool = True
    """True: a model without a chat template is trained on plain texts unchanged."""

    @property
    def view(self) -> str:
        return self.takes[0]

    def load(self) -> Any:
        """The trainer. Imports its libraries, which takes seconds."""
        # TRL imports vLLM, which says at once what it does not find.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        module, _, name = self.path.partition(":")
        return getattr(importlib.import_module(module), name)()

    def check(self, config: Mapping[str, Any], lora: Mapping[str, Any] | None = None) -> None:
        """See `Trainer.check`."""
        self.load().check(config, lora)

    def train(
        self, data: Path | str, model: Path | str, out: Path, **options: Any
    ) -> dict[str, Any]:
        """See `Trainer.train`."""
        with Screen(is_quiet=os.environ.get("RANK", "0") != "0").doing("loading torch and trl"):
            trainer = self.load()
        record: dict[str, Any] = trainer.train(data, model, out, **options)
        return record


_PAIRS = ("preference", "reward")
TRAINERS: dict[str, Listed] = {
    "dpo": Listed("factory.training.offline.dpo:Dpo", _PAIRS),
    "ppo": Listed("factory.training.ppo.ppo:Ppo", ("grpo",), is_plain=False),
    "prm": Listed("factory.training.offline.prm:Prm", ("process",), False, False),
    "reward": Listed("factory.training.offline.reward:Reward", _PAIRS, False, False),
    "sft": Listed("factory.training.offline.sft:Sft", ("sft", *_PAIRS)),
    "kto": Listed("factory.training.offline.kto:Kto", ("kto",)),
    "grpo": Listed("factory.training.online.grpo:Grpo", ("grpo",)),
    "rloo": Listed("factory.training.online.rloo:Rloo", ("grpo",)),
}


def trainer_of(view: str) -> str | None:
    """The kind of training to suggest for a kind of view. None: there is none."""
    if view in TRAINERS:
        return view
    return next((kind for kind, listed in TRAINERS.items() if listed.view == view), None)
