"""A constitution's file by its path, or by the name of a shipped one."""

from __future__ import annotations

from pathlib import Path

from factory.core.assets import shipped_file
from factory.core.errors import RecipeError
from factory.core.paths import user_path
from factory.core.yamlfile import missing_file


def find(name: str) -> Path:
    """The file. Raises `RecipeError` if there is none."""
    path = user_path(name)
    if path.exists():
        return path
    shipped = shipped_file("constitutions")
    if "/" in name or shipped is None:
        raise RecipeError(missing_file(path))
    found = shipped / f"{name.removesuffix('.yaml')}.yaml"
    if found.is_file():
        return found
    names = ", ".join(sorted(each.stem for each in shipped.glob("*.yaml")))
    raise RecipeError(f"{missing_file(path)} (shipped: {names})")
