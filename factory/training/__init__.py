"""Training: a dataset and a model in, a model out. READ FIRST `trainer.py`.

`TRAINERS` is the registry: a class in a file, and a line here. May import scorers and what is below them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Listed(NamedTuple):
    """A trainer in the registry. Imported once the data is open, its file may import torch at the top."""

    path: str
    """`module:Class`, the class a `factory.training.trainer.Trainer`."""
    takes: tuple[str, ...]
    """Kinds of view that it can train on; the first is the default."""
    trains_policy: bool = True
    """True: it trains a model that generates. False: one that scores."""
    is_plain: bool = True
    """True: a model without a chat template is trained on plain texts unchanged."""
    opens: str = "factory.training.common.data:open_view"
    """`module:function` of (kind, data, config) that opens its dataset, and checks what needs neither
    torch nor TRL. Raises `RecipeError`."""

    @property
    def kind(self) -> str:
        return next(kind for kind, listed in TRAINERS.items() if listed is self)

    @property
    def view(self) -> str:
        return self.takes[0]

    def load(self) -> Any:
        """The trainer. Imports its libraries, which takes seconds."""
        # TRL imports vLLM, which says at once what it does not find.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        return _imported(self.path)()

    def open(self, data: Path | str, config: Mapping[str, Any]) -> Any:
        """The dataset, as a `factory.training.common.data.Opened`. Takes no second besides reading."""
        return _imported(self.opens)(self.kind, data, config)

    def check_options(
        self, config: Mapping[str, Any], lora: Mapping[str, Any] | None = None
    ) -> None:
        self.load().check_options(config, lora)

    def train(
        self, data: Path | str, model: Path | str, out: Path, **options: Any
    ) -> dict[str, Any]:
        from factory.training.trainer import train

        return train(self.kind, data, model, out, **options)


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


_PAIRS = ("preference", "reward")
_PROMPTS = "factory.training.online.common:open_prompts"
TRAINERS: dict[str, Listed] = {
    "dpo": Listed(
        "factory.training.offline.dpo:Dpo",
        _PAIRS,
        opens="factory.training.offline.listwise:open_rows",
    ),
    "ppo": Listed(
        "factory.training.ppo.ppo:Ppo",
        ("grpo",),
        is_plain=False,
        opens="factory.training.ppo.config:open_prompts",
    ),
    "prm": Listed(
        "factory.training.offline.prm:Prm",
        ("process",),
        trains_policy=False,
        is_plain=False,
        opens="factory.training.offline.process_data:open_rows",
    ),
    "reward": Listed(
        "factory.training.offline.reward:Reward",
        _PAIRS,
        trains_policy=False,
        is_plain=False,
        opens="factory.training.offline.reward_rows:open_rows",
    ),
    "sft": Listed(
        "factory.training.offline.sft:Sft",
        ("sft", *_PAIRS),
        opens="factory.training.offline.quality:open_rows",
    ),
    "kto": Listed("factory.training.offline.kto:Kto", ("kto",)),
    "grpo": Listed("factory.training.online.grpo:Grpo", ("grpo",), opens=_PROMPTS),
    "rloo": Listed("factory.training.online.rloo:Rloo", ("grpo",), opens=_PROMPTS),
}


def listed(kind: str) -> Listed:
    """The trainer of this kind. Raises `RecipeError` if there is none."""
    from factory.core.errors import RecipeError
    from factory.core.yamlfile import nearest

    if kind not in TRAINERS:
        have = ", ".join(TRAINERS)
        raise RecipeError(f"no trainer '{kind}'{nearest(kind, TRAINERS)} (have: {have})")
    return TRAINERS[kind]


def trainer_of(view: str) -> str | None:
    """The kind of training to suggest for a kind of view. None: there is none."""
    if view in TRAINERS:
        return view
    return next((kind for kind, listed in TRAINERS.items() if listed.view == view), None)
