"""Samples -> answers labeled good or bad, for KTO.

With a `threshold` the label comes from a score. Without one it comes from pairs: winners are good,
losers bad. Each answer has at most one label: one that both wins and loses is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from factory.core.records import Candidate, Sample
from factory.export.features import Features
from factory.export.pairs import Pair, PairRules
from factory.export.schemas import KTO
from factory.export.view import Drop, FolderName, Note, answer, unfit
from factory.scorers.comparison import scores_of


class KtoView(PairRules):
    """Single answers with a label."""

    kind: Literal["kto"] = "kto"
    name: FolderName | None = None
    """Folder of the dataset; None: the kind."""
    threshold: float | None = None
    """Label by score: good at or above this (on the score's own scale). None: label by pairs."""

    def conflicts(self) -> Iterator[str]:
        if self.threshold is None:
            yield from super().conflicts()
            return
        for option in ("pairs", "min_margin", "consistent", "verified"):
            value = getattr(self, option)
            if value != PairRules.model_fields[option].default:
                yield f"{option}: {value} is for pairs, but threshold labels by score"

    def rows(self, sample: Sample) -> Iterator[dict[str, Any] | Drop | Note]:
        by_score = self.threshold is not None
        for labeled in self._by_score(sample) if by_score else self._by_pairs(sample):
            if isinstance(labeled, Drop | Note):
                yield labeled
                continue
            candidate, label, score = labeled
            yield {
                "prompt": sample.prompt,
                "completion": answer(candidate, self.reasoning),
                "label": label,
                "score": score,
                "finish_reason": candidate.finish_reason,
                "prompt_id": sample.id,
            }

    def _by_score(self, sample: Sample) -> Iterator[tuple[Candidate, bool, float] | Drop]:
        assert self.threshold is not None
        scores = scores_of(sample, self.score)
        if isinstance(scores, Drop):
            yield scores
            return
        asked = {s.candidate for s in sample.scores if self.score in (None, s.name)}
        for candidate in sample.candidates:
            if (reason := unfit(candidate, self.truncated)) is not None:
                yield reason
            elif candidate.index not in scores:
                yield Drop("unparsed" if candidate.index in asked else "not-scored")
            else:
                score = scores[candidate.index]
                yield candidate, score >= self.threshold, score

    def _by_pairs(
        self, sample: Sample
    ) -> Iterator[tuple[Candidate, bool, float | None] | Drop | Note]:
        labels: dict[int, set[bool]] = {}
        scores: dict[int, list[float]] = {}
        for pair in self.choose(sample):
            if not isinstance(pair, Pair):
                yield pair
                continue
            for candidate, label, score in (
                (pair.chosen, True, pair.chosen_score),
                (pair.rejected, False, pair.rejected_score),
            ):
                labels.setdefault(candidate.index, set()).add(label)
                if score is not None:
                    scores.setdefault(candidate.index, []).append(score)
        for index in sorted(labels):
            if len(labels[index]) == 2:
                yield Drop("contradictory")
                continue
            known = scores.get(index)
            score = sum(known) / len(known) if known else None
            yield sample.candidates[index], True in labels[index], score

    def needs(self) -> frozenset[str]:
        if self.threshold is None:
            return self.pair_needs()
        return frozenset({"candidates", f"score:{self.score or '*'}"})

    def features(self) -> Features:
        return KTO
