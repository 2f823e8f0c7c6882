"""References in a training's config: files, models, and results of other trainings.

A config is the user's mapping, of any depth. Every text in it has a place, as `rewards.0.model`, and a
field, the last name on the way there (of models by name, as `models: {a: DIR}`, the field is `model`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from factory.core import weights
from factory.core.paths import user_path

PATHS = ("model", "reward_model", "constitution")
"""Fields that may name a file, or a model's folder."""


def changed(
    config: Any, change: Callable[[str, str, str], Any], place: str = "", field: str = ""
) -> Any:
    """The config with each text replaced by `change(place, field, text)`."""
    if isinstance(config, str):
        return change(place, field, config)
    inside = f"{place}." if place else ""
    if isinstance(config, Mapping):
        return {
            name: changed(
                value, change, f"{inside}{name}", "model" if field == "models" else str(name)
            )
            for name, value in config.items()
        }
    if isinstance(config, list):
        return [changed(value, change, f"{inside}{i}", field) for i, value in enumerate(config)]
    return config


def _texts(config: Any) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    changed(config, lambda *text: found.append(text))
    return found


def trainings(config: Any) -> set[str]:
    """Names of the trainings whose results the config uses, by `trained:NAME`."""
    named = (text for _, _, text in _texts(config) if text.startswith(weights.TRAINED))
    return {text.removeprefix(weights.TRAINED) for text in named}


def filled(config: Any, made: Mapping[str, str], folder: Path) -> Any:
    """The config with `trained:NAME` replaced by its folder in `made`, and paths from `folder` absolute."""

    def fill(place: str, field: str, text: str) -> str:
        if text.startswith(weights.TRAINED):
            return made[text.removeprefix(weights.TRAINED)]
        if field not in PATHS:
            return text
        path = folder / user_path(text)
        return str(path.resolve()) if path.exists() else text

    return changed(config, fill)


def contents(config: Any) -> dict[str, str]:
    """Place -> hash of the file or the model's folder that it names."""
    found: dict[str, str] = {}
    for place, field, text in _texts(config):
        if field not in PATHS:
            continue
        path = user_path(text)
        if path.is_file():
            found[place] = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        elif (path / "config.json").is_file():
            found[place] = weights.fingerprint(path)
    return found


def without(config: Any, places: Mapping[str, str]) -> Any:
    """The config with the texts at these places replaced by None."""
    return changed(config, lambda place, field, text: None if place in places else text)
