"""A report: one or two runs -> one HTML file that needs no network. READ FIRST in this package.

traces, manifest, logs -> figures.py -> report.html.jinja     what is seen first, made here
                       -> pack.py    -> sample.js, report.js  the samples, unpacked in the browser
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from factory.core.errors import FactoryError, RecipeError
from factory.core.files import whole
from factory.core.terminal import printable
from factory.pipeline import manifest as manifests
from factory.recipe.recipe import Recipe
from factory.report.figures import run_of

NAME = "report.html"
"""Name of the page in a run's folder."""
_BUDGET = 24 << 20
"""Most bytes of the samples in a page, of all its runs together."""
_HERE = Path(__file__).parent


def write_report(runs: Sequence[tuple[Path, Recipe]], out: Path) -> Path:
    """Write the page of one run, or of two side by side, to the file `out`, whole or not at all.

    Raises `RecipeError` if a folder holds no run, `FactoryError` if its files cannot be read or the page
    cannot be written."""
    read = []
    for letter, (folder, recipe) in zip("AB" if len(runs) > 1 else ("",), runs, strict=True):
        if (manifest := manifests.read(folder)) is None:
            raise RecipeError(f"{folder} holds no run: there is no manifest.json in it")
        read.append(run_of(folder, recipe, manifest, letter, _BUDGET // len(runs)))
    page = (
        _environment()
        .get_template("report.html.jinja")
        .render(runs=read, css=_part("report.css"), js=_part("diff.js", "sample.js", "report.js"))
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole(out, is_shared=True) as half:
            half.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise FactoryError(f"{out} cannot be written ({error}); name another file") from error
    return out


def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "plain": lambda text: printable(str(text))}
    return environment


def _number(value: float | None, form: str = ",") -> str:
    """A dash where nothing is known."""
    return "–" if value is None else format(value, form)


class _Part(str):
    """A script or style sheet, with its hash for the page's Content-Security-Policy."""

    @property
    def source(self) -> str:
        digest = hashlib.sha256(self.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    def __html__(self) -> Markup:
        return Markup(str(self))


def _part(*names: str) -> _Part:
    return _Part("\n".join((_HERE / name).read_text(encoding="utf-8") for name in names))
