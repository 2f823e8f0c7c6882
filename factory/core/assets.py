"""Files that come with the package: recipes, prompts and constitutions."""

from __future__ import annotations

from pathlib import Path


def shipped_file(name: str) -> Path | None:
    """A file that comes with the package (`constitutions/harmless.yaml`), installed or in a clone."""
    package = Path(__file__).parents[1]
    for base in (package / "shipped", package.parent):
        if (base / name).exists():
            return base / name
    return None
