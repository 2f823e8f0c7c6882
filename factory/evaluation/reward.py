"""Reward accuracy: how often a scorer puts the answer that is known to be better above the other.

A pair of equal scores is a tie and counts half. A pair with a score missing or not finite is unscored:
counted, and in no figure at all, those of the baselines included, so that all figures are of the same
pairs. Every pair counts once; prompts are what the intervals resample; a rate of nothing is None, not
zero.

Read `accuracy` beside `longer_wins` and `shorter_wins`, which look at nothing but length. `calibration`
reads chosen - rejected as log-odds, as the Bradley-Terry loss trains them; for a scorer on another scale
(1 to 5, 0 to 100) it means little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from factory.evaluation.tables import aligned, few_prompts
from factory.stats.bootstrap import DIFFERENCE, SHARE, Estimate, interval_of, mean_of
from factory.stats.calibration import Calibration, calibration
from factory.stats.ranks import Ranks, spearman


class RewardRow(msgspec.Struct, frozen=True):
    """A pair of answers to one prompt, scored."""

    prompt_id: str
    subset: str | None
    """The part of the benchmark it belongs to."""
    chosen: float | None
    """Score of the better answer; higher is better. None, NaN, infinite: unscored."""
    rejected: float | None
    words_chosen: int
    words_rejected: int


class Group(msgspec.Struct, frozen=True):
    """Accuracies on some pairs, in [0, 1], ties half."""

    subset: str | None
    """None: all pairs."""
    pairs: int
    """That were scored."""
    prompts: int
    ties: int
    unscored: int
    accuracy: Estimate
    longer_wins: Estimate
    """Accuracy of preferring the longer answer; equally long is a tie."""
    shorter_wins: Estimate
    gain: Estimate
    """`accuracy` less that of the better of these two, in [-1, 0.5]; 0: no better than length."""


class RewardReport(msgspec.Struct, frozen=True):
    """What a scorer's pairs say of it."""

    overall: Group
    subsets: list[Group]
    """By name. Empty where no pair names one."""
    coin: Estimate
    """A scorer that tosses a coin: 0.5, and where 95% of such scorers fall on so many pairs."""
    calibration: Calibration
    prefers_longer: Estimate
    """Share of pairs of unequal length in which the longer answer scores higher, ties half."""
    chosen_is_longer: Estimate
    """Share of the same pairs in which the longer answer is the chosen one."""
    length_pooled: Estimate
    """Spearman's correlation of score and words over all answers, in [-1, 1]."""
    length_within: Estimate
    """The same of the differences between the two answers of a pair, each pair taken both ways
    round: what length does where the prompt is the same, whichever answer is chosen."""

    def text(self) -> str:
        all_pairs, c = self.overall, self.calibration
        head = ["", "pairs", "accuracy", "longer wins", "shorter wins", "over length", "unscored"]
        lines = [
            f"reward accuracy on {all_pairs.pairs:,} pairs of {all_pairs.prompts:,} prompts "
            f"({all_pairs.ties:,} ties; {all_pairs.unscored:,} more unscored)",
            "",
            aligned([head, *(_cells(group) for group in [all_pairs, *self.subsets])]),
            "",
            aligned(
                [
                    ["a coin's accuracy", str(self.coin)],
                    ["prefers the longer answer", str(self.prefers_longer)],
                    ["the longer one is chosen", str(self.chosen_is_longer)],
                    ["score ~ length, all answers", str(self.length_pooled), "Spearman"],
                    ["score ~ length, within pairs", str(self.length_within), "Spearman"],
                    ["calibration error", "-" if c.ece is None else f"{c.ece:.2f}", "0 is best"],
                    ["Brier score", str(c.brier), "0.25 is undecided"],
                ]
            ),
            *few_prompts(all_pairs.prompts),
        ]
        return "\n".join(lines)


