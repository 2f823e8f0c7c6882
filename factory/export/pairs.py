"""Pairs of a sample's answers, the better one first.

A pair is made only where one answer is known to be better. Every pair that is considered is returned
once, as a `Pair` or as a `Drop` with its reason; a `PairDrop`, where people may still decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Literal, Self

import msgspec
from pydantic import Field, model_validator

from factory.core.config import Config
from factory.core.records import Candidate, Sample
from factory.export.view import Drop, Note, Reasoning, Truncated, unfit
from factory.scorers.comparison import DECIMALS, Ranking, compare, rank


class Pair(msgspec.Struct, frozen=True):
    """Two different answers to one prompt, `chosen` better than `rejected`."""

    chosen: Candidate
    rejected: Candidate
    preference: float | None = None
    """The judge's P(chosen is better), in (0.5, 1]. None: scores ranked the two, or nothing did."""
    chosen_score: float | None = None
    rejected_score: float | None = None
    agreement: float | None = None
    principle_ids: list[str] = []
    """Principles that the judge asked about; without a judge, those of the revisions' critiques."""
    judged_by: list[str] = []
    """Principles that the judge asked about."""

    @property
    def margin(self) -> float | None:
        """The chosen answer's margin over the rejected one, above 0. None: not verified."""
        if self.chosen_score is None or self.rejected_score is None:
            return None
        return self.chosen_score - self.rejected_score


class PairDrop(Drop, frozen=True):
    """Two answers that make no pair for want of evidence, not for their texts."""

    a: Candidate
    b: Candidate


