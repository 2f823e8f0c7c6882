"""Compare two sets of traces of the same prompts. READ FIRST in this package.

    compare(old, new, views, combinations) -> Difference

Pure: no model is called, nothing is written. `old()` and `new()` yield samples in source order; a
sample is known by its row (`index`). Both are read once, and once more where scores are combined.
Memory grows with what differs, and by a few numbers a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from factory.core.records import Candidate, Combination, Sample
from factory.core.words import words
from factory.export.view import View
from factory.scorers.combine import measure, with_combined
from factory.stages.filter import is_refusal
from factory.stats.bootstrap import DIFFERENCE, Estimate, interval
from factory.workbench.diff_datasets import Dataset
from factory.workbench.diff_judged import Judged
from factory.workbench.difference import Difference, Figure, Rewritten

Samples = Callable[[], Iterator[Sample]]


def compare(
    old: Samples, new: Samples, views: Sequence[View], combinations: Sequence[Combination] = ()
) -> Difference:
    """All that differs in the samples, and in the datasets that `views` make of them."""
    measured = [measure(combinations, side() if combinations else ()) for side in (old, new)]
    judged, answers = Judged(), _Answers()
    datasets = [Dataset(view) for view in views]
    rewritten: list[Rewritten] = []
    count, touched, critiques = 0, 0, 0
    only = [0, 0]
    for before, after in _side_by_side(old(), new()):
        if before is None or after is None:
            only[after is not None] += 1
            continue
        is_touched = before != after
        count += 1
        touched += is_touched
        critiques += before.critiques != after.critiques
        rewritten += _rewritten(before, after) if is_touched else ()
        answers.add(before, after)
        # A combined score is relative to all samples, so it may differ where nothing else does.
        whole = with_combined(before, measured[0]), with_combined(after, measured[1])
        judged.add(*whole)
        for dataset in datasets:
            dataset.add(*whole, is_touched=is_touched or bool(measured[0]))
    return Difference(
        samples=count,
        only_before=only[0],
        only_after=only[1],
        touched=touched,
        critiques=critiques,
        judges=judged.judges(),
        scores=judged.scores(),
        moved=judged.moved(),
        rewritten=rewritten,
        views=[dataset.change() for dataset in datasets],
        words=answers.figure(0),
        refusals=answers.figure(1, is_share=True),
        cut=answers.figure(2, is_share=True),
    )


def _side_by_side(
    old: Iterator[Sample], new: Iterator[Sample]
) -> Iterator[tuple[Sample | None, Sample | None]]:
    """The samples of each row. None: that side has none."""
    before, after = next(old, None), next(new, None)
    while before is not None or after is not None:
        if after is None or (before is not None and before.index < after.index):
            yield before, None
            before = next(old, None)
        elif before is None or after.index < before.index:
            yield None, after
            after = next(new, None)
        else:
            yield before, after
            before, after = next(old, None), next(new, None)


def _rewritten(before: Sample, after: Sample) -> Iterator[Rewritten]:
    for i in range(max(len(before.candidates), len(after.candidates))):
        was, became = (s.candidates[i] if i < len(s.candidates) else None for s in (before, after))
        old, new = was.text if was else None, became.text if became else None
        if old != new:
            yield Rewritten(
                id=after.id,
                prompt=after.prompt[-1]["content"],
                candidate=i,
                origin=became.origin if became else was.origin if was else "",
                before=old,
                after=new,
                principles_before=_principles(before, was),
                principles_after=_principles(after, became),
            )


def _principles(sample: Sample, answer: Candidate | None) -> list[str]:
    critique = sample.critique_of(answer) if answer else None
    return critique.principle_ids if critique else []


class _Answers:
    """Words, refusals and cuts of the newest answers: their means, sample by sample."""

    def __init__(self) -> None:
        self._before: list[tuple[float, float, float]] = []
        self._after: list[tuple[float, float, float]] = []

    def add(self, before: Sample, after: Sample) -> None:
        old, new = ([c for _, newest in s.chains() for c in newest] for s in (before, after))
        if old and new:  # else filters dropped all answers of one side
            self._before.append(_means(old))
            self._after.append(_means(new))

    def figure(self, at: int, *, is_share: bool = False) -> Figure:
        if not self._before:
            return Figure(None, None, Estimate(None))
        old, new = [row[at] for row in self._before], [row[at] for row in self._after]
        change = [y - x for x, y in zip(old, new, strict=True)]
        low, high = interval(change, range_of_values=DIFFERENCE if is_share else None)
        return Figure(_mean(old), _mean(new), Estimate(_mean(change), low, high))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _means(answers: Sequence[Candidate]) -> tuple[float, float, float]:
    n = len(answers)
    return (
        sum(words(c.text) for c in answers) / n,
        sum(is_refusal(c.text) for c in answers) / n,
        sum(c.finish_reason == "length" for c in answers) / n,
    )
