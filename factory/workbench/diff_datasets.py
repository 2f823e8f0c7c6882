"""The rows that a view makes of two sides of a comparison (`diff`)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from factory.core.records import Sample
from factory.export.view import Drop, Note, View, folder_of
from factory.workbench.difference import Row, ViewChange

_TEXTS = ("chosen", "rejected", "completion", "completions", "responses")
"""Columns with answers, by which a row is known."""
_LABELS = ("label", "labels")


class Dataset:
    """One view's rows and drops on both sides."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._counts = [0, 0]
        self._drops = (Counter[str](), Counter[str]())
        self._only: tuple[list[Row], list[Row]] = ([], [])

    def add(self, before: Sample, after: Sample, *, is_touched: bool) -> None:
        old, old_drops = self._rows(before)
        new, new_drops = self._rows(after) if is_touched else (old, old_drops)
        for side, rows, drops in ((0, old, old_drops), (1, new, new_drops)):
            self._counts[side] += rows.total()
            self._drops[side].update(drops)
        for side, rows, why in ((0, old - new, new_drops), (1, new - old, old_drops)):
            for key in rows.elements():
                texts, prompt = msgspec.json.decode(key)[0], after.prompt[-1]["content"]
                self._only[side].append(Row(after.id, prompt, texts, list(dict.fromkeys(why))))

    def _rows(self, sample: Sample) -> tuple[Counter[bytes], list[str]]:
        """The rows by `_identity`, and the reasons of those dropped."""
        rows, drops = Counter[bytes](), []
        for row in self._view.rows(sample):
            if isinstance(row, Drop):
                drops.append(row.reason)
            elif not isinstance(row, Note):
                rows[_identity(row)] += 1
        return rows, drops

    def change(self) -> ViewChange:
        return ViewChange(
            view=folder_of(self._view),
            before=self._counts[0],
            after=self._counts[1],
            entered=self._only[1],
            left=self._only[0],
            drops_before=dict(self._drops[0].most_common()),
            drops_after=dict(self._drops[1].most_common()),
        )


def _identity(row: dict[str, Any]) -> bytes:
    """The answers and labels of a row; of a row without answers, all of it. Evidence (margins, scores,
    principles) may differ in the same row."""
    texts = {name: _contents(row[name]) for name in _TEXTS if name in row}
    rest = {name: row[name] for name in (_LABELS if texts else row) if name in row}
    return msgspec.json.encode([texts, rest])


def _contents(answers: list[Any]) -> list[str]:
    return [each["content"] if isinstance(each, dict) else each for each in answers]
