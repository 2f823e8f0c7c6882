"""The two sides of a diff: a run's own recipe with another constitution, or with another judge.

A side is the recipe that the run's folder keeps, loaded with overrides as of `--set`, so that
everything is checked as in any recipe.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.core import constitution as constitutions
from factory.core.errors import RecipeError
from factory.core.paths import near, user_path
from factory.core.yamlfile import parse
from factory.engines import build
from factory.engines.base import Engine
from factory.pipeline.trainings import as_far_as_trained
from factory.recipe.load import load
from factory.recipe.named_constitution import find
from factory.recipe.recipe import Recipe


@dataclass(frozen=True)
class Side:
    """A recipe to take a run's samples through."""

    name: str
    """A file or a model, as the user knows it."""
    recipe: Recipe
    new_judge: str | None = None
    """The entry of `recipe.models` for a judge that the run did not have."""


def recipe_of(run: Path, *overrides: str) -> Recipe:
    """The recipe that the run was made with, with the models that were trained for it."""
    return as_far_as_trained(load(run / "recipe.yaml", overrides, trains=False), run)


def by_constitution(run: Path, old: Path | None, new: Path) -> tuple[Side, Side]:
    """Two constitutions. `old`: None: the run's own."""
    return _with_constitution(run, old), _with_constitution(run, new)


def _with_constitution(run: Path, path: Path | None) -> Side:
    if path is None:
        kept = run / "constitution.yaml"
        return Side(near(kept) if kept.exists() else "no constitution", recipe_of(run))
    return Side(str(path), recipe_of(run, *_overrides(path)))


def _overrides(constitution: Path | None) -> list[str]:
    """`constitution`: a file, or the name of a shipped one. Raises `RecipeError` if it is wrong."""
    if constitution is None:
        return []
    path = find(str(constitution), Path())
    constitutions.load(path)  # an error then names the file as the user did
    return [f"constitution={json.dumps(str(path.absolute()))}"]


def by_judge(
    run: Path, judges: Sequence[str], constitution: Path | None = None
) -> tuple[Side, Side]:
    """Two judges, both with `constitution` (None: the run's own). `judges`: one or two, each the recipe
    name of a model, or a model, which then takes the place of the judge's. One: the run's own judge is
    the old side.

    Raises `RecipeError` if no stage judges.
    """
    if len(judges) > 2:
        raise RecipeError(f"--judge: expected one or two, found {len(judges)}")
    recipe = recipe_of(run)
    own = {
        i: judging.model
        for i, stage in enumerate(recipe.stages)
        if (judging := stage.judging()) is not None
    }
    if not own:
        have = ", ".join(recipe.stage_labels())
        raise RecipeError(f"--judge: no stage of {run / 'recipe.yaml'} judges (stages: {have})")
    sides = [
        _with_judge(run, recipe, own, judge, f"judge-{letter}", constitution)
        for judge, letter in zip(judges, "ab", strict=False)
    ]
    if len(sides) == 1:
        names = ", ".join(dict.fromkeys(own.values()))
        sides.insert(0, Side(names, recipe_of(run, *_overrides(constitution))))
    return sides[0], sides[1]


def _with_judge(
    run: Path,
    recipe: Recipe,
    own: Mapping[int, str],
    judge: str,
    name: str,
    constitution: Path | None,
) -> Side:
    """`own`: position of each stage that judges -> its model. `name`: of a new entry of `models`."""
    overrides = _overrides(constitution)
    if judge in recipe.judges():
        overrides += [f"stages.{i}.model={json.dumps(judge)}" for i in own]
        return Side(judge, recipe_of(run, *overrides))
    # A model that judges may be another engine than one that writes (see `engines.build`), so the
    # judge gets an entry of its own: the run's other models stay what they were.
    entries = parse(recipe.text)["models"]
    while name in entries:
        name += "-new"
    first = next(iter(own.values()))
    entry = entries.get(judge) or {**entries[first], "model": _absolute(judge)}
    overrides += [f"models.{name}={json.dumps(entry)}"]
    overrides += [f"stages.{i}.model={name}" for i in own]
    return Side(judge, recipe_of(run, *overrides), new_judge=name)


def _absolute(model: str) -> str:
    """A model's name that is valid in the run's folder."""
    path = user_path(model)
    return str(path.absolute()) if path.is_dir() else model


@contextlib.asynccontextmanager
async def engines_of(
    run: Path, sides: Sequence[Side], logs: Path | None, given: Mapping[str, Engine] | None
) -> AsyncGenerator[Mapping[str, Engine]]:
    """The engines of the run's recipe, and those of new judges. None is started yet. `given` take their
    place, and stay open."""
    ours: dict[str, Engine] = {}
    if given is None:
        recipe = recipe_of(run)
        new = {s.new_judge: s.recipe.models[s.new_judge] for s in sides if s.new_judge}
        ours = build(recipe.models, recipe.folder, logs and logs / "run", recipe.judges())
        ours |= build(new, recipe.folder, logs and logs / "judges", new)
    try:
        yield ours if given is None else given
    finally:
        for engine in set(ours.values()):
            await engine.close()
