"""The win rate: the share of comparisons in which the new model's answer is preferred.

Always:
- a tie is p = 0.5 exactly, as for identical answers, and counts half;
- an unparsed comparison (p None) is counted but in no rate: it is neither a loss nor a tie;
- every prompt counts once: several comparisons of a prompt are averaged first, and the interval
  resamples prompts;
- a rate of nothing is None, not zero.

Judges favor length: a high rate with longer answers and a `longer_wins` near 1 may only reflect it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec

from factory.stats.bootstrap import SHARE, interval


class Comparison(msgspec.Struct, frozen=True):
    """The judged comparison of the old and the new model's answers to one prompt."""

    prompt_id: str
    p: float | None
    """P(the new answer is better), in [0, 1]. None: unparsed."""
    is_consistent: bool | None
    """True: both orders prefer the same answer. None: unknown, as for identical answers."""
    words_new: int
    words_old: int


class WinRate(msgspec.Struct, frozen=True):
    """A win rate. Counts are of comparisons; means and rates over prompts, unless a field says otherwise."""

    wins: int
    """Number with p > 0.5: the new answer was preferred."""
    losses: int
    ties: int
    unparsed: int
    prompts: int
    """Number of prompts with at least one parsed comparison."""
    rate: float | None
    """Share won, ties half, in [0, 1]. 0.5: neither better nor worse."""
    low: float | None
    """Lower end, with `high`, of the 95% interval of `rate` (see `bootstrap`)."""
    high: float | None
    mean_p: float | None
    """Mean p, in [0, 1]: unlike `rate`, it reflects the judge's confidence."""
    flip_rate: float | None
    """Share of comparisons in which the judge's choice depended on the order shown."""
    words_new: float | None
    """Mean length of the new answers, in words, over all comparisons."""
    words_old: float | None
    longer_wins: float | None
    """Share of decided comparisons of unequal length that the longer answer won."""


def win_rate(comparisons: Sequence[Comparison], *, seed: int = 0) -> WinRate:
    """The win rate of comparisons. `seed`: the bootstrap's. Raises `ValueError` for a p outside [0, 1]."""
    if wrong := [c for c in comparisons if c.p is not None and not 0 <= c.p <= 1]:
        raise ValueError(f"p {wrong[0].p} of prompt {wrong[0].prompt_id} is not in [0, 1]")
    read = [(c, c.p) for c in comparisons if c.p is not None]
    outcomes = _by_prompt(read, lambda p: (p > 0.5) + 0.5 * (p == 0.5))
    low, high = interval(outcomes, range_of_values=SHARE, seed=seed) if outcomes else (None, None)
    decided = [
        (c.words_new > c.words_old) == (p > 0.5)
        for c, p in read
        if p != 0.5 and c.words_new != c.words_old
    ]
    return WinRate(
        wins=sum(p > 0.5 for _, p in read),
        losses=sum(p < 0.5 for _, p in read),
        ties=sum(p == 0.5 for _, p in read),
        unparsed=len(comparisons) - len(read),
        prompts=len(outcomes),
        rate=_mean(outcomes),
        low=low,
        high=high,
        mean_p=_mean(_by_prompt(read, lambda p: p)),
        flip_rate=_mean([not c.is_consistent for c, _ in read if c.is_consistent is not None]),
        words_new=_mean([c.words_new for c in comparisons]),
        words_old=_mean([c.words_old for c in comparisons]),
        longer_wins=_mean(decided),
    )


def _by_prompt(
    read: Sequence[tuple[Comparison, float]], value: Callable[[float], float]
) -> list[float]:
    """The mean of `value(p)` of each prompt, in order of first appearance."""
    prompts: defaultdict[str, list[float]] = defaultdict(list)
    for comparison, p in read:
        prompts[comparison.prompt_id].append(value(p))
    return [sum(values) / len(values) for values in prompts.values()]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
