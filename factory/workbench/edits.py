"""The edits that make one constitution into another, principle by principle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from factory.core.constitution import Constitution, Example, Principle


class Edit(msgspec.Struct, frozen=True):
    """One changed field, or a principle or example that only one side has."""

    where: str
    """`principle kind-words` or `example 2`."""
    field: str
    """Empty: all of it."""
    before: str | None
    after: str | None
    """The text, or a value as JSON. None: that side has no such thing."""


def edits(old: Constitution | None, new: Constitution | None) -> list[Edit]:
    """All edits, in the new file's order. Principles are known by their ids; their order makes no
    difference, so it is no edit."""
    before = {p.id: p for p in old.principles} if old else {}
    after = {p.id: p for p in new.principles} if new else {}
    found: list[Edit] = []
    for id in dict.fromkeys((*after, *before)):
        found += _changes(f"principle {id}", before.get(id), after.get(id))
    worked = [made.examples if made else [] for made in (old, new)]
    for i in range(max(map(len, worked))):
        was, became = (each[i] if i < len(each) else None for each in worked)
        found += _changes(f"example {i + 1}", was, became)
    return found


def _changes(
    where: str, was: Principle | Example | None, became: Principle | Example | None
) -> Iterator[Edit]:
    if was is None or became is None:
        yield Edit(where, "", _summary(was), _summary(became))
        return
    for field in type(became).model_fields:
        old, new = getattr(was, field), getattr(became, field)
        if old != new:
            yield Edit(where, field, _text(was, field), _text(became, field))


def _summary(made: Principle | Example | None) -> str | None:
    if made is None:
        return None
    return made.title if isinstance(made, Principle) else made.prompt


def _text(made: Principle | Example, field: str) -> str:
    value: Any = made.model_dump(mode="json")[field]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
