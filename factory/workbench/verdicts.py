"""Principles that a run's judges never tell apart, or always find opposed.

Two principles are compared where a verdict was read by both: the same judge, the same two answers. A
reading counts where its two orders agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Literal

from factory.core.constitution import Constitution
from factory.core.errors import RecipeError
from factory.core.records import Verdict
from factory.core.yamlfile import Loc
from factory.pipeline.traces import read_samples

MIN_SHARED = 20
"""Fewest comparisons by both principles of which anything is said: principles that agree on 80% of
pairs agree on 20 in a row once in a hundred times."""


def alike(made: Constitution, run: Path) -> Iterator[tuple[Literal["error", "warning"], Loc, str]]:
    """A warning for each pair of principles. Raises `RecipeError` if there is no run."""
    if not (run / "traces").is_dir():
        raise RecipeError(f"--run {run} has no traces; name the folder of a run")
    shared: Counter[tuple[str, str]] = Counter()
    same: Counter[tuple[str, str]] = Counter()
    for sample in read_samples(run):
        for verdict in sample.verdicts:
            for one, other in combinations(sorted(_sides(verdict).items()), 2):
                pair = one[0], other[0]
                shared[pair] += 1
                same[pair] += one[1] == other[1]
    places = {principle.id: i for i, principle in enumerate(made.principles)}
    for pair, count in shared.items():
        if count < MIN_SHARED or not places.keys() >= {*pair} or 0 < same[pair] < count:
            continue
        first, second = sorted(pair, key=places.__getitem__)
        what = "never differs from" if same[pair] else "always opposes"
        remedy = "ask for something else, or remove one" if same[pair] else "keep one of the two"
        message = f"in {run} '{second}' {what} '{first}' ({count:,} comparisons by both); {remedy}"
        yield "warning", ("principles", places[second]), message


def _sides(verdict: Verdict) -> dict[str, bool]:
    """Principle -> True if it prefers `a`. Without those whose orders disagree or were not read."""
    read: dict[str, list[float | None]] = defaultdict(list)
    for reading in verdict.readings:
        read[reading.principle_id].append(reading.p)
    sides = {}
    for name, values in read.items():
        leans = {None if p is None or p == 0.5 else p > 0.5 for p in values}
        if name and len(values) == 2 and len(leans) == 1 and None not in leans:
            sides[name] = bool(leans.pop())
    return sides
