"""Effect of each principle of the constitution, counted over the traces in one pass.

A revision belongs to the principles of the critique that it answers; a comparison, to each principle that
the judge was asked about. Unread verdicts and readings are in no figure: never a loss or a tie.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations

import msgspec

from factory.core.records import Candidate, Sample, Verdict
from factory.core.words import spelling, words
from factory.scorers.comparison import compare, is_known
from factory.scorers.labels import leaning
from factory.stages.filter import is_refusal


class Principle(msgspec.Struct, frozen=True):
    """The effect of one principle."""

    id: str
    drawn: int
    """Samples in which a critique or a judge used it."""
    critiques: int
    changed: int
    """Critiques that found something: those whose revision is another text than the answer."""
    judged: int
    """Revisions of which a judge's verdict against the initial answer could be read."""
    won: int
    """Of those, the ones that the judge prefers to the initial answer."""
    tied: int
    unparsed: int
    """Revisions that were judged, but of which no verdict could be read."""
    mean_margin: float | None
    """Mean of 2p - 1 over the judged revisions, in [-1, 1]; p is P(revision is better). Above 0: the
    revisions win."""
    compared: int
    """Comparisons by this principle of which both orders could be read."""
    flips: int
    """Of those, the ones in which the two orders prefer different answers."""
    words: float | None
    """Mean change of length, in words: a revision against the answer that it revises."""
    refusals: float | None
    """Share of revisions that refuse, less the share of the answers they revise that do, in [-1, 1]."""
    agreements: dict[str, Agreement] = {}
    """By the id of another principle that the same judge was asked about on the same pair."""

    def agreement(self) -> float | None:
        """Share of comparisons with the same outcome as by another principle, over all others, in
        [0, 1]. None: no other was asked about."""
        comparisons = sum(each.comparisons for each in self.agreements.values())
        same = sum(each.same for each in self.agreements.values())
        return same / comparisons if comparisons else None


class Agreement(msgspec.Struct, frozen=True):
    """Outcomes of two principles on the same pairs: one answer, the other, or a tie."""

    comparisons: int
    same: int


class ByPrinciple:
    """Counts the effect of principles, sample by sample."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._margins: defaultdict[str, float] = defaultdict(float)
        self._both: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._same: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, sample: Sample) -> None:
        drawn = {id for critique in sample.critiques for id in critique.principle_ids}
        for each in sample.critiques:
            self._count(each.principle_ids, "critiques")
        for candidate in sample.candidates:
            if candidate.parent is not None and (critique := sample.critique_of(candidate)):
                parent = sample.candidates[candidate.parent]
                self._add_revision(critique.principle_ids, parent, candidate)
        for initial, revision in sample.revision_pairs():
            if critique := sample.critique_of(revision):
                self._add_verdict(critique.principle_ids, sample, revision, initial)
        for verdict in sample.verdicts:
            drawn |= {reading.principle_id for reading in verdict.readings}
            self._add_comparisons(verdict)
        self._count(drawn - {""}, "drawn")

    def _count(self, ids: Iterable[str], *what: str) -> None:
        for id in ids:
            self._counts[id].update(what)

    def _add_revision(self, ids: list[str], old: Candidate, new: Candidate) -> None:
        if spelling(old.text) != spelling(new.text):
            self._count(ids, "changed")
        if not old.text.strip() or not new.text.strip():
            return  # cut before its thought ended: no answer
        more_words = words(new.text) - words(old.text)
        more_refusals = is_refusal(new.text) - is_refusal(old.text)
        for id in ids:
            counts = self._counts[id]
            counts["revisions"] += 1
            counts["words"] += more_words
            counts["refusals"] += more_refusals

    def _add_verdict(self, ids: list[str], sample: Sample, new: Candidate, old: Candidate) -> None:
        if (found := compare(sample, new.index, old.index)) is None:
            return
        if not is_known(found.p):
            self._count(ids, "unparsed")
            return
        is_won = leaning(found.p)
        self._count(ids, "judged", *(["tied"] if is_won is None else ["won"] if is_won else []))
        for id in ids:
            self._margins[id] += 2 * found.p - 1

    def _add_comparisons(self, verdict: Verdict) -> None:
        outcomes: dict[str, bool | None] = {}
        for id, shown, swapped in _in_both_orders(verdict):
            is_flip = leaning(shown) is not leaning(swapped)
            self._count([id], "compared", *(["flips"] if is_flip else []))
            outcomes[id] = leaning((shown + swapped) / 2)
        for one, other in combinations(outcomes, 2):
            for first, second in ((one, other), (other, one)):
                self._both[first][second] += 1
                self._same[first][second] += outcomes[one] is outcomes[other]

    def principles(self) -> list[Principle]:
        """The principles that were drawn, by id."""
        return [
            Principle(
                id=id,
                drawn=n["drawn"],
                critiques=n["critiques"],
                changed=n["changed"],
                judged=n["judged"],
                won=n["won"],
                tied=n["tied"],
                unparsed=n["unparsed"],
                mean_margin=self._margins[id] / n["judged"] if n["judged"] else None,
                compared=n["compared"],
                flips=n["flips"],
                words=n["words"] / n["revisions"] if n["revisions"] else None,
                refusals=n["refusals"] / n["revisions"] if n["revisions"] else None,
                agreements={
                    other: Agreement(count, self._same[id][other])
                    for other, count in sorted(self._both[id].items())
                },
            )
            for id, n in sorted(self._counts.items())
        ]


def _in_both_orders(verdict: Verdict) -> Iterator[tuple[str, float, float]]:
    """(principle, P(a is better) as shown, swapped) of each principle that could be read in both."""
    orders: defaultdict[str, dict[bool, float]] = defaultdict(dict)
    for reading in verdict.readings:
        if reading.principle_id and is_known(reading.p):
            orders[reading.principle_id][reading.is_swapped] = reading.p
    for id, read in orders.items():
        if len(read) == 2:
            yield id, read[False], read[True]
