"""What is counted while a dataset is written: one pass, memory flat however many rows there are."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import msgspec

from factory.core.records import Candidate, Sample
from factory.core.words import words
from factory.export.features import Features, List, Value
from factory.export.view import REASONING
from factory.scorers.combine import Measured
from factory.scorers.comparison import DECIMALS, is_known

RESERVOIR = 100_000
"""Values kept for quartiles: exact up to here, beyond it within about 0.3 percentiles (2 s.d.)."""


class Spread(msgspec.Struct, frozen=True):
    """How a number is distributed. Quartiles interpolate linearly; above `RESERVOIR` values they
    are those of a uniform sample of that many. The rest is exact."""

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
    """Of what it says of a pair or an answer: the root of the mean variance. None: of single draws
    nothing is known."""

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


class _Readings:
    """Counts them."""

    def __init__(self) -> None:
        self._estimators: set[str] = set()
        self._draws = 0
        self._has_thoughts = False
        self._variance = Numbers()

    def add(self, estimator: str, draws: int, reasoning: str) -> None:
        self._estimators.add(estimator)
        self._draws = max(self._draws, draws)
        self._has_thoughts |= estimator == "logprob" and bool(reasoning)

    def add_variance(self, variance: float | None) -> None:
        if is_known(variance):
            self._variance.add(variance)

    def reading(self) -> Reading | None:
        """None: there were none."""
        if not self._estimators:
            return None
        spread = self._variance.spread()
        error = math.sqrt(spread.mean) if spread else None
        return Reading(sorted(self._estimators), self._draws, self._has_thoughts, error)


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


class Numbers:
    """Collects one number's `Spread`."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0.0
        self._min = math.inf
        self._max = -math.inf
        self._kept: list[float] = []
        self._random = random.Random(0)  # fixed, so that two exports report the same

    def add(self, value: float) -> None:
        self._count += 1
        self._sum += value
        self._min = min(self._min, value)
        self._max = max(self._max, value)
        if len(self._kept) < RESERVOIR:
            self._kept.append(value)
        elif (slot := int(self._random.random() * self._count)) < RESERVOIR:  # Vitter's algorithm R
            self._kept[slot] = value

    def spread(self) -> Spread | None:
        if not self._count:
            return None
        ordered = sorted(self._kept)
        return Spread(
            self._count,
            self._sum / self._count,
            self._min,
            _quantile(ordered, 0.25),
            _quantile(ordered, 0.5),
            _quantile(ordered, 0.75),
            self._max,
        )


class RowStatistics:
    """Counts one view's rows and drops. `features` tells which columns are numbers or answers."""

    def __init__(self, features: Features) -> None:
        self._numbers = [n for n, f in features.items() if f == Value("float64")]
        self._lists = [n for n, f in features.items() if f == List(Value("float64"))]
        self._booleans = [n for n, f in features.items() if f == Value("bool")]
        self._answers = [
            n
            for n, f in features.items()
            if n != "prompt" and isinstance(f, List) and isinstance(f.feature, dict)
        ]
        self._has_pairs = {"chosen", "rejected"} <= set(self._answers)
        self._collected: defaultdict[str, Numbers] = defaultdict(Numbers)
        self._trues = dict.fromkeys(self._booleans, 0)
        self._chosen_longer = 0
        self._same_length = 0
        self._n = Numbers()
        self._kl = Numbers()
        self.rows = 0
        self.prompts = 0
        self.drops: dict[str, int] = {}
        self.notes: dict[str, int] = {}

    def drop(self, reason: str) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1

    def note(self, reason: str) -> None:
        self.notes[reason] = self.notes.get(reason, 0) + 1

    def choose(self, n: int) -> None:
        """The row just added is the best of n."""
        self._n.add(n)
        self._kl.add(math.log(n) - (n - 1) / n)

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        for name in self._numbers:
            if row[name] is not None:
                self._collected[name].add(row[name])
        for name in self._lists:
            for value in row[name]:
                if value is not None:
                    self._collected[name].add(value)
        for name in self._booleans:
            self._trues[name] += bool(row[name])
        lengths = {name: sum(words(m["content"]) for m in row[name]) for name in self._answers}
        for name, count in lengths.items():
            self._collected[f"{name} words"].add(count)
            if thoughts := [m[REASONING] for m in row[name] if m.get(REASONING)]:
                self._collected[f"{name} thought words"].add(sum(map(words, thoughts)))
        if self._has_pairs:
            self._chosen_longer += lengths["chosen"] > lengths["rejected"]
            self._same_length += lengths["chosen"] == lengths["rejected"]

    def spreads(self) -> dict[str, Spread]:
        found = {name: numbers.spread() for name, numbers in self._collected.items()}
        return {name: spread for name, spread in sorted(found.items()) if spread is not None}

    def shares(self) -> dict[str, float]:
        return {name: trues / self.rows for name, trues in self._trues.items() if self.rows}

    def best_of_n(self) -> BestOfN | None:
        n, kl = self._n.spread(), self._kl.spread()
        return BestOfN(n.mean, kl.mean) if n and kl else None

    def length(self) -> LengthBaseline | None:
        if not self._has_pairs or not self.rows:
            return None
        spreads = self.spreads()
        return LengthBaseline(
            self.rows,
            self._chosen_longer,
            self._same_length,
            self._chosen_longer / self.rows,
            spreads["chosen words"].mean,
            spreads["rejected words"].mean,
        )


