"""The constitution that a recipe names: a file, or one of the user's or the shipped ones by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, ValidationInfo, WithJsonSchema

from factory.core import constitution as constitutions
from factory.core.assets import shipped_file
from factory.core.constitution import Constitution
from factory.core.errors import RecipeError
from factory.core.paths import user_path
from factory.core.validation import wrong
from factory.core.yamlfile import YamlFile, describe, missing_file

_FOLDERS = (".", "constitutions", "../constitutions")
"""Folders, relative to the recipe's, in which a name is looked up. The last is the layout that `factory
init` makes."""
_RECIPE_FIELDS = {"source", "models", "stages"}
"""A file with one of these fields is a recipe. It may have the same name as its constitution."""


def find(name: str, folder: Path) -> Path:
    """The file of a constitution that a recipe in `folder` names. Raises `RecipeError` if there is none."""
    path = folder / user_path(name)
    if path.is_file():
        return path
    if own := _own(name, folder):
        return own
    shipped = shipped_file("constitutions")
    if "/" in name or shipped is None:
        raise RecipeError(missing_file(path))
    names = sorted(p.stem for p in shipped.glob("*.yaml"))
    if (stem := name.removesuffix(".yaml")) in names:
        return shipped / f"{stem}.yaml"
    raise RecipeError(f"{missing_file(path)} (shipped: {', '.join(names)})")


def _own(name: str, folder: Path) -> Path | None:
    """The user's constitution of that name, which is preferred to a shipped one."""
    if "/" in name:
        return None
    for other in _FOLDERS:
        for file_name in (name, f"{name}.yaml", f"{name}.yml"):
            path = folder / other / file_name
            if path.is_file() and not _RECIPE_FIELDS & YamlFile(path).data.keys():
                return path
    return None


def _load(name: Any, info: ValidationInfo[YamlFile]) -> Constitution | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise wrong(((), f"expected text, found {describe(name)}"))
    try:
        path = find(name, info.context.path.parent)
    except RecipeError as error:
        raise wrong(((), str(error))) from error
    try:
        return constitutions.load(path)
    except RecipeError as error:  # says its place in the constitution's file
        raise wrong(((), error)) from error


NamedConstitution = Annotated[
    Constitution | None,
    PlainValidator(_load),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]}),
]
