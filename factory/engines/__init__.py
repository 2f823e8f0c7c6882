"""Engines, which generate tokens: vLLM in process, OpenAI-compatible endpoints, templates, thoughts.

`ENGINES` is the registry; `build` makes a recipe's engines. May import core.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from factory.core import weights
from factory.core.config import Config
from factory.core.errors import RecipeError
from factory.engines.base import Engine
from factory.engines.endpoint import EndpointEngine
from factory.engines.endpoint_config import EndpointConfig
from factory.engines.vllm import VllmConfig, VllmEngine

EngineConfig = VllmConfig | EndpointConfig

ENGINES: dict[str, type[Config]] = {"vllm": VllmConfig, "endpoint": EndpointConfig}


def build(
    models: Mapping[str, EngineConfig],
    folder: Path | None,
    logs: Path | None,
    judges: Collection[str] = (),
) -> dict[str, Engine]:
    """An engine for each name in a recipe's `models`. None is started yet. `judges`: names of models
    whose labels are read.

    Two names of the same weights share one engine, with the larger of the two contexts; it judges if one
    does. Engines in this process share its memory equally, unless the recipe gives fractions.
    """
    shared: dict[str, VllmConfig] = {}
    engines: dict[str, Engine] = {}
    which: dict[str, str] = {}
    for name, config in models.items():
        if isinstance(config, VllmConfig):
            path = weights.local_folder(config.model, folder) or config.model
            sizes = {"max_model_len": None, "max_num_seqs": None, "memory_fraction": None}
            key = f"{path} {config.model_copy(update={**sizes, 'model': ''})}"
            shared[key] = _larger(shared[key], config) if key in shared else config
        else:
            key = str(config)
            engines.setdefault(key, EndpointEngine(config))
        which[name] = key
    _check_fractions(list(shared.values()))
    for i, (key, local) in enumerate(shared.items()):
        engines[key] = VllmEngine(
            local,
            folder=folder,
            share=1 / len(shared),
            judges=any(which[name] == key for name in judges if name in which),
            log=logs / f"engine-{i}.log" if logs else None,
        )
    return {name: engines[key] for name, key in which.items()}


def _check_fractions(configs: list[VllmConfig]) -> None:
    """Raise `RecipeError` if the fractions add up to more than 1, before anything loads."""
    given = [f"{c.model}: {c.memory_fraction:g}" for c in configs if c.memory_fraction]
    total = sum(c.memory_fraction or 0 for c in configs)
    if total > 1:
        raise RecipeError(
            f"models: memory_fraction adds up to {total:g} ({', '.join(given)}); the engines share "
            "one GPU, so the sum must be at most 1"
        )


def _larger(a: VllmConfig, b: VllmConfig) -> VllmConfig:
    """`a` with the larger sizes of the two. None is the model's own size, which is the largest."""
    sizes = {
        field: None if None in (x, y) else max(x, y)
        for field in ("max_model_len", "max_num_seqs", "memory_fraction")
        for x, y in [(getattr(a, field), getattr(b, field))]
    }
    return a.model_copy(update=sizes)