class EvidenceStatistics:
    """Counts answers, verdicts and scores of all samples, whether or not a row came of them."""

    def __init__(self) -> None:
        # Model -> answers, with a thought, unended, with counted tokens, thought's, answer's tokens.
        self._thinking: defaultdict[str, list[int]] = defaultdict(lambda: [0] * 6)
        self._verdicts: dict[str, list[int]] = {}  # judge -> all, parsed, both orders read, flips
        self._gaps: defaultdict[str, Numbers] = defaultdict(Numbers)
        self._readings: defaultdict[str, _Readings] = defaultdict(_Readings)  # by judge and score
        self._scores: dict[str, list[int]] = {}  # score -> all, parsed
        # Two judges -> how often the first said i where the second said j; 0, 1, 2 of `_outcome`.
        self._tables: dict[tuple[str, str], list[list[int]]] = {}

    def add(self, sample: Sample) -> None:
        for candidate in sample.candidates:
            self._add_thinking(candidate)
        said: dict[tuple[int, int], dict[str, int]] = {}
        for verdict in sample.verdicts:
            if is_known(verdict.p):
                pair = (min(verdict.a, verdict.b), max(verdict.a, verdict.b))
                p = verdict.p if verdict.a < verdict.b else 1 - verdict.p
                said.setdefault(pair, {})[verdict.judge] = _outcome(p)
            counts = self._verdicts.setdefault(verdict.judge, [0, 0, 0, 0])
            counts[0] += 1
            counts[1] += is_known(verdict.p)
            counts[2] += verdict.is_consistent is not None
            counts[3] += verdict.is_consistent is False
            for reading in verdict.readings:
                its = (reading.estimator, reading.draws, reading.reasoning)
                self._readings[verdict.judge].add(*its)
            self._readings[verdict.judge].add_variance(verdict.variance)
            if is_known(verdict.order_gap):
                self._gaps[verdict.judge].add(verdict.order_gap)
        for outcomes in said.values():
            for two in combinations(sorted(outcomes), 2):
                table = self._tables.setdefault(two, [[0] * 3 for _ in range(3)])
                table[outcomes[two[0]]][outcomes[two[1]]] += 1
        for score in sample.scores:
            values = self._scores.setdefault(score.name, [0, 0])
            values[0] += 1
            values[1] += is_known(score.value)
            if score.estimator:
                self._readings[score.name].add(score.estimator, score.draws, score.detail)
                self._readings[score.name].add_variance(score.variance)

    def _add_thinking(self, candidate: Candidate) -> None:
        counts = self._thinking[candidate.model]
        counts[0] += 1
        if not candidate.reasoning:
            return
        counts[1] += 1
        counts[2] += candidate.finish_reason == "length" and not candidate.text.strip()
        if candidate.reasoning_tokens:
            counts[3] += 1
            counts[4] += candidate.reasoning_tokens
            counts[5] += max(candidate.output_tokens - candidate.reasoning_tokens, 0)

    def thinking(self) -> dict[str, Thinking]:
        return {
            model: Thinking(
                answers,
                with_thought,
                unended,
                thought_tokens / counted if counted else None,
                answer_tokens / counted if counted else None,
            )
            for model, counts in sorted(self._thinking.items())
            for answers, with_thought, unended, counted, thought_tokens, answer_tokens in [counts]
            if with_thought
        }

    def judges(self) -> dict[str, JudgeQuality]:
        qualities: dict[str, JudgeQuality] = {}
        for judge, (verdicts, parsed, in_both, flips) in sorted(self._verdicts.items()):
            gap = self._gaps[judge].spread()
            qualities[judge] = JudgeQuality(
                verdicts,
                verdicts - parsed,
                flips,
                flips / in_both if in_both else None,
                gap.mean if gap else None,
                self._readings[judge].reading(),
            )
        return qualities

    def agreements(self) -> list[JudgeAgreement]:
        return [
            JudgeAgreement(first, second, *_agreement(table))
            for (first, second), table in sorted(self._tables.items())
        ]

    def scores(self) -> dict[str, ScoreQuality]:
        return {
            name: ScoreQuality(values, values - parsed, self._readings[name].reading())
            for name, (values, parsed) in sorted(self._scores.items())
        }


def _outcome(p: float) -> int:
    """0: the first answer is better, 1: the second, 2: a tie."""
    is_tie = round(p, DECIMALS) == 0.5
    return 2 if is_tie else int(p < 0.5)


def _agreement(table: list[list[int]]) -> tuple[int, float, float | None]:
    """(comparisons, the share on which both say the same, Cohen's kappa) of a table of counts."""
    total = sum(map(sum, table))
    same = sum(table[i][i] for i in range(len(table)))
    by_luck = sum(sum(row) * sum(r[i] for r in table) for i, row in enumerate(table))
    if by_luck == total**2:
        return total, same / total, None
    chance = by_luck / total**2
    return total, same / total, (same / total - chance) / (1 - chance)


def _quantile(ordered: list[float], q: float) -> float:
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = math.ceil(position)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
