"""The page of a run that a command has just made: written at its end, and named last."""

from __future__ import annotations

import sys
from pathlib import Path

from factory.cli.options import load
from factory.core.terminal import printable


def written(run: Path) -> Path | None:
    """Write the page into the run's folder. None: it could not be written, which stderr says; the run is
    made all the same."""
    from factory.core.screen import Screen
    from factory.report.report import NAME, write_report

    try:
        with Screen().doing("writing the report"):
            recipe = load(run / "recipe.yaml", None, trains=False)
            return write_report([(run, recipe)], run / NAME)
    except Exception as error:  # whatever is wrong with the page
        print(printable(f"no report was written: {type(error).__name__}: {error}"), file=sys.stderr)
        return None


def print_path(page: Path | None) -> None:
    if page is not None:
        print(f"\nthe run on one page, for a browser:\n{page}")
