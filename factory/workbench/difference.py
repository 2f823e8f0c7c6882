"""The differences between two sets of traces of the same prompts, as plain records.

"Before" and "after" are the two sides: an old and a new constitution, or two judges.
"""

from __future__ import annotations

import msgspec

from factory.stats.bootstrap import Estimate


class Moved(msgspec.Struct, frozen=True):
    """A verdict or a score that differs."""

    id: str
    """The sample's id."""
    by: str
    """Name of the judge stage or of the score."""
    a: int
    """Index of the candidate; of a verdict, of the one that `before` and `after` speak for."""
    b: int | None
    """Index of the other candidate of a verdict. None: it is a score."""
    before: float | None
    after: float | None
    """Of a verdict: P(`a` is better than `b`), in [0, 1]. None: unparsed."""
    is_turned: bool
    """A verdict that prefers another answer than before, or none any more."""
    has_same_answers: bool
    """True: the judged texts are the same on both sides."""
    prompt: str
    answers: list[str]
    """The texts of `a` and, of a verdict, `b` on the new side."""
    principles_before: list[str] = []
    principles_after: list[str] = []
    """Principles that the judge asked about."""

    @property
    def by_how_much(self) -> float:
        """`after - before`; 0 if one of them is unknown."""
        if self.before is None or self.after is None:
            return 0.0
        return self.after - self.before


class Rewritten(msgspec.Struct, frozen=True):
    """An answer that differs, usually a revision."""

    id: str
    prompt: str
    candidate: int
    origin: str
    """Name of the stage that made it."""
    before: str | None
    after: str | None
    """The text. None: that side has no such answer."""
    principles_before: list[str]
    principles_after: list[str]
    """Principles of the critiques behind the texts."""


class JudgeChange(msgspec.Struct, frozen=True):
    """The verdicts of one judge stage on both sides, of the same pairs by their indexes."""

    judge: str
    compared: int
    """Verdicts that both sides have."""
    only_before: int
    only_after: int
    moved: int
    turned: int
    """Of those moved, the ones that prefer another answer, or none any more."""
    unparsed_before: int
    unparsed_after: int
    mean_move: float | None
    """Mean of |after - before| over the moved verdicts that both sides could read. None: none moved."""
    on_same_answers: int
    """Verdicts, read on both sides, about texts that are the same on both."""
    agreement: Estimate
    """Of these, the share that prefers the same answer, or none, on both sides."""
    kappa: Estimate
    """Cohen's kappa of the same. 1: perfect agreement, 0: as by chance."""


class ScoreChange(msgspec.Struct, frozen=True):
    """The values of one score on both sides, of the same candidates by their indexes."""

    name: str
    compared: int
    """Candidates with a known value on both sides."""
    moved: int
    before: float | None
    after: float | None
    """Means over them. None: there are none."""
    correlation: Estimate
    """Spearman's correlation of the values of candidates with the same text on both sides."""


class Row(msgspec.Struct, frozen=True):
    """A row that only one side's dataset has."""

    id: str
    prompt: str
    texts: dict[str, list[str]]
    """Column -> its texts: `chosen`, `rejected`, `completion`, ..."""
    why: list[str]
    """Reasons for which the other side dropped rows of the sample."""


class ViewChange(msgspec.Struct, frozen=True):
    """One dataset on both sides. Rows with the same texts and labels are the same row."""

    view: str
    before: int
    after: int
    """Number of rows."""
    entered: list[Row]
    """Rows that only the new side has."""
    left: list[Row]
    """Rows that only the old side has."""
    drops_before: dict[str, int]
    drops_after: dict[str, int]


class Figure(msgspec.Struct, frozen=True):
    """A mean over the newest answers of each sample, on both sides, and its change sample by sample."""

    before: float | None
    after: float | None
    """None: no sample has an answer on both sides."""
    change: Estimate


class Difference(msgspec.Struct, frozen=True):
    """All that differs."""

    samples: int
    """Samples that both sides have; all counts but `only_*` are of these."""
    only_before: int
    only_after: int
    """Samples that failed on the other side."""
    touched: int
    """Samples of which any record differs."""
    critiques: int
    """Samples whose critiques differ."""
    judges: list[JudgeChange]
    scores: list[ScoreChange]
    moved: list[Moved]
    """Verdicts before scores, turned ones first, then the largest moves."""
    rewritten: list[Rewritten]
    views: list[ViewChange]
    words: Figure
    """Words per answer."""
    refusals: Figure
    """Share of answers that refuse, by the English phrases of the stage `filter`."""
    cut: Figure
    """Share of answers cut at max_tokens."""