class PairRules(Config):
    """Options of choosing pairs; shared by the views that need pairs."""

    pairs: Literal["revision_vs_initial", "best_vs_worst", "all_pairs"] = "revision_vs_initial"
    """`revision_vs_initial`: each answer's last revision against the answer itself.
    `best_vs_worst`: one pair per prompt, by score. `all_pairs`: every two answers of a prompt."""
    min_margin: float = Field(0.0, ge=0.0)
    """A pair's margin must be above this: 2p - 1 (0 to 1) by verdict, a difference by scores."""
    consistent: bool = False
    """Keep only pairs where the judge prefers the same answer in both orders. False: the mean of both
    orders decides. For pairs by verdict."""
    verified: bool = True
    """Keep only revisions that the judge prefers. False: every revision is chosen over its initial
    answer without a judge, as in Constitutional AI. For `revision_vs_initial` only."""
    score: str | None = None
    """Name of the score to rank by. None: the judge's verdicts; without verdicts, the only score. For
    `best_vs_worst` and `all_pairs` only."""
    truncated: Truncated = "drop"
    """Pairs with an answer that was cut at max_tokens. `drop` them, or `keep` them. With `drop`,
    `best_vs_worst` chooses among the other answers."""
    reasoning: Reasoning = "drop"
    """The thought before an answer. `keep` it in the form that the model's own chat template trains, or
    `drop` it. Verdicts and scores concern the answers alone in either case."""

    def conflicts(self) -> Iterator[str]:
        """Contradictions among these options, a sentence each."""
        by_revision = self.pairs == "revision_vs_initial"
        if by_revision and self.score is not None:
            yield (
                f"score: {self.score} is for best_vs_worst and all_pairs; revision_vs_initial uses "
                "the judge's verdict; leave score out, or choose other pairs"
            )
        if not self.verified and not by_revision:
            yield f"verified: false is for revision_vs_initial; {self.pairs} needs evidence"
        if self.consistent and (self.score is not None or not self.verified):
            yield "consistent: true is for pairs by the judge's verdicts; leave it out"
        if not self.verified and self.min_margin > 0:
            yield f"min_margin: {self.min_margin} needs verified: true; else there is no margin"

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        for conflict in self.conflicts():
            raise ValueError(conflict)
        return self

    def pair_needs(self) -> frozenset[str]:
        if self.pairs != "revision_vs_initial":
            return frozenset({"candidates", f"score:{self.score}" if self.score else "ranking"})
        if not self.verified:
            return frozenset({"revisions"})
        return frozenset({"revisions", "verdicts:revision_vs_initial"})

    def choose(self, sample: Sample) -> Iterator[Pair | Drop | Note]:
        """The sample's pairs, in order of their candidates, each after a note on it."""
        for found in self._considered(sample):
            if isinstance(found, Pair) and _same_answer(found.chosen, found.rejected):
                yield Note("differs-in-reasoning-only")
            yield found

    def _considered(self, sample: Sample) -> Iterator[Pair | Drop | Note]:
        if self.pairs == "revision_vs_initial":
            yield from self._revision_vs_initial(sample)
            return
        ranking = rank(sample, self.score)
        if isinstance(ranking, Drop):
            yield ranking
        elif len(ranking.scores) < 2:
            yield Drop("too-few-scored")
        elif self.pairs == "best_vs_worst":
            yield from self._best_vs_worst(sample, ranking)
        else:
            by_verdicts = ranking.is_by_verdicts
            for a, b in combinations(sample.kept(), 2):
                yield self._judged(sample, a, b) if by_verdicts else self._scored(a, b, ranking)

    def _revision_vs_initial(self, sample: Sample) -> Iterator[Pair | Drop]:
        revised = {c.parent for c in sample.candidates}
        for initial, newest in sample.chains():
            if initial.drop_reason is not None:
                yield Drop("filtered")
                continue
            revisions = [c for c in newest if c is not initial]
            if not revisions:
                yield Drop("filtered" if initial.index in revised else "no-revision")
            for revision in revisions:
                if not self.verified:
                    yield self._unverified(sample, revision, initial)
                    continue
                pair = self._judged(sample, revision, initial)
                is_worse = isinstance(pair, Pair) and pair.chosen is not revision
                yield PairDrop("revision-not-preferred", revision, initial) if is_worse else pair

    def _best_vs_worst(self, sample: Sample, ranking: Ranking) -> Iterator[Pair | Drop | Note]:
        scored = [c for c in sample.kept() if c.index in ranking.scores]
        whole = [c for c in scored if unfit(c, self.truncated) != Drop("truncated")]
        if len(whole) < 2:
            yield Drop("truncated")
            return
        pair = self._extremes(sample, whole, ranking)
        if isinstance(pair, Pair):
            yield from (Note("truncated") for _ in range(len(scored) - len(whole)))
        yield pair

    def _extremes(self, sample: Sample, scored: list[Candidate], ranking: Ranking) -> Pair | Drop:
        best = max(scored, key=lambda c: ranking.scores[c.index])
        worst = min(scored, key=lambda c: ranking.scores[c.index])
        if best is worst:  # max and min both take the first of equals
            return Drop("tie")
        pair = self._scored(best, worst, ranking)
        if isinstance(pair, Drop) or not ranking.is_by_verdicts:
            return pair
        verdict = compare(sample, best.index, worst.index)
        if verdict is None or verdict.p is None:
            return pair
        if self.consistent and not verdict.is_consistent:
            return PairDrop("order-decided", best, worst)
        if verdict.p <= 0.5:
            # A judge may be intransitive: the best on average may lose the direct comparison.
            return PairDrop("tie" if verdict.p == 0.5 else "contradictory", best, worst)
        return msgspec.structs.replace(
            pair,
            preference=verdict.p,
            agreement=verdict.agreement,
            principle_ids=verdict.principle_ids,
            judged_by=verdict.principle_ids,
        )

    def _judged(self, sample: Sample, a: Candidate, b: Candidate) -> Pair | Drop:
        """The pair by its own verdict, the winner chosen."""
        if (reason := self._unfit(a, b)) is not None:
            return reason
        verdict = compare(sample, a.index, b.index)
        if verdict is None:
            return PairDrop("not-judged", a, b)
        if verdict.p is None:
            return PairDrop("unparsed", a, b)
        if verdict.p == 0.5:
            return PairDrop("tie", a, b)
        if self.consistent and not verdict.is_consistent:
            return PairDrop("order-decided", a, b)
        if round(abs(2 * verdict.p - 1), DECIMALS) <= self.min_margin:
            return PairDrop("margin-too-small", a, b)
        p, chosen, rejected = (verdict.p, a, b) if verdict.p > 0.5 else (1 - verdict.p, b, a)
        ids = verdict.principle_ids
        return Pair(chosen, rejected, p, p, 1 - p, verdict.agreement, ids, ids)

    def _scored(self, a: Candidate, b: Candidate, ranking: Ranking) -> Pair | Drop:
        """The pair by scores, the higher one chosen."""
        scores = ranking.scores
        if (reason := self._unfit(a, b)) is not None:
            return reason
        if a.index not in scores or b.index not in scores:
            return PairDrop("not-scored", a, b)
        chosen, rejected = (a, b) if scores[a.index] > scores[b.index] else (b, a)
        margin = scores[chosen.index] - scores[rejected.index]
        if margin == 0:
            return PairDrop("tie", a, b)
        if margin <= self.min_margin:
            return PairDrop("margin-too-small", a, b)
        return Pair(
            chosen,
            rejected,
            chosen_score=scores[chosen.index],
            rejected_score=scores[rejected.index],
        )

    def _unverified(self, sample: Sample, revision: Candidate, initial: Candidate) -> Pair | Drop:
        """The revision over its initial answer, without a verdict."""
        if (reason := self._unfit(revision, initial)) is not None:
            return reason
        line = {initial.index}
        ancestor = revision
        while ancestor.parent is not None:
            ancestor = sample.candidates[ancestor.parent]
            line.add(ancestor.index)
        critiques = (c for c in sample.critiques if c.candidate in line)
        return Pair(
            revision,
            initial,
            principle_ids=list(dict.fromkeys(i for c in critiques for i in c.principle_ids)),
        )

    def _unfit(self, a: Candidate, b: Candidate) -> Drop | None:
        """The reason why these texts make no pair, regardless of verdicts. None: they may."""
        for candidate in (a, b):
            if (reason := unfit(candidate, self.truncated)) is not None:
                return reason
        if not _same_answer(a, b):
            return None
        if _thought(a) == _thought(b):
            return Drop("identical")
        return Drop("differs-in-reasoning-only") if self.reasoning == "drop" else None


def _same_answer(a: Candidate, b: Candidate) -> bool:
    """True if both texts are the same; thoughts are ignored."""
    return a.text.strip() == b.text.strip()


def _thought(candidate: Candidate) -> str:
    return (candidate.reasoning or "").strip()
