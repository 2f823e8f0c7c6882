"""The page of a run or training that a command has just made: written at its end, and named last."""

from __future__ import annotations

import sys
from pathlib import Path

from factory.cli.options import load
from factory.core.terminal import printable


def written(folder: Path) -> Path | None:
    """Write the page of a run or a training into its folder. None: it could not be written, which stderr
    says; what it is about is made all the same."""
    from factory.core.screen import Screen
    from factory.report.page import NAME
    from factory.report.report import write_report
    from factory.report.training import RECORD, write_training_report

    try:
        with Screen().doing("writing the report"):
            if (folder / RECORD).exists():
                return write_training_report(folder, folder / NAME)
            recipe = load(folder / "recipe.yaml", None, trains=False)
            return write_report([(folder, recipe)], folder / NAME)
    except Exception as error:  # whatever is wrong with the page
        print(printable(f"no report was written: {type(error).__name__}: {error}"), file=sys.stderr)
        return None


def print_path(page: Path | None) -> None:
    if page is not None:
        print(f"\non one page, for a browser:\n{page}")
