"""Combination of several scores of an answer into one, at view time. Traces hold only the raw scores.

Each part is standardized over the run, z = (x - mean) / std, with the mean and the population
standard deviation of the kept candidates whose value is known. A first pass over the samples measures
these (Welford 1962). Samples are then passed on with the combined score added, which views and cards
treat like any other. A part with std = 0 has no information, so its z is 0 for every candidate. A
candidate that lacks a part has the combined value None.

    weights              sum of w_i z_i
    minimum              the worst criterion: min z_i
    mean_minus_variance  mean z_i - penalty * variance of z_i over the parts (population)

The last two guard against an answer that one reward model overrates (Coste et al. 2310.02743).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from factory.core.errors import RecipeError
from factory.core.records import Combination, Drop, Sample, Score
from factory.scorers.comparison import DECIMALS, scores_of


class Moments(msgspec.Struct, frozen=True):
    """Mean and deviation of one part over the run."""

    count: int
    """Number of kept candidates whose value is known."""
    mean: float | None
    std: float | None
    """Standard deviation of the population. None, like the mean, if no value is known."""

    def standardize(self, value: float) -> float:
        if self.mean is None or not self.std:
            return 0.0
        return (value - self.mean) / self.std


class Measured(msgspec.Struct, frozen=True):
    """A combination with the moments of its parts over the run."""

    combination: Combination
    moments: dict[str, Moments]
    """Part -> its moments, in the order of `combination.parts`."""


def measure(combinations: Sequence[Combination], samples: Iterable[Sample]) -> list[Measured]:
    """Measure the parts in one pass over the samples (none if there is nothing to combine).

    Raises `RecipeError` if a combined score would have the name of another score.
    """
    if not combinations:
        return []
    names = [c.name for c in combinations]
    for name in names:
        if names.count(name) > 1:
            _refuse(name)
    running = {part: _Running() for c in combinations for part in c.parts}
    for sample in samples:
        for score in sample.scores:
            if score.name in names:
                _refuse(score.name)
        for part, so_far in running.items():
            for value in _known(sample, part).values():
                so_far.add(value)
    measured = {part: so_far.moments() for part, so_far in running.items()}
    return [Measured(c, {part: measured[part] for part in c.parts}) for c in combinations]


def with_combined(sample: Sample, measured: Sequence[Measured]) -> Sample:
    """A copy of the sample with the combined scores of its kept candidates."""
    if not measured:
        return sample
    combined = [score for each in measured for score in _scores(each, sample)]
    return msgspec.structs.replace(sample, scores=[*sample.scores, *combined])


def combine(values: Sequence[float], combination: Combination) -> float:
    """The combined score of one candidate. `values`: its parts, standardized or not, in order."""
    match combination.how:
        case "weights":
            weights = combination.parts.values()
            return sum(w * value for w, value in zip(weights, values, strict=True))
        case "minimum":
            return min(values)
        case "mean_minus_variance":
            mean = sum(values) / len(values)
            variance = sum((value - mean) ** 2 for value in values) / len(values)
            return mean - combination.penalty * variance


class _Running:
    """Running mean and variance of values (Welford's recurrence)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = 0.0
        self._squares = 0.0  # sum of squared differences from the mean

    def add(self, value: float) -> None:
        self._count += 1
        delta = value - self._mean
        self._mean += delta / self._count
        self._squares += delta * (value - self._mean)

    def moments(self) -> Moments:
        if not self._count:
            return Moments(0, None, None)
        return Moments(self._count, self._mean, (self._squares / self._count) ** 0.5)


def _known(sample: Sample, part: str) -> dict[int, float]:
    """Kept candidate -> its value, if known."""
    scores = scores_of(sample, part)
    return {} if isinstance(scores, Drop) else scores


def _scores(measured: Measured, sample: Sample) -> list[Score]:
    """A combined score for each kept candidate that has a score of any part."""
    combination, moments = measured.combination, measured.moments
    known = {part: _known(sample, part) for part in moments}
    parts = [score for score in sample.scores if score.name in moments]
    asked = {score.candidate for score in parts}
    made: list[Score] = []
    for index in (c.index for c in sample.kept() if c.index in asked):
        values: list[float] = []
        details: list[str] = []
        for part, by_candidate in known.items():
            if index not in by_candidate:
                details.append(f"{part} unknown")
                continue
            raw = by_candidate[index]
            z = moments[part].standardize(raw) if combination.standardize else None
            values.append(raw if z is None else z)
            details.append(f"{part} {raw:g}" + ("" if z is None else f" (z {z:+.4f})"))
        is_whole = len(values) == len(known)
        made.append(
            Score(
                combination.name,
                index,
                round(combine(values, combination), DECIMALS) if is_whole else None,
                "; ".join(details),
                [call for score in parts if score.candidate == index for call in score.calls],
            )
        )
    return made


def _refuse(name: str) -> None:
    raise RecipeError(
        f"two stages make a score named '{name}', one of them by combining others; give one of them "
        "another `name` (what the models said is remembered)"
    )
