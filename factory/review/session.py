"""A reviewer going through the pairs of a run: the next pair, a decision, an undo. READ FIRST.

What is shown of a pair before its decision holds nothing of the judge's choice: no probability, no name
of the stage that wrote an answer, and a side that depends on the reviewer and the pair alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from factory.core.constitution import Constitution
from factory.core.errors import FactoryError
from factory.core.records import Candidate, Sample
from factory.export.decisions import (
    Decision,
    Mark,
    PairKey,
    checked_edit,
    content_hash,
    count,
    line_of,
    newest,
    read_run,
)
from factory.pipeline import traces as shards
from factory.review.agreement import Figure, figures
from factory.review.journal import Journal, now
from factory.review.queue import Item

Side = Literal["left", "right"]
Choice = Literal["left", "right", "tie", "both_bad", "skip"]


class Refused(Exception):
    """The request fits no pair, or the text is no answer. Nothing was recorded."""


class Answer(msgspec.Struct, frozen=True):
    """What the page says of a pair."""

    pair: str
    """The pair's name on the page."""
    choice: Choice
    edit: str | None = None
    """The better answer, corrected."""
    note: str | None = None


class Session:
    """`items`: the pairs in the order of review."""

    def __init__(
        self,
        run: Path,
        part_size: int,
        items: Sequence[Item],
        journal: Journal,
        reviewer: str,
        constitution: Constitution | None,
    ) -> None:
        self._run = run
        self._part_size = part_size
        self._items = {item.key: item for item in items}
        self._keys = {_name(item.key): item.key for item in items}
        self._journal = journal
        self._reviewer = reviewer
        self._principles = {p.id: p for p in constitution.principles} if constitution else {}
        self._decided = newest(journal.decisions)

    # What is there

    def progress(self) -> dict[str, int]:
        labels = [d.label for key, d in self._decided.items() if key in self._items]
        skipped = labels.count("skip")
        return {
            "pairs": len(self._items),
            "decided": len(labels) - skipped,
            "skipped": skipped,
            "elsewhere": len(self._decided) - len(labels),
        }

    def state(self) -> dict[str, Any]:
        """The next pair, or None at the end, and the progress."""
        item = self._next()
        pair = None if item is None else self._shown(item)
        return {"pair": pair, "progress": self.progress(), "reviewer": self._reviewer}

    def agreement(self) -> list[Figure]:
        others = {n: d for n, d in read_run(self._run).items() if n != self._reviewer}
        return figures(list(self._items.values()), dict(self._decided), others)

    # What the reviewer does

    def decide(self, answer: Answer) -> None:
        """Record the answer; it is on disk when this returns. Raises `Refused`, or `OSError` if the disk
        refuses."""
        key = self._keys.get(answer.pair)
        if key is None:
            raise Refused("this pair is not in the review; reload the page")
        before = self._decided.get(key)
        if before is not None and before.label != "skip":
            raise Refused("this pair is decided already, in another tab or window; reload the page")
        item = self._items[key]
        sample, a, b = self._texts(item)
        self._record(self._decision(item, sample, a, b, answer))

    def undo(self) -> dict[str, Any]:
        """Take back the newest decision. Returns the state with that pair, and what was decided, under
        `before`. Raises `Refused` if there is none."""
        key = next((key for key in reversed(self._decided) if key in self._items), None)
        if key is None:
            raise Refused("there is no decision to undo")
        decision = self._decided[key]
        _, a, b = key
        taken_back = Decision(
            prompt_id=key[0], a=a, b=b, label="undone", reviewer=self._reviewer, at=now()
        )
        self._record(taken_back)
        item = self._items[key]
        before = {
            "choice": _choice(decision.label, left_of(self._reviewer, key)),
            "edit": decision.edit,
            "note": decision.note,
        }
        return self.state() | {"pair": self._shown(item), "before": before}

    # Helpers

    def _next(self) -> Item | None:
        """The first undecided pair; without any, the one that was skipped longest ago."""
        undecided = (item for key, item in self._items.items() if key not in self._decided)
        skipped = (
            self._items[key]
            for key, decision in self._decided.items()
            if decision.label == "skip" and key in self._items
        )
        return next(undecided, None) or next(skipped, None)

    def _shown(self, item: Item) -> dict[str, Any]:
        sample, a, b = self._texts(item)
        sides = [a, b] if left_of(self._reviewer, item.key) == "a" else [b, a]
        shown = [{"text": c.text, "thought": c.reasoning} for c in sides]
        asked = (self._principles.get(id) for id in item.principle_ids)
        return {
            "pair": _name(item.key),
            "id": sample.id,
            "prompt": sample.prompt,
            "reference": sample.reference,
            "left": shown[0],
            "right": shown[1],
            "principles": [{"title": p.title, "question": p.compare} for p in asked if p],
        }

    def _texts(self, item: Item) -> tuple[Sample, Candidate, Candidate]:
        """Raises `FactoryError` if the run was made again and has other texts."""
        sample = shards.read_sample(self._run, self._part_size, item.index)
        if sample is not None and sample.id == item.key[0]:
            two = [c for i in (item.a, item.b) for c in sample.candidates[i : i + 1]]
            if [content_hash(sample.prompt, c.text) for c in two] == list(item.key[1:]):
                return sample, *two  # type: ignore[return-value]  # as many as hashes
        raise FactoryError(
            f"the traces of {self._run} changed while they were reviewed; start the review again "
            "(decisions on texts that are still there stay)"
        )

    def _decision(
        self, item: Item, sample: Sample, a: Candidate, b: Candidate, answer: Answer
    ) -> Decision:
        left = left_of(self._reviewer, item.key)
        label: Mark
        if answer.choice in ("left", "right"):
            label = left if answer.choice == "left" else ("b" if left == "a" else "a")
        else:
            label = answer.choice  # type: ignore[assignment]  # no side
        try:
            edit = checked_edit(label, answer.edit, a.text, b.text)
        except ValueError as error:
            raise Refused(str(error)) from error
        return Decision(
            prompt_id=item.key[0],
            a=item.key[1],
            b=item.key[2],
            label=label,
            edit=edit,
            note=(answer.note or "").strip() or None,
            reviewer=self._reviewer,
            left=left,
            is_random=item.is_random,
            at=now(),
            prompt=sample.prompt,
            response_a=a.text,
            response_b=b.text,
        )

    def _record(self, decision: Decision) -> None:
        try:
            line_of(decision)
        except ValueError as error:
            raise Refused(f"the text cannot be stored ({error})") from error
        self._journal.append([decision])
        count(self._decided, decision)


def left_of(reviewer: str, key: PairKey) -> Literal["a", "b"]:
    """The answer that this reviewer sees on the left."""
    digest = hashlib.blake2b(msgspec.json.encode([reviewer, key]), digest_size=1).digest()
    return "a" if digest[0] & 1 else "b"


def _choice(label: Mark | None, left: Literal["a", "b"]) -> str | None:
    if label in ("a", "b"):
        return "left" if label == left else "right"
    return label


def _name(key: PairKey) -> str:
    return hashlib.blake2b(msgspec.json.encode(key), digest_size=12).hexdigest()
