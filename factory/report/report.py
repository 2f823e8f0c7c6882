"""A report: one or two runs -> one HTML file that needs no network. READ FIRST in this package.

traces, manifest, logs -> figures.py -> report.html.jinja     what is seen first, made here
                       -> pack.py    -> sample.js, report.js  the samples, unpacked in the browser
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from factory.core.errors import RecipeError
from factory.pipeline import manifest as manifests
from factory.recipe.recipe import Recipe
from factory.report.figures import run_of
from factory.report.page import part, write_page

_BUDGET = 24 << 20
"""Most bytes of the samples in a page, of all its runs together."""


def write_report(runs: Sequence[tuple[Path, Recipe]], out: Path) -> Path:
    """Write the page of one run, or of two side by side, to the file `out`, whole or not at all.

    Raises `RecipeError` if a folder holds no run, `FactoryError` if its files cannot be read or the page
    cannot be written."""
    read = []
    for letter, (folder, recipe) in zip("AB" if len(runs) > 1 else ("",), runs, strict=True):
        if (manifest := manifests.read(folder)) is None:
            raise RecipeError(f"{folder} holds no run: there is no manifest.json in it")
        read.append(run_of(folder, recipe, manifest, letter, _BUDGET // len(runs)))
    scripts = part("diff.js", "sample.js", "report.js")
    return write_page("report.html.jinja", out, runs=read, js=scripts)
