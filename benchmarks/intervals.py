"""How often the intervals of Bradley-Terry strengths hold the true strength; they say 95%.

    python -m benchmarks.intervals

Strengths of G players are drawn from a normal distribution and centred, every pair is compared once
or twice, as a coin that is tossed (p is 0 or 1) or as a judge that gives its probability (soft, with
noise of 0.3 logits), and each player's interval is looked at. The regularisation is the default.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from factory.stats.bradley_terry import bradley_terry
from factory.stats.outcome import Outcome

TRIALS = 150


def coverage(
    players: int, spread: float, times: int, *, is_soft: bool, trials: int = TRIALS, seed: int = 0
) -> tuple[float, float]:
    """(share of intervals that hold the true strength, their mean width)."""
    rng = np.random.default_rng(seed)
    held = width = 0.0
    for _ in range(trials):
        true = rng.normal(0, spread, players)
        true -= true.mean()
        outcomes = []
        for a, b in list(combinations(range(players), 2)) * times:
            noise = rng.normal(0, 0.3) if is_soft else 0.0
            p = 1 / (1 + np.exp(true[b] - true[a] + noise))
            outcomes.append(Outcome(a, b, float(p if is_soft else rng.random() < p)))
        found = bradley_terry(players, outcomes, resamples=200)
        assert found.low is not None
        assert found.high is not None
        low, high = np.array(found.low), np.array(found.high)
        held += float(np.mean((low <= true) & (true <= high))) / trials
        width += float(np.mean(high - low)) / trials
    return held, width


def main() -> None:
    print("players  spread  comparisons  outcomes  held  mean width")
    for players in (2, 4, 8):
        for spread in (0.5, 1.0, 2.0, 3.0):
            for times in (1, 2):
                for is_soft in (False, True):
                    if players == 2 and times == 1:
                        continue  # of one comparison there is no interval
                    held, width = coverage(players, spread, times, is_soft=is_soft)
                    count = times * players * (players - 1) // 2
                    kind = "soft" if is_soft else "tossed"
                    print(
                        f"{players:7}  {spread:6}  {count:11}  {kind:8}  {held:4.0%}  {width:10.2f}"
                    )


if __name__ == "__main__":
    main()
