"""What a view makes of a sample, and the files of an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factory.core.records import Sample
from factory.export.view import REASONS, Drop, Note


def rows(view: Any, of: Sample) -> list[dict[str, Any]]:
    return [row for row in view.rows(of) if not isinstance(row, Drop | Note)]


def reasons(view: Any, of: Sample) -> list[str]:
    """Why rows were left out, each a reason that is documented."""
    found = [row.reason for row in view.rows(of) if isinstance(row, Drop)]
    assert set(found) <= set(REASONS)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}
