"""A view of pairs with people's decisions applied.

Where people prefer the other answer, chosen and rejected change places. A pair that the view drops for
want of evidence (a tie, say, or a small margin) becomes a row. An edited text becomes chosen. Ties, both
bad, and pairs without a majority of the reviewers are dropped. Pairs that nobody decided stay as they are.

The judge's figures stay in a row where people agree with it, and are null otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from factory.core.errors import RecipeError
from factory.core.records import Candidate, Sample
from factory.export.decisions import (
    Consensus,
    Decided,
    Decision,
    PairKey,
    by_pair,
    consensus,
    content_hash,
    in_order,
)
from factory.export.features import Features
from factory.export.pairs import Pair, PairDrop
from factory.export.preference import PreferenceView
from factory.export.report import People
from factory.export.schemas import TRUTH
from factory.export.view import Drop, Note, View
from factory.scorers.comparison import compare

_DROPS = {None: "reviewers-disagree", "tie": "reviewed-tie", "both_bad": "reviewed-both-bad"}
EDITED = "edit"
"""Origin of an answer that a person edited."""


def with_decisions(views: Sequence[View], reviews: Mapping[str, Decided]) -> list[View]:
    """The preference views among these, with the decisions applied. Raises `RecipeError` if there are
    none."""
    pairs: list[View] = [Reviewed(v, reviews) for v in views if isinstance(v, PreferenceView)]
    if not pairs:
        raise RecipeError(
            "--reviewed: the recipe has no view of pairs; add `- {kind: preference}` to `views`, or name "
            "a recipe that has one with --recipe"
        )
    return pairs


class Reviewed:
    """A preference view with decisions, for one export: it counts what became of them."""

    def __init__(self, view: PreferenceView, reviews: Mapping[str, Decided]) -> None:
        self._view = view
        self._by_sample: dict[str, dict[PairKey, Consensus]] = {}
        self._reviewers = len(reviews)
        for key, decisions in by_pair(reviews).items():
            self._add(key, decisions)
        self._counts = dict.fromkeys(
            ("rows", "confirmed", "swapped", "rescued", "edited", "dropped", "elsewhere"), 0
        )
        self._decided = sum(map(len, self._by_sample.values()))

    def _add(self, key: PairKey, decisions: Sequence[Decision]) -> None:
        if (said := consensus(decisions)) is not None:
            self._by_sample.setdefault(key[0], {})[key] = said

    @property
    def kind(self) -> str:
        return self._view.kind

    @property
    def name(self) -> str | None:
        return self._view.name

    def needs(self) -> frozenset[str]:
        return self._view.needs()

    def features(self) -> Features:
        return Features(self._view.features(), reviewed=TRUTH, edited=TRUTH)

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        return self._view.model_dump(mode=mode)

    @property
    def reasoning(self) -> str:
        return self._view.reasoning

    def rows(self, sample: Sample) -> Iterator[dict[str, Any] | Drop | Note]:
        waiting = dict(self._by_sample.get(sample.id, {}))
        for found in self._view.choose(sample):
            made = self._decided_on(sample, found, waiting) if waiting else None
            if made is not None:
                yield made
            elif isinstance(found, Pair):
                yield self._view.row(sample, found) | {"reviewed": False, "edited": False}
            else:
                yield found
        if waiting:
            hashes = {content_hash(sample.prompt, c.text) for c in sample.candidates}
            self._counts["elsewhere"] += sum({a, b} <= hashes for _, a, b in waiting)

    def people(self) -> People:
        """What became of the decisions, once all samples went through `rows`."""
        counts = self._counts
        stale = self._decided - counts["rows"] - counts["dropped"] - counts["elsewhere"]
        return People(reviewers=self._reviewers, decided=self._decided, stale=stale, **counts)

    def _decided_on(
        self, sample: Sample, found: Pair | Drop | Note, waiting: dict[PairKey, Consensus]
    ) -> dict[str, Any] | Drop | None:
        """The row, or the drop, by people's decision, which no longer waits. None: there is none."""
        if isinstance(found, Pair):
            two = (found.chosen, found.rejected)
        elif isinstance(found, PairDrop):
            two = (found.a, found.b)
        else:
            return None
        key, a, b = in_order(sample, *two)
        said = waiting.pop(key, None)
        if said is None:
            return None
        if (reason := _DROPS.get(said.label)) is not None:
            self._counts["dropped"] += 1
            return Drop(reason)
        chosen, rejected = (a, b) if said.label == "a" else (b, a)
        self._counts["rows"] += 1
        self._counts["edited"] += said.edit is not None
        if isinstance(found, PairDrop):
            self._counts["rescued"] += 1
        else:
            self._counts["confirmed" if found.chosen is chosen else "swapped"] += 1
        pair = _pair(sample, found, chosen, rejected, said)
        return self._view.row(sample, pair) | {
            "reviewed": True,
            "edited": said.edit is not None,
        }


def _pair(
    sample: Sample, found: Pair | PairDrop, chosen: Candidate, rejected: Candidate, said: Consensus
) -> Pair:
    if isinstance(found, Pair) and found.chosen is chosen and said.edit is None:
        return found
    if said.edit is not None:
        # It keeps its index, by which its critique is found, and its thought.
        chosen = msgspec.structs.replace(
            chosen, text=said.edit, origin=EDITED, finish_reason="stop"
        )
    if isinstance(found, Pair):
        return Pair(chosen, rejected, principle_ids=found.principle_ids, judged_by=found.judged_by)
    verdict = compare(sample, found.a.index, found.b.index)
    ids = verdict.principle_ids if verdict else []
    return Pair(chosen, rejected, principle_ids=ids, judged_by=ids)
