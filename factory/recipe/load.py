"""Loading of a recipe's file: a checked `Recipe`, or one error that lists all that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from factory.core import constitution as constitutions
from factory.core.assets import shipped_file
from factory.core.errors import RecipeError
from factory.core.override import override
from factory.core.paths import user_path
from factory.core.validation import validate
from factory.core.yamlfile import YamlFile, dump, listed, missing_file
from factory.recipe import check
from factory.recipe.pipeline import code_of
from factory.recipe.recipe import PlainFields, Recipe
from factory.recipe.registry import pick_engine, pick_stage, pick_training, pick_view

_CONSTITUTION_FOLDERS = (".", "constitutions", "../constitutions")
"""Folders, relative to the recipe's, in which a constitution's name is looked up. The last is the
layout that `factory init` makes."""
_RECIPE_FIELDS = {"source", "models", "stages"}
"""A file with one of these fields is a recipe. It may have the same name as its constitution."""


def load(
    path: Path, overrides: Sequence[str] = (), *, limit: int | None = None, trains: bool = True
) -> Recipe:
    """Read and check a recipe.

    `overrides`: texts of `--set`, such as `stages.0.n=4`. `limit`: replaces `source.limit`.
    `trains`: check the trainings too; False for a command that only makes views.
    """
    file = YamlFile(path)
    if "principles" in file.data and "stages" not in file.data:
        raise RecipeError(f"{path} is a constitution; name a recipe, which has it as a field")
    for text in overrides:
        file.overridden(override(file.data, text), text)
    if limit is not None and isinstance(file.data.get("source"), dict):
        file.data["source"]["limit"] = limit
    wrong: list[str] = []

    def attempt(function: Callable[..., Any], *args: Any) -> Any:
        """Call a function and return its result. If it raises an error, keep it and return None."""
        try:
            return function(*args)
        except RecipeError as error:
            wrong.append(str(error))
            return None

    plain = attempt(validate, PlainFields, file, file.data)
    constitution_path = attempt(find_constitution, file)
    constitution = constitution_path and attempt(constitutions.load, constitution_path)
    picked = {
        field: {at: attempt(pick, file, (field, at), entry) for at, entry in _entries(file, field)}
        for field, pick in (
            ("models", pick_engine),
            ("stages", pick_stage),
            ("views", pick_view),
            ("training", pick_training),
        )
    }
    for i, entry in enumerate(plain.evaluation.scores if plain and plain.evaluation else ()):
        attempt(pick_stage, file, ("evaluation", "scores", i), entry)
    if wrong:
        raise RecipeError(listed(wrong))
    recipe = Recipe(
        path=path.absolute(),
        folder=path.absolute().parent,
        name=plain.name,
        seed=plain.seed,
        reproducible=plain.reproducible,
        max_failure_rate=plain.max_failure_rate,
        part_size=plain.part_size,
        source=plain.source,
        evaluation=plain.evaluation,
        constitution=constitution,
        constitution_path=constitution_path,
        models=picked["models"],
        stages=list(picked["stages"].values()),
        views=list(picked["views"].values()),
        training=list(picked["training"].values()),
        own_code=[code_of(stage, path.parent) for stage in picked["stages"].values()],
        text=dump(file.data),
    )
    wrong += [
        str(file.error(loc, message)) for loc, message in check.problems(recipe, trains=trains)
    ]
    if wrong:
        raise RecipeError(listed(wrong))
    return recipe


def _entries(file: YamlFile, field: str) -> Iterable[tuple[Any, Any]]:
    """(name or position, entry) of a field. Empty if the field has another type, which `PlainFields`
    reports."""
    found = file.data.get(field)
    if field == "models":
        return found.items() if isinstance(found, dict) else ()
    return enumerate(found) if isinstance(found, list) else ()


def find_constitution(file: YamlFile) -> Path | None:
    name = file.data.get("constitution")
    if not isinstance(name, str):
        return None  # missing, or `PlainFields` reports the error
    path = file.path.parent / user_path(name)
    if path.is_file():
        return path
    if own := _own_constitution(file, name):
        return own
    shipped = shipped_file("constitutions")
    if "/" in name or shipped is None:
        raise file.error(("constitution",), missing_file(path))
    names = sorted(p.stem for p in shipped.glob("*.yaml"))
    if (stem := name.removesuffix(".yaml")) in names:
        return shipped / f"{stem}.yaml"
    message = f"{missing_file(path)} (shipped: {', '.join(names)})"
    raise file.error(("constitution",), message)


def _own_constitution(file: YamlFile, name: str) -> Path | None:
    """The user's constitution of that name, which is preferred to a shipped one."""
    if "/" in name:
        return None
    for folder in _CONSTITUTION_FOLDERS:
        for file_name in (name, f"{name}.yaml", f"{name}.yml"):
            path = file.path.parent / folder / file_name
            if path.is_file() and not _RECIPE_FIELDS & YamlFile(path).data.keys():
                return path
    return None
