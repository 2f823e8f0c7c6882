"""Checkpoints of PPO: `checkpoint-N/` with everything that later steps depend on.

    trained.safetensors     the weights that are trained, the policy's and the critic's
    optimizer.pt, scheduler.pt
    trainer_state.json      step, KL coefficient, completions left out

`checkpoints` seals it, and checks whether it is whole.
A step's prompts and tokens follow from its number, so no random state is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factory.core.files import write_whole


def save(
    folder: Path,
    step: int,
    weights: Mapping[str, Tensor],
    states: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write `folder/checkpoint-<step>`. `states`: what has a `state_dict`, by file name."""
    from safetensors.torch import save_file

    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True, exist_ok=True)
    plain = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    save_file(plain, checkpoint / "trained.safetensors")
    for name, state in states.items():
        torch.save(state.state_dict(), checkpoint / f"{name}.pt")
    write_whole(checkpoint / "trainer_state.json", {"global_step": step, **facts})


def load(
    checkpoint: Path, weights: Mapping[str, Tensor], states: Mapping[str, Any]
) -> dict[str, Any]:
    """Load weights and states. Returns the facts, with `global_step`."""
    from safetensors.torch import load_file

    saved = load_file(checkpoint / "trained.safetensors")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(saved[name])
    for name, state in states.items():
        path = checkpoint / f"{name}.pt"
        state.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    facts: dict[str, Any] = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
    return facts
