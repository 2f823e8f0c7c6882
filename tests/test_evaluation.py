"""Bootstrap intervals and win rates, against answers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from factory.stats.bootstrap import _tail, interval, mean_of
from factory.stats.win_rate import Comparison, win_rate


def compare(
    prompt_id: str, p: float | None, *, consistent: bool | None = True, new: int = 10, old: int = 10
) -> Comparison:
    return Comparison(prompt_id, p, consistent, new, old)


# -- the bootstrap -------------------------------------------------------------------------------


def test_nothing_has_no_interval():
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_one_value_is_its_own_interval_unless_its_range_is_known():
    assert interval([0.3]) == (0.3, 0.3)
    assert interval([0.3], range_of_values=(0, 1)) == (0.0, 1.0)


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        interval([0.5, math.nan])


def test_the_interval_of_two_values_reaches_both():
    # Of resamples of {0, 1}, a quarter are 0,0 and a quarter 1,1: the 2.5% and 97.5% points.
    assert interval([0, 1]) == (0.0, 1.0)


def test_the_interval_matches_the_binomial():
    # A resample of 100 zeros and ones is Binomial(100, 0.5) / 100: its 2.5% point is 0.40.
    low, high = interval([0, 1] * 50, resamples=20_000)
    assert low == pytest.approx(0.40, abs=0.011)
    assert high == pytest.approx(0.60, abs=0.011)


@pytest.mark.parametrize(
    ("clusters", "tail"),
    # Phi(-t sqrt(n / (n - 1))) with t of n - 1 degrees of freedom from tables: 2.776, 2.365, 1.984.
    [(5, 0.00096), (8, 0.00573), (100, 0.02309), (10**6, 0.025)],
)
def test_fewer_clusters_take_quantiles_further_out(clusters, tail):
    assert _tail(clusters) == pytest.approx(tail, rel=0.03)


@pytest.mark.parametrize(("prompts", "share"), [(8, 0.9), (8, 0.6), (16, 0.95), (30, 0.5)])
def test_95_percent_intervals_hold_the_truth_that_often_with_few_prompts(prompts, share):
    random = np.random.default_rng(prompts)
    held = 0
    for k in range(300):
        won = random.random(prompts) < share
        result = win_rate([compare(str(i), float(win)) for i, win in enumerate(won)], seed=k)
        held += result.low <= share <= result.high
    assert held >= 0.93 * 300  # 95% less one and a half standard errors; before, 57% at (8, 0.9)


def test_a_rate_of_one_is_not_certain():
    for figure in (win_rate([compare(str(i), 1.0) for i in range(8)]), share_of([True] * 8)):
        assert figure.high == 1.0
        assert 0.55 < figure.low < 0.75  # Clopper and Pearson: 0.63


def share_of(claims):
    return mean_of(range(len(claims)), claims, range_of_values=(0, 1))


def test_an_interval_holds_its_figure():
    for right in range(9):
        found = share_of([True] * right + [False] * (8 - right))
        assert found.value == right / 8
        assert found.low <= found.value <= found.high


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = list(np.linspace(0, 1, 37) ** 2)
    assert interval(values, seed=1) == interval(values, seed=1)
    assert interval(values, seed=1) != interval(values, seed=2)


def test_drawing_in_blocks_changes_nothing(monkeypatch):
    values = list(np.linspace(0, 1, 50))
    whole = interval(values)
    monkeypatch.setattr("factory.stats.bootstrap._BLOCK", 1)
    assert interval(values) == whole


# -- the win rate --------------------------------------------------------------------------------


def test_ties_count_half_and_unparsed_comparisons_count_nowhere():
    result = win_rate(
        [
            compare("a", 0.9),
            compare("b", 0.6),
            compare("c", 0.5),
            compare("d", 0.2),
            compare("e", None, consistent=None),
        ]
    )
    assert (result.wins, result.losses, result.ties, result.unparsed) == (2, 1, 1, 1)
    assert result.rate == (1 + 1 + 0.5 + 0) / 4
    assert result.mean_p == pytest.approx((0.9 + 0.6 + 0.5 + 0.2) / 4)
    assert result.low < result.rate < result.high


def test_a_prompt_counts_once_however_often_it_was_compared():
    result = win_rate([compare("a", 1.0), compare("a", 1.0), compare("a", 0.0), compare("b", 0.0)])
    assert result.prompts == 2
    assert result.rate == pytest.approx((2 / 3 + 0) / 2)
    assert (result.wins, result.losses) == (2, 2)


def test_flips_are_a_share_of_the_comparisons_with_two_orders():
    result = win_rate(
        [
            compare("a", 0.9),
            compare("b", 0.6, consistent=False),
            compare("c", 0.7),
            compare("d", 0.5, consistent=None),
            compare("e", None, consistent=None),
        ]
    )
    assert result.flip_rate == 1 / 3


def test_longer_wins_looks_at_decided_comparisons_of_unequal_length():
    result = win_rate(
        [
            compare("a", 0.9, new=20, old=10),  # the longer won
            compare("b", 0.1, new=10, old=20),  # the longer won
            compare("c", 0.9, new=10, old=20),  # the shorter won
            compare("d", 0.5, new=90, old=10),  # a tie
            compare("e", 0.9, new=10, old=10),  # as long
            compare("f", None, new=50, old=20),  # unparsed
        ]
    )
    assert result.longer_wins == 2 / 3
    assert result.words_new == (20 + 10 + 10 + 90 + 10 + 50) / 6
    assert result.words_old == (10 + 20 + 20 + 10 + 10 + 20) / 6


def test_where_nothing_was_read_rates_are_unknown():
    result = win_rate([compare("a", None, consistent=None)])
    assert result.unparsed == 1
    assert (result.rate, result.low, result.high, result.mean_p) == (None, None, None, None)
    assert (result.flip_rate, result.longer_wins) == (None, None)


def test_no_comparisons_at_all_are_no_error():
    assert win_rate([]).rate is None


def test_identical_answers_are_no_better_and_no_worse_on_so_many_prompts():
    result = win_rate([compare(str(i), 0.5, consistent=None) for i in range(10)])
    assert (result.rate, result.ties) == (0.5, 10)
    # A difference on a quarter of all prompts would be missed by ten with probability 0.056.
    assert result.low == 1 - result.high
    assert 0.3 < result.low < 0.4


def test_a_probability_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"p 1\.2 of prompt a"):
        win_rate([compare("a", 1.2)])
