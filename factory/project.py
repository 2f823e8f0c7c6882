"""`factory init`: the shipped recipes, prompts and constitutions as files of the user's own."""

from __future__ import annotations

import shutil
from pathlib import Path

from factory.errors import FactoryError, RecipeError
from factory.recipe import shipped_file


def create(folder: Path) -> None:
    """Copy `constitutions/` and `pipelines/` into a new or empty folder; never overwrites."""
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file; choose a new folder")
    if folder.exists() and any(folder.iterdir()):
        raise RecipeError(f"{folder} is not empty; choose a new folder")
    for name in ("constitutions", "pipelines"):
        source = shipped_file(name)
        if source is None:
            raise FactoryError(f"this installation lacks its {name}; install factory again")
        try:
            shutil.copytree(source, folder / name)
        except OSError as error:
            raise FactoryError(f"cannot write {folder / name}: {error}") from error
