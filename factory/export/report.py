"""One dataset as it was made, in numbers: for the manifest, the card and the terminal."""

from __future__ import annotations

import msgspec

from factory.export.by_principle import Principle
from factory.scorers.combine import Measured


class Spread(msgspec.Struct, frozen=True):
    """How a number is distributed. Quartiles interpolate linearly; of very many values they
    are those of a uniform sample (`statistics.RESERVOIR`). The rest is exact."""

    count: int
    """Known values; nulls are left out."""
    mean: float
    min: float
    q1: float
    median: float
    q3: float
    max: float


class LengthBaseline(msgspec.Struct, frozen=True):
    """How well "the longer answer is better" predicts the pairs. Lengths are in words."""

    pairs: int
    chosen_longer: int
    same_length: int
    share_longer: float
    """chosen_longer / pairs, in [0, 1]. Far above 0.5: a model may learn length, not quality."""
    mean_words_chosen: float
    mean_words_rejected: float


class BestOfN(msgspec.Struct, frozen=True):
    """How hard the rows were selected: each is the best of n scored answers."""

    mean_n: float
    mean_kl: float
    """Mean over rows of log n - (n - 1) / n, in nats, >= 0: how far, at most, best-of-n moves away
    from the model that wrote the answers, if it drew them independently."""


class Reading(msgspec.Struct, frozen=True):
    """How a judge was read, over the traces (`stages.labels`)."""

    estimators: list[str]
    """`logprob`, `sampled`, or in turn both."""
    draws: int
    """Thoughts or verdicts that each reading is the mean of; the most of any."""
    has_thoughts: bool
    """It thought before its labels' probabilities were read."""
    standard_error: float | None
    """Of its word on a pair or an answer: the root of the mean variance. None: unknown, of single draws."""

    def text(self) -> str:
        """As `4 sampled verdicts, standard error 0.21`."""
        kinds = []
        if "logprob" in self.estimators:
            thoughts = "a thought" if self.draws == 1 else f"{self.draws} thoughts"
            kinds.append("log-probabilities" + (f" after {thoughts}" if self.has_thoughts else ""))
        if "sampled" in self.estimators:
            plural = "s" if self.draws > 1 else ""
            kinds.append(f"{self.draws} sampled verdict{plural}")
        error = "" if self.standard_error is None else f", standard error {self.standard_error:.3f}"
        return " or ".join(kinds) + error


class JudgeQuality(msgspec.Struct, frozen=True):
    """How far one judge can be trusted, over all its verdicts in the traces."""

    verdicts: int
    unparsed: int
    flips: int
    """Verdicts in which the two orders prefer different answers."""
    flip_rate: float | None
    """flips / verdicts whose two orders could both be read, in [0, 1]. None: there are none."""
    mean_order_gap: float | None
    """Mean of `Verdict.order_gap`, in [0, 1]; 0: order does not matter."""
    reading: Reading | None = None
    """None: only equal answers were compared, which asks nothing."""


class JudgeAgreement(msgspec.Struct, frozen=True):
    """How far two judges say the same, over the pairs of answers that both could be read on."""

    first: str
    second: str
    comparisons: int
    share: float
    """Of comparisons with the same outcome: one answer, the other, or a tie; in [0, 1]."""
    kappa: float | None
    """Cohen's (1960): (share - chance) / (1 - chance), where chance is what two judges with these
    habits agree on by luck; 1, perfect; 0, as by chance. None: both always say the same word."""


class ScoreQuality(msgspec.Struct, frozen=True):
    """How often a pointwise score could be read, over the traces."""

    scores: int
    unparsed: int
    reading: Reading | None = None
    """None: no judge gave it."""


class Thinking(msgspec.Struct, frozen=True):
    """How much one model thought before its answers, over all of them in the traces."""

    answers: int
    with_thought: int
    """Those before which it thought."""
    unended: int
    """Of those, cut before the thought ended: no answer came."""
    mean_thought_tokens: float | None
    """Over answers with a thought whose tokens somebody counted; None: nobody did."""
    mean_answer_tokens: float | None
    """Over the same answers: the tokens after the thought."""


class People(msgspec.Struct, frozen=True):
    """What became of people's decisions in one dataset, in pairs."""

    reviewers: int
    decided: int
    """Pairs that at least one person decided: the sum of `rows`, `dropped`, `elsewhere` and `stale`."""
    rows: int
    """Rows whose chosen answer people chose: the sum of `confirmed`, `swapped` and `rescued`."""
    confirmed: int
    """People and the run chose the same answer."""
    swapped: int
    rescued: int
    """Pairs that the view drops without people."""
    edited: int
    """Of the rows, those whose chosen text a person corrected."""
    dropped: int
    """Ties, both bad, and pairs on which the reviewers disagree."""
    elsewhere: int
    """Pairs of texts that exist, but that this view does not consider."""
    stale: int
    """Pairs of texts that are no longer in the run."""

    def text(self) -> str:
        """The figures on one line."""
        parts = [
            f"{self.rows:,} rows by people's decision ({self.confirmed:,} as the run had them, "
            f"{self.swapped:,} swapped, {self.rescued:,} that it drops; {self.edited:,} with an "
            "edited text)",
            f"{self.dropped:,} dropped",
        ]
        if self.elsewhere:
            parts.append(f"{self.elsewhere:,} on pairs that this view does not have")
        if self.stale:
            parts.append(f"{self.stale:,} stale: their texts are no longer in the run")
        return "; ".join(parts)


class ViewReport(msgspec.Struct):
    """One dataset as it was made; goes into the manifest."""

    view: str
    """Its folder."""
    kind: str
    rows: int
    prompts: int
    """Samples with at least one row."""
    drops: dict[str, int]
    """Rows considered and not made, by reason."""
    fingerprint: str
    """Hash of the content: equal fingerprints, equal rows."""
    spreads: dict[str, Spread]
    """Of each number column, by its name, and of answer lengths, as `chosen words`."""
    shares: dict[str, float]
    """Of each boolean column: the share that is true."""
    length: LengthBaseline | None
    """None: not pairs, or no rows."""
    judges: dict[str, JudgeQuality]
    """By judge stage. Empty where the view does not rest on verdicts."""
    scores: dict[str, ScoreQuality]
    """By score. Empty where the view does not rest on scores."""
    notes: dict[str, int] = {}
    """What is to know of the rows, by reason (`view.NOTES`)."""
    agreements: list[JudgeAgreement] = []
    """Of every two judges with pairs in common. Empty where the view does not rest on verdicts."""
    combinations: list[Measured] = []
    """Scores made of others. Empty where the view does not rest on scores."""
    best_of_n: BestOfN | None = None
    """None: the rows are no best of n, or there are none."""
    thinking: dict[str, Thinking] = {}
    """By model, of those that thought. Empty where the view holds no answers."""
    people: People | None = None
    """None: no decisions of people were applied."""
    principles: list[Principle] = []
    """Effect of each principle that was drawn. Empty where the view holds no answers."""
