"""How often the "95%" intervals of evaluations hold the truth, by the number of prompts.

    python -m benchmarks.coverage [--samples 1000]

Samples are drawn from populations whose figure is known; each sample's interval holds it or does
not. Beside ours stands the plain percentile bootstrap.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from factory.stats import bootstrap
from factory.stats.bootstrap import SHARE, interval, interval_of
from factory.stats.ranks import Ranks, auc

SIZES = (5, 8, 16, 30, 48, 100)
Draw = Callable[[np.random.Generator, int], Any]


def shares(*weights: float) -> Draw:
    """Lost, tied, won, by these probabilities."""
    return lambda rng, n: rng.choice([0.0, 0.5, 1.0], n, p=weights)


MEANS: dict[str, tuple[Draw, float, bool]] = {
    "won 50%": (shares(0.5, 0, 0.5), 0.5, True),
    "won 70%": (shares(0.3, 0, 0.7), 0.7, True),
    "won 90%": (shares(0.1, 0, 0.9), 0.9, True),
    "won 97%": (shares(0.03, 0, 0.97), 0.97, True),
    "tied 40%, won 40%": (shares(0.2, 0.4, 0.4), 0.6, True),
    "tied 80%, won 15%": (shares(0.05, 0.8, 0.15), 0.55, True),
    "normal": (lambda rng, n: rng.normal(0, 1, n), 0.0, False),
    "log-normal, 0.5": (lambda rng, n: rng.lognormal(0, 0.5, n), float(np.exp(0.125)), False),
    "log-normal, 1": (lambda rng, n: rng.lognormal(0, 1, n), float(np.exp(0.5)), False),
}


def of_means(draw: Draw, is_share: bool, n: int, samples: int) -> list[tuple[float, float]]:
    rng = np.random.default_rng(n)
    bounds = SHARE if is_share else None
    return [interval(draw(rng, n), range_of_values=bounds, seed=k) for k in range(samples)]


def of_auc(n: int, samples: int) -> list[tuple[float, float]]:
    """Of scores normal about 0 and 1: half of the rows are positive, one row a prompt."""
    rng = np.random.default_rng(n)
    found = []
    for k in range(samples):
        is_positive = np.arange(n) % 2 == 0
        ranks = Ranks(rng.normal(0, 1, n) + is_positive)
        made = interval_of(range(n), lambda w, r=ranks, p=is_positive: auc(r, p, w), seed=k)
        found.append((made.low or 0.0, made.high or 0.0))
    return found


def covered(intervals: list[tuple[float, float]], truth: float) -> float:
    return float(np.mean([low - 1e-9 <= truth <= high + 1e-9 for low, high in intervals]))


def line(name: str, values: list[float]) -> None:
    print(f"{name:<28}" + "".join(f"{value:>8.1%}" for value in values), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    samples = parser.parse_args().samples
    ours = bootstrap._tail
    for title in ("ours", "plain percentiles"):
        plain = title != "ours"
        bootstrap._tail = (lambda clusters, level: (1 - level) / 2) if plain else ours
        print(f"{title:<28}" + "".join(f"{n:>8}" for n in SIZES))
        for name, (draw, truth, is_share) in MEANS.items():
            at = [of_means(draw, is_share and not plain, n, samples) for n in SIZES]
            line(name, [covered(found, truth) for found in at])
        truth = 0.7602499  # Phi(1 / sqrt(2))
        line("AUC 0.76", [covered(of_auc(n, samples // 4), truth) for n in SIZES])
        print()


if __name__ == "__main__":
    main()
