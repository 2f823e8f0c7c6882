"""`factory init`: the shipped recipes, prompts and constitutions as files of the user's own."""

from __future__ import annotations

import shutil
from pathlib import Path

from factory.errors import FactoryError, RecipeError
from factory.recipe import shipped_file


def create(folder: Path) -> None:
    """Copy `constitutions/` and `pipelines/` into a new or empty folder, all or nothing; never overwrites."""
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file; choose a new folder")
    if folder.exists() and any(folder.iterdir()):
        raise RecipeError(f"{folder} is not empty; choose a new folder")
    half = folder.absolute().with_name(f".{folder.absolute().name}.half")
    try:
        shutil.rmtree(half, ignore_errors=True)
        for name in ("constitutions", "pipelines"):
            source = shipped_file(name)
            if source is None:
                raise FactoryError(f"this installation lacks its {name}; install factory again")
            shutil.copytree(source, half / name)
        half.replace(folder)
    except OSError as error:
        raise FactoryError(
            f"cannot write {folder} ({error}); free some space, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(half, ignore_errors=True)
