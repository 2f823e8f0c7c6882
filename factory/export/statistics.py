"""What is counted while a dataset is written: one pass, memory flat however many rows there are.

Rows are counted as their view made them and not in the file: there an answer's thought may stand
within its text, and exact quartiles would need a whole column in memory.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from factory.core.records import Candidate, Sample
from factory.core.words import words
from factory.export.by_principle import ByPrinciple, Principle
from factory.export.features import Features, List, Value
from factory.export.report import (
    BestOfN,
    JudgeAgreement,
    JudgeQuality,
    LengthBaseline,
    Reading,
    ScoreQuality,
    Spread,
    Thinking,
)
from factory.export.view import REASONING
from factory.scorers.comparison import is_known
from factory.scorers.labels import leaning

RESERVOIR = 100_000
"""Values kept for quartiles: exact up to here, beyond it within about 0.3 percentiles (2 s.d.)."""


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

    def values(self) -> list[float]:
        """All of them, or a uniform sample of very many (`RESERVOIR`)."""
        return self._kept

    def mean(self) -> float | None:
        return self._sum / self._count if self._count else None

    def spread(self) -> Spread:
        """Of at least one."""
        import pyarrow as pa
        import pyarrow.compute as pc

        kept = pa.array(self._kept, pa.float64())
        q1, median, q3 = pc.quantile(kept, [0.25, 0.5, 0.75]).to_pylist()
        return Spread(self._count, self._sum / self._count, self._min, q1, median, q3, self._max)


class RowStatistics:
    """Counts one view's rows and drops. `features` tells which columns are numbers or answers."""

    def __init__(self, features: Features) -> None:
        number = Value("float64")
        self._numbers = {  # name -> whether a row has a list of them
            n: f != number for n, f in features.items() if f in (number, List(number))
        }
        self._booleans = [n for n, f in features.items() if f == Value("bool")]
        self._answers = [
            n
            for n, f in features.items()
            if n != "prompt" and isinstance(f, List) and isinstance(f.feature, dict)
        ]
        self._has_pairs = {"chosen", "rejected"} <= set(self._answers)
        self._collected: defaultdict[str, Numbers] = defaultdict(Numbers)
        self._trues: Counter[str] = Counter()
        self._chosen_longer = 0
        self._same_length = 0
        self._n = Numbers()
        self._kl = Numbers()
        self.rows = 0
        self.prompts = 0
        self.drops: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()

    def choose(self, n: int) -> None:
        """The row just added is the best of n."""
        self._n.add(n)
        self._kl.add(math.log(n) - (n - 1) / n)

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        for name, is_list in self._numbers.items():
            for value in row[name] if is_list else [row[name]]:
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
        return {name: numbers.spread() for name, numbers in sorted(self._collected.items())}

    def shares(self) -> dict[str, float]:
        return {name: self._trues[name] / self.rows for name in self._booleans if self.rows}

    def best_of_n(self) -> BestOfN | None:
        n, kl = self._n.mean(), self._kl.mean()
        return None if n is None or kl is None else BestOfN(n, kl)

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


class _Readings:
    """Counts them."""

    def __init__(self) -> None:
        self._estimators: set[str] = set()
        self._draws = 0
        self._has_thoughts = False
        self._variance = Numbers()

    def add(self, readings: Iterable[tuple[str, int, str]], variance: float | None) -> None:
        """Add readings, each (estimator, draws, reasoning), and the variance of what they say."""
        for estimator, draws, reasoning in readings:
            self._estimators.add(estimator)
            self._draws = max(self._draws, draws)
            self._has_thoughts |= estimator == "logprob" and bool(reasoning)
        if is_known(variance):
            self._variance.add(variance)

    def reading(self) -> Reading | None:
        """None: there were none."""
        if not self._estimators:
            return None
        variance = self._variance.mean()
        error = None if variance is None else math.sqrt(variance)
        return Reading(sorted(self._estimators), self._draws, self._has_thoughts, error)


class EvidenceStatistics:
    """Counts answers, verdicts and scores of all samples, whether or not a row came of them."""

    def __init__(self) -> None:
        # Model -> answers, with a thought, unended, with counted tokens, thought's, answer's tokens.
        self._thinking: defaultdict[str, list[int]] = defaultdict(lambda: [0] * 6)
        self._verdicts: dict[str, list[int]] = {}  # judge -> all, parsed, both orders read, flips
        self._gaps: defaultdict[str, Numbers] = defaultdict(Numbers)
        self._readings: defaultdict[str, _Readings] = defaultdict(_Readings)  # by judge and score
        self._scores: dict[str, list[int]] = {}  # score -> all, parsed
        self._principles = ByPrinciple()
        # Two judges -> how often the first said i where the second said j; 0, 1, 2 of `_outcome`.
        self._tables: dict[tuple[str, str], list[list[int]]] = {}

    def add(self, sample: Sample) -> None:
        for candidate in sample.candidates:
            self._add_thinking(candidate)
        self._principles.add(sample)
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
            readings = ((r.estimator, r.draws, r.reasoning) for r in verdict.readings)
            self._readings[verdict.judge].add(readings, verdict.variance)
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
                reading = (score.estimator, score.draws, score.detail)
                self._readings[score.name].add([reading], score.variance)

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
        return {
            judge: JudgeQuality(
                verdicts,
                verdicts - parsed,
                flips,
                flips / in_both if in_both else None,
                self._gaps[judge].mean(),
                self._readings[judge].reading(),
            )
            for judge, (verdicts, parsed, in_both, flips) in sorted(self._verdicts.items())
        }

    def agreements(self) -> list[JudgeAgreement]:
        return [
            JudgeAgreement(first, second, *_agreement(table))
            for (first, second), table in sorted(self._tables.items())
        ]

    def principles(self) -> list[Principle]:
        return self._principles.principles()

    def scores(self) -> dict[str, ScoreQuality]:
        return {
            name: ScoreQuality(values, values - parsed, self._readings[name].reading())
            for name, (values, parsed) in sorted(self._scores.items())
        }


def _outcome(p: float) -> int:
    """0: the first answer is better, 1: the second, 2: a tie."""
    return {True: 0, False: 1, None: 2}[leaning(p)]


def _agreement(table: list[list[int]]) -> tuple[int, float, float | None]:
    """(comparisons, the share on which both say the same, Cohen's kappa) of a table of counts."""
    total = sum(map(sum, table))
    same = sum(table[i][i] for i in range(len(table)))
    by_luck = sum(sum(row) * sum(r[i] for r in table) for i, row in enumerate(table))
    if by_luck == total**2:
        return total, same / total, None
    chance = by_luck / total**2
    return total, same / total, (same / total - chance) / (1 - chance)