def reward_report(rows: Sequence[RewardRow]) -> RewardReport:
    pairs = [(row, *scores) for row in rows if (scores := _scores(row)) is not None]
    prompts = [row.prompt_id for row, _, _ in pairs]
    names = sorted({row.subset for row in rows if row.subset is not None})
    unequal = [pair for pair in pairs if pair[0].words_chosen != pair[0].words_rejected]
    at_odds = [row.prompt_id for row, _, _ in unequal]
    is_longer = [row.words_chosen > row.words_rejected for row, _, _ in unequal]
    return RewardReport(
        overall=_group(None, rows),
        subsets=[_group(name, [r for r in rows if r.subset == name]) for name in names],
        coin=_coin(len(pairs)),
        calibration=calibration(prompts, [_sigmoid(c - r) for _, c, r in pairs]),
        prefers_longer=mean_of(
            at_odds,
            [
                _wins(c, r) if longer else _wins(r, c)
                for (_, c, r), longer in zip(unequal, is_longer, strict=True)
            ],
            SHARE,
        ),
        chosen_is_longer=mean_of(at_odds, is_longer, SHARE),
        length_pooled=_correlation(
            prompts,
            [(c, row.words_chosen) for row, c, _ in pairs],
            [(r, row.words_rejected) for row, _, r in pairs],
        ),
        length_within=_correlation(
            prompts,
            [(c - r, row.words_chosen - row.words_rejected) for row, c, r in pairs],
            [(r - c, row.words_rejected - row.words_chosen) for row, c, r in pairs],
        ),
    )


def _group(subset: str | None, rows: Sequence[RewardRow]) -> Group:
    pairs = [(row, *scores) for row in rows if (scores := _scores(row)) is not None]
    prompts = [row.prompt_id for row, _, _ in pairs]
    right = [_wins(c, r) for _, c, r in pairs]
    longer = [_wins(row.words_chosen, row.words_rejected) for row, _, _ in pairs]
    shorter = [1 - win for win in longer]
    length = max(longer, shorter, key=sum)
    return Group(
        subset=subset,
        pairs=len(pairs),
        prompts=len(set(prompts)),
        ties=sum(c == r for _, c, r in pairs),
        unscored=len(rows) - len(pairs),
        accuracy=mean_of(prompts, right, SHARE),
        longer_wins=mean_of(prompts, longer, SHARE),
        shorter_wins=mean_of(prompts, shorter, SHARE),
        gain=mean_of(prompts, [a - b for a, b in zip(right, length, strict=True)], DIFFERENCE),
    )


def _scores(row: RewardRow) -> tuple[float, float] | None:
    """(chosen, rejected). None: unscored."""
    if row.chosen is None or row.rejected is None:
        return None
    is_finite = math.isfinite(row.chosen) and math.isfinite(row.rejected)
    return (row.chosen, row.rejected) if is_finite else None


def _wins(a: float, b: float) -> float:
    return 0.5 if a == b else float(a > b)


def _sigmoid(x: float) -> float:
    small = math.exp(-abs(x))  # never overflows
    return (1 if x >= 0 else small) / (1 + small)


def _correlation(
    prompts: Sequence[str], first: Sequence[tuple[float, int]], second: Sequence[tuple[float, int]]
) -> Estimate:
    """Of (score, words) of both answers of each pair; `prompts` runs over the pairs."""
    points = [*first, *second]
    score, words = Ranks([s for s, _ in points]), Ranks([w for _, w in points])
    return interval_of([*prompts, *prompts], lambda weights: spearman(score, words, weights))


def _coin(pairs: int) -> Estimate:
    if not pairs:
        return Estimate(None)
    heads = np.random.default_rng(0).binomial(pairs, 0.5, size=20_000)
    low, high = np.quantile(heads / pairs, [0.025, 0.975])
    return Estimate(0.5, float(low), float(high))


def _cells(group: Group) -> list[str]:
    figures = (group.accuracy, group.longer_wins, group.shorter_wins, group.gain)
    name = "all" if group.subset is None else group.subset
    return [name, f"{group.pairs:,}", *map(str, figures), f"{group.unscored:,}"]
