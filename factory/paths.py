"""Paths as users write them, on the command line and in recipes."""

from __future__ import annotations

from pathlib import Path

from factory.errors import RecipeError


def user_path(text: str | Path) -> Path:
    """The path; `~` and `~name` at its beginning are home folders.

    Raises `RecipeError` for a text that can name no file.
    """
    if "\0" in str(text):
        raise RecipeError(f"{str(text)!r} is no path: it holds a NUL character")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise RecipeError(f"{text}: {error}; write the whole path") from error
