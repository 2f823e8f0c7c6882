"""Comparisons and rankings of a sample's answers, from its verdicts and scores.

Unparsed and non-finite values are no evidence: never a loss, a tie or a zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TypeGuard

import msgspec

from factory.core.records import Drop, Sample

DECIMALS = 6
"""Decimals of probabilities, scores and their means, so that float noise turns no tie into a win."""


class Comparison(msgspec.Struct, frozen=True):
    """The judges' verdicts on two answers, combined."""

    p: float | None
    """P(the first is better), in [0, 1]: mean over the judges that were parsed. None: none was."""
    agreement: float | None
    """Share of readings that prefer the winner, in [0, 1], mean over judges. 0.5 for a tie."""
    principle_ids: list[str]
    is_consistent: bool
    """True: no verdict changed with the order shown."""


class Ranking(msgspec.Struct, frozen=True):
    """A ranking of answers by score."""

    scores: dict[int, float]
    """Index of a kept candidate -> its score; higher is better. Unknown scores are absent."""
    is_by_verdicts: bool
    """True: a score is the mean of P(better) over the candidate's verdicts, in [0, 1]."""


def compare(sample: Sample, first: int, second: int) -> Comparison | None:
    """The verdicts over exactly these two candidates, whichever was `a`. None: not judged."""
    verdicts = [v for v in sample.verdicts if {v.a, v.b} == {first, second}]
    if not verdicts:
        return None
    ps: list[float] = []
    shares: list[float] = []  # of readings on the first one's side
    for verdict in verdicts:
        if not is_known(verdict.p):
            continue
        ps.append(verdict.p if verdict.a == first else 1 - verdict.p)
        if is_known(verdict.agreement):
            shares.append(verdict.agreement if ps[-1] >= 0.5 else 1 - verdict.agreement)
    p = _mean(ps)
    share = _mean(shares)
    if share is not None and p is not None and p < 0.5:
        share = 1 - share
    principle_ids = dict.fromkeys(i for v in verdicts for i in v.principle_ids)
    holds = all(verdict.is_consistent is not False for verdict in verdicts)
    return Comparison(p, share, list(principle_ids), holds)


def rank(sample: Sample, score: str | None) -> Ranking | Drop:
    """The ranking by the named score. None: by verdicts, or without verdicts as in `scores_of`."""
    if score is None and sample.verdicts:
        return Ranking(_win_rates(sample), is_by_verdicts=True)
    scores = scores_of(sample, score)
    return scores if isinstance(scores, Drop) else Ranking(scores, is_by_verdicts=False)


def scores_of(sample: Sample, name: str | None) -> dict[int, float] | Drop:
    """Kept candidates' scores (the mean, if scored twice). `name` None: the sample's only score.

    Parts such as `reward/helpful` are ignored beside the score combined from them, `reward`.
    """
    names = {name} if name is not None else {s.name for s in sample.scores}
    if len(names) > 1:
        names = {n for n in names if n.rpartition("/")[0] not in names}
    if len(names) > 1:
        return Drop("several-scores")
    values = ((s.candidate, s.value) for s in sample.scores if s.name in names)
    return _means(sample, ((i, value) for i, value in values if is_known(value)))


def is_known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _win_rates(sample: Sample) -> dict[int, float]:
    def sides() -> Iterator[tuple[int, float]]:
        for verdict in sample.verdicts:
            if is_known(verdict.p):
                yield verdict.a, verdict.p
                yield verdict.b, 1 - verdict.p

    rates = _means(sample, sides())
    return {index: round(rate, DECIMALS) for index, rate in rates.items()}


def _means(sample: Sample, values: Iterable[tuple[int, float]]) -> dict[int, float]:
    by_candidate: dict[int, list[float]] = {}
    for index, value in values:
        by_candidate.setdefault(index, []).append(value)
    kept = (c.index for c in sample.kept())
    return {i: sum(by_candidate[i]) / len(by_candidate[i]) for i in kept if i in by_candidate}


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), DECIMALS) if values else None
