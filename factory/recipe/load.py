"""Loading of a recipe's file: a checked `Recipe`, or one error that lists all that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from factory.core.errors import RecipeError
from factory.core.override import override
from factory.core.validation import validate
from factory.core.yamlfile import YamlFile, listed
from factory.recipe import check
from factory.recipe.recipe import Recipe


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
    recipe = validate(Recipe, file, file.data)
    if found := list(check.problems(recipe, trains=trains)):
        raise RecipeError(listed([str(file.error(loc, message)) for loc, message in found]))
    return recipe
