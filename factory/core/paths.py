"""Paths as users write them, on the command line and in recipes."""

from __future__ import annotations

from pathlib import Path

from factory.core.errors import RecipeError


def user_path(text: str | Path) -> Path:
    """The path, with a leading `~` or `~name` replaced by the home folder.

    Raises `RecipeError` for a text that cannot name a file.
    """
    if "\0" in str(text):
        raise RecipeError(f"{str(text)!r} is not a path: it holds a NUL character")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise RecipeError(f"{text}: {error}; write the full path") from error


def near(path: str | Path) -> str:
    """A path relative to the working directory if it is below that, else the full path."""
    whole, here = Path(path).absolute(), Path.cwd()
    # Resolve `..` but not the last link: `.venv/bin/python` stays `.venv/bin/python`.
    whole = whole.parent.resolve() / whole.name
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(whole)
