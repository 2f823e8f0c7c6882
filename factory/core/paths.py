"""Paths as users write them, on the command line and in recipes."""

from __future__ import annotations

from pathlib import Path

from factory.core.errors import RecipeError


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


def near(path: str | Path) -> str:
    """A path as seen from the working directory if it is below that, else the whole of it."""
    whole, here = Path(path).absolute(), Path.cwd()
    # `..` is followed, but the last link is not: what a person calls `.venv/bin/python` stays that.
    whole = whole.parent.resolve() / whole.name
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(whole)
