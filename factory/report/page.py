"""Writing of a page: a template, style and scripts -> one file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from factory.core.errors import FactoryError
from factory.core.files import whole
from factory.core.terminal import printable

NAME = "report.html"
"""Name of the page in the folder that it is about."""
_HERE = Path(__file__).parent


def write_page(template: str, out: Path, **content: Any) -> Path:
    """Write the file `out`, whole or not at all. Raises `FactoryError` if it cannot be written."""
    page = _environment().get_template(template).render(css=part("report.css"), **content)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole(out, is_shared=True) as half:
            half.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise FactoryError(f"{out} cannot be written ({error}); name another file") from error
    return out


class Plain(NamedTuple):
    """What a page without samples shows, by `plain.html.jinja`."""

    about: str
    name: str
    state: str
    made: list[tuple[str, str]]
    """(figure, what it is), in large."""
    facts: list[tuple[str, str]]
    """(label, value)."""
    charted: str
    """The charts' heading."""
    charts: list[tuple[str, Markup]]
    tables: list[tuple[str, str, list[tuple[str, str]]]] = []
    """(title, what it says, rows of name and value)."""
    text: str = ""
    """What the command printed."""


class _Part(str):
    """A script or style sheet, with its hash for the page's Content-Security-Policy."""

    @property
    def source(self) -> str:
        digest = hashlib.sha256(self.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    def __html__(self) -> Markup:
        return Markup(str(self))


def part(*names: str) -> _Part:
    """Files of this package, as one script or style sheet."""
    return _Part("\n".join((_HERE / name).read_text(encoding="utf-8") for name in names))


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
