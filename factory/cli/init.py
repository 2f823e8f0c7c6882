"""`factory init`: copies the shipped recipes, prompts and constitutions, with JSON Schema, for editing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from factory.core.assets import shipped_file
from factory.core.errors import FactoryError, RecipeError

_NAMES = {"constitutions": "constitution", "pipelines": "recipe"}
"""Folder that is copied -> kind of schema of its files."""
_HALF = ".half"  # holds the copy while it is made; removed once all is there


def create(folder: Path) -> None:
    """Copy `constitutions/` and `pipelines/` into a new or empty folder. Never overwrites. Finishes a
    copy that was interrupted.

    Raises `RecipeError` if `folder` is a file or not empty, `FactoryError` if it cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file; choose a new folder")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names and not (_HALF in names and names <= {_HALF, *_NAMES}):
        raise RecipeError(f"{folder} is not empty; choose a new folder")
    half = folder / _HALF
    for name, kind in _NAMES.items():
        source = shipped_file(name)
        if source is None:
            raise FactoryError(f"this installation lacks its {name}; install factory again")
        if (folder / name).exists():
            continue
        try:
            shutil.rmtree(half / name, ignore_errors=True)
            shutil.copytree(source, half / name)
            _with_schema(half / name, kind)
            (half / name).replace(folder / name)
        except OSError as error:
            raise FactoryError(
                f"cannot write {folder / name}: {error}; fix the cause and run again, or choose "
                "another folder"
            ) from error
    if half.exists():
        half.rmdir()


def _with_schema(folder: Path, kind: str) -> None:
    """JSON Schema beside the files, and the line by which editors find it."""
    from factory.recipe.schema import schema

    beside = f"{kind}.schema.json"
    (folder / beside).write_text(json.dumps(schema(kind), indent=2, ensure_ascii=False) + "\n")
    for path in folder.glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        path.write_text(f"# yaml-language-server: $schema={beside}\n{text}", encoding="utf-8")
