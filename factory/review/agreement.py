"""Agreement of a reviewer with the judge, and of reviewers with each other, on the pairs of both.

Labels are `a`, `b` and tie; both bad counts as a tie, since neither answer is better. Intervals resample
prompts. Agreement with the judge is told twice: on pairs drawn at random, which stand for all pairs, and
on all decided pairs, most of which are those that the judge was least sure of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from factory.export.decisions import Decided, PairKey
from factory.review.queue import Item
from factory.stats.bootstrap import SHARE, Estimate, mean_of
from factory.stats.kappa import cohen_kappa

CODES = {"a": 1, "b": 2, "tie": 0, "both_bad": 0}

FEW = 10
"""Pairs from which a kappa is told: of fewer, its interval may be a point."""


class Figure(msgspec.Struct, frozen=True):
    """Agreement of the reviewer with someone."""

    other: str
    """As `the judge, on pairs drawn at random`."""
    pairs: int
    """Pairs that both decided."""
    same: Estimate
    """Share of them with the same label."""
    kappa: Estimate
    """Cohen's: 1: always the same; 0: as often as by chance."""

    def text(self) -> str:
        if self.same.value is None:
            return f"{self.other}: no pairs yet"
        told = f"{self.other}: the same on {self.same.value:.0%} of {self.pairs:,} pairs"
        if self.pairs < FEW:
            return f"{told} (kappa: from {FEW} pairs on)"
        return f"{told}, kappa {self.kappa}"


def figures(items: Sequence[Item], mine: Decided, others: Mapping[str, Decided]) -> list[Figure]:
    """With the judge on pairs drawn at random and on all, and with every other reviewer."""
    labels = codes(mine)
    known = [item for item in items if item.label is not None]

    def judge(chosen: Iterable[Item]) -> dict[PairKey, int]:
        return {item.key: CODES[item.label] for item in chosen if item.label is not None}

    # As they were when they were decided: another session may draw another share.
    drawn = judge(i for i in known if i.key in mine and mine[i.key].is_random)
    return [
        figure("the judge, on pairs drawn at random", labels, drawn),
        figure("the judge, on all decided pairs", labels, judge(known)),
        *(figure(name, labels, codes(decided)) for name, decided in sorted(others.items())),
    ]


def codes(decided: Decided) -> dict[PairKey, int]:
    """Pair -> its code; skipped ones are left out."""
    return {key: CODES[d.label] for key, d in decided.items() if d.label in CODES}


def figure(other: str, first: Mapping[PairKey, int], second: Mapping[PairKey, int]) -> Figure:
    both = [key for key in first if key in second]
    prompts = [key[0] for key in both]
    one, two = [first[key] for key in both], [second[key] for key in both]
    same = [float(x == y) for x, y in zip(one, two, strict=True)]
    if not both:
        return Figure(other, 0, Estimate(None), Estimate(None))
    return Figure(other, len(both), mean_of(prompts, same, SHARE), cohen_kappa(prompts, one, two))
