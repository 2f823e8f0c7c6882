"""Verdicts and scores of two sides of a comparison (`diff`), paired by the answers' indexes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

from factory.core.records import Sample, Score, Verdict
from factory.scorers.labels import leaning
from factory.stats.bootstrap import SHARE, Estimate, interval_of, mean_of
from factory.stats.kappa import cohen_kappa
from factory.stats.ranks import Ranks, spearman
from factory.workbench.difference import JudgeChange, Moved, ScoreChange


class Judged:
    """Everything that judges and scorers said on both sides."""

    def __init__(self) -> None:
        self._verdicts: defaultdict[str, _Verdicts] = defaultdict(_Verdicts)
        self._scores: defaultdict[str, _Scores] = defaultdict(_Scores)

    def add(self, before: Sample, after: Sample) -> None:
        verdicts = {(v.judge, v.a, v.b): v for v in after.verdicts}
        for was in before.verdicts:
            became = verdicts.pop((was.judge, was.a, was.b), None)
            if became is None:
                self._verdicts[was.judge].only_before += 1
            else:
                about = _About(before, after, (was.a, was.b))
                self._verdicts[was.judge].add(about, was, became)
        for verdict in verdicts.values():
            self._verdicts[verdict.judge].only_after += 1
        values = {(s.name, s.candidate): s.value for s in after.scores}
        for score in before.scores:
            at = (score.name, score.candidate)
            if at in values:
                about = _About(before, after, (score.candidate,))
                self._scores[score.name].add(about, score, values[at])

    def judges(self) -> list[JudgeChange]:
        return [each.change(name) for name, each in self._verdicts.items()]

    def scores(self) -> list[ScoreChange]:
        return [each.change(name) for name, each in self._scores.items()]

    def moved(self) -> list[Moved]:
        """Verdicts before scores, turned ones first, then the largest moves."""
        every = [m for each in self._verdicts.values() for m in each.moved]
        every += [m for each in self._scores.values() for m in each.moved]
        return sorted(every, key=lambda m: (m.b is None, not m.is_turned, -abs(m.by_how_much)))


class _About(NamedTuple):
    """What a verdict or a score speaks of: answers of a sample, by their indexes."""

    before: Sample
    after: Sample
    answers: tuple[int, ...]

    def texts(self) -> list[str]:
        return [self.after.candidates[i].text for i in self.answers]

    def has_same_answers(self) -> bool:
        return [self.before.candidates[i].text for i in self.answers] == self.texts()

    def moved(self, by: str, was: float | None, became: float | None, **more: Any) -> Moved:
        a, *other = self.answers
        return Moved(
            id=self.after.id,
            prompt=self.after.prompt[-1]["content"],
            answers=self.texts(),
            by=by,
            a=a,
            b=other[0] if other else None,
            before=was,
            after=became,
            has_same_answers=self.has_same_answers(),
            **more,
        )


class _Verdicts:
    """The verdicts of one judge."""

    def __init__(self) -> None:
        self.only_before = self.only_after = 0
        self.moved: list[Moved] = []
        self._compared = 0
        self._unparsed = [0, 0]
        self._ids: list[str] = []
        self._said: tuple[list[int], list[int]] = ([], [])

    def add(self, about: _About, was: Verdict, became: Verdict) -> None:
        self._compared += 1
        self._unparsed[0] += was.p is None
        self._unparsed[1] += became.p is None
        said = _outcome(was.p), _outcome(became.p)
        if about.has_same_answers() and was.p is not None and became.p is not None:
            self._ids.append(about.after.id)
            self._said[0].append(said[0])
            self._said[1].append(said[1])
        if was.p != became.p:
            moved = about.moved(
                was.judge,
                was.p,
                became.p,
                is_turned=said[0] != said[1],
                principles_before=was.principle_ids,
                principles_after=became.principle_ids,
            )
            self.moved.append(moved)

    def change(self, judge: str) -> JudgeChange:
        sizes = [abs(m.by_how_much) for m in self.moved if None not in (m.before, m.after)]
        agrees = [float(x == y) for x, y in zip(*self._said, strict=True)]
        return JudgeChange(
            judge=judge,
            compared=self._compared,
            only_before=self.only_before,
            only_after=self.only_after,
            moved=len(self.moved),
            turned=sum(m.is_turned for m in self.moved),
            unparsed_before=self._unparsed[0],
            unparsed_after=self._unparsed[1],
            mean_move=sum(sizes) / len(sizes) if sizes else None,
            on_same_answers=len(agrees),
            agreement=mean_of(self._ids, agrees, SHARE) if agrees else Estimate(None),
            kappa=cohen_kappa(self._ids, *self._said) if agrees else Estimate(None),
        )


def _outcome(p: float | None) -> int:
    """1: `a` is preferred; -1: `b`; 0: a tie, or unparsed."""
    is_a = leaning(p)
    return 0 if is_a is None else 1 if is_a else -1


class _Scores:
    """The values of one score."""

    def __init__(self) -> None:
        self.moved: list[Moved] = []
        self._ids: list[str] = []
        self._values: tuple[list[float], list[float]] = ([], [])
        self._is_same: list[bool] = []

    def add(self, about: _About, score: Score, became: float | None) -> None:
        was = score.value
        if was != became:
            self.moved.append(about.moved(score.name, was, became, is_turned=False))
        if was is not None and became is not None:
            self._ids.append(about.after.id)
            self._values[0].append(was)
            self._values[1].append(became)
            self._is_same.append(about.has_same_answers())

    def change(self, name: str) -> ScoreChange:
        old, new = self._values
        same = [i for i, is_same in enumerate(self._is_same) if is_same]
        correlation = Estimate(None)
        if same:
            x, y = (Ranks([values[i] for i in same]) for values in self._values)
            ids = [self._ids[i] for i in same]
            correlation = interval_of(ids, lambda weights: spearman(x, y, weights))
        return ScoreChange(
            name=name,
            compared=len(old),
            moved=len(self.moved),
            before=sum(old) / len(old) if old else None,
            after=sum(new) / len(new) if new else None,
            correlation=correlation,
        )
