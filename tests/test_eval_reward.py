"""Reward accuracy, calibration and the bootstrap beneath them, against answers worked by hand."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.evaluation.reward import RewardReport, RewardRow, reward_report
from factory.evaluation.tables import aligned
from factory.stats.bootstrap import Estimate, interval, interval_of, mean_of, weighted_mean
from factory.stats.calibration import calibration
from factory.stats.ranks import Ranks, spearman

pytestmark = pytest.mark.usefixtures("few_resamples")


def pair(
    chosen: float | None,
    rejected: float | None,
    *,
    prompt: str = "p",
    subset: str | None = None,
    words: tuple[int, int] = (10, 10),
) -> RewardRow:
    return RewardRow(prompt, subset, chosen, rejected, *words)


# -- the bootstrap of any statistic --------------------------------------------------------------


def test_with_a_row_a_cluster_it_is_the_interval_of_the_mean(monkeypatch):
    monkeypatch.setattr("factory.stats.bootstrap._RESAMPLES", 2000)
    values = list(np.linspace(0, 1, 37) ** 2)
    found = mean_of(range(37), values, seed=3)
    assert found.value == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx(interval(values, seed=3))


def test_clusters_are_drawn_whole():
    # Two clusters, of three rows 1 and one row 0: a resample is 1, 3/4 or 0 and nothing between.
    seen = set()

    def mean(weights):
        seen.add(weighted_mean(np.array([1, 1, 1, 0]), weights))
        return 0.5

    interval_of(["a", "a", "a", "b"], mean)
    assert seen == {1.0, 0.75, 0.0}


def test_every_row_counts_once():
    assert mean_of(["a", "a", "a", "b"], [1, 1, 1, 0]).value == 0.75


def test_resamples_in_which_the_statistic_is_undefined_are_left_out_and_counted(monkeypatch):
    monkeypatch.setattr("factory.stats.bootstrap._RESAMPLES", 4000)
    found = interval_of(["a", "b"], lambda w: float(w[0]) if w[1] else None)
    assert found.undefined / 4000 == pytest.approx(1 / 4, abs=0.03)  # a, a
    assert (found.value, found.low, found.high) == (1.0, 0.0, 1.0)


def test_a_statistic_undefined_on_all_rows_has_no_interval():
    assert interval_of(["a"], lambda w: None) == Estimate(None)
    assert mean_of([], []) == Estimate(None)


def test_a_statistic_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        interval_of(["a"], lambda w: math.nan)


def test_figures_are_printed_with_their_interval():
    assert str(Estimate(0.634, 0.58, 0.6651)) == "0.63 (0.58 to 0.67)"
    assert str(Estimate(-0.001, -0.1, 0.1)) == "0.00 (-0.10 to 0.10)"
    assert str(Estimate(0.5)) == "0.50"
    assert str(Estimate(None)) == "-"


def test_tables_line_up_words_left_and_counts_right():
    assert aligned([["", "n", "x"], ["all", "1,200", "0.5"], ["a", "7"]]) == (
        "         n  x\nall  1,200  0.5\na        7"
    )


# -- Spearman's correlation ----------------------------------------------------------------------


def test_spearman_shares_ranks_among_ties():
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4, less their mean: -1.5, 0, 0, 1.5 and -1.5, .5, -.5, 1.5.
    x, y = Ranks([10, 20, 20, 40]), Ranks([1, 3, 2, 4])
    assert x.of(np.ones(4)).tolist() == [1, 2.5, 2.5, 4]
    assert spearman(x, y, np.ones(4)) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_spearman_of_a_constant_is_undefined():
    assert spearman(Ranks([1, 1, 1]), Ranks([1, 2, 3]), np.ones(3)) is None
    assert spearman(Ranks([1, 2]), Ranks([1, 2]), np.array([3.0, 0.0])) is None


points = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=12
)


@given(points)
def test_weights_are_rows_written_out(rows):
    x, y, weights = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    times = weights.astype(int)
    weighted = spearman(Ranks(x), Ranks(y), weights)
    written_x, written_y = np.repeat(x, times), np.repeat(y, times)
    written = spearman(Ranks(written_x), Ranks(written_y), np.ones(times.sum()))
    assert (weighted is None) == (written is None)
    assert weighted is None or weighted == pytest.approx(written)


@given(points)
def test_spearman_turns_with_the_sign_and_ignores_a_rising_change_of_scale(rows):
    x, y, _ = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    ones = np.ones(len(rows))
    plain = spearman(Ranks(x), Ranks(y), ones)
    if plain is not None:
        assert -1 <= plain <= 1
        assert spearman(Ranks(-x), Ranks(y), ones) == pytest.approx(-plain)
        assert spearman(Ranks(np.exp(x)), Ranks(y), ones) == plain


def test_what_is_not_a_number_has_no_rank():
    with pytest.raises(ValueError, match="not a number"):
        Ranks([1.0, math.nan])


# -- calibration ---------------------------------------------------------------------------------


def test_calibration_by_hand():
    # Confidences .5 (a tie: half right), .6 (wrong), .9, .9 (right), each a bin of its own.
    found = calibration(list("abcd"), [0.9, 0.4, 0.5, 0.9])
    assert [(b.confidence, b.accuracy) for b in found.bins] == [
        (0.5, 0.5),
        (0.6, 0.0),
        (0.9, 1.0),
        (0.9, 1.0),
    ]
    assert found.ece == pytest.approx((0 + 0.6 + 0.1 + 0.1) / 4)
    assert found.brier.value == pytest.approx((0.1**2 + 0.6**2 + 0.5**2 + 0.1**2) / 4)


def test_bins_hold_equally_many_pairs():
    found = calibration([str(i) for i in range(20)], np.linspace(0.51, 0.99, 20).tolist())
    assert [b.pairs for b in found.bins] == [2] * 10
    # All are right: the error is what the confidence lacks of 1.
    assert found.ece == pytest.approx(1 - 0.75)


def test_a_scorer_right_as_often_as_it_is_sure_has_no_error_whatever_the_order():
    p = [0.75] * 15 + [0.25] * 5
    assert calibration(["a"] * 20, p).ece == pytest.approx(0)
    assert calibration(["a"] * 20, p[::-1]).ece == pytest.approx(0)


def test_an_undecided_scorer_is_calibrated_and_has_the_brier_score_of_a_coin():
    found = calibration(["a", "b"], [0.5, 0.5])
    assert (found.ece, found.brier.value) == (0, 0.25)


@given(st.lists(st.integers(0, 16).map(lambda n: n / 16), min_size=1, max_size=40), st.randoms())
@settings(max_examples=30, deadline=None)
def test_calibration_stays_in_range_and_ignores_the_order(p, random):
    shuffled = random.sample(p, len(p))
    one, other = calibration(["a"] * len(p), p), calibration(["a"] * len(p), shuffled)
    assert one.ece == pytest.approx(other.ece)
    assert 0 <= one.ece <= 1
    assert sum(b.pairs for b in one.bins) == len(p)


# -- the report ----------------------------------------------------------------------------------


def test_a_tie_is_half_and_unscored_pairs_are_in_no_rate():
    found = reward_report(
        [
            pair(2, 1, words=(20, 10)),
            pair(1, 2, words=(20, 10)),
            pair(1, 1, words=(10, 20)),
            pair(3, 0, words=(10, 10)),
            pair(None, 1, words=(90, 1)),
            pair(1, math.nan, words=(90, 1)),
            pair(math.inf, 1, words=(90, 1)),
        ]
    ).overall
    assert (found.pairs, found.unscored, found.ties) == (4, 3, 1)
    assert found.accuracy.value == (1 + 0 + 0.5 + 1) / 4
    assert found.longer_wins.value == (1 + 1 + 0 + 0.5) / 4
    assert found.shorter_wins.value == (0 + 0 + 1 + 0.5) / 4
    assert found.gain.value == found.accuracy.value - found.longer_wins.value


def test_gain_is_over_the_better_of_longer_and_shorter():
    rows = [pair(1, 0, words=(5, 10)), pair(1, 0, words=(5, 10)), pair(1, 0, words=(10, 5))]
    assert reward_report(rows).overall.gain.value == pytest.approx(1 - 2 / 3)


def test_subsets_are_reported_by_name():
    found = reward_report(
        [pair(1, 0, subset="b"), pair(0, 1, subset="a"), pair(None, 1, subset="a"), pair(1, 0)]
    )
    assert [(g.subset, g.pairs, g.unscored, g.accuracy.value) for g in found.subsets] == [
        ("a", 1, 1, 0.0),
        ("b", 1, 0, 1.0),
    ]
    assert found.overall.accuracy.value == 2 / 3


def test_the_interval_resamples_prompts():
    # One prompt only: all that is known of others is their range.
    found = reward_report([pair(1, 0), pair(0, 1)]).overall
    assert (found.prompts, found.accuracy) == (1, Estimate(0.5, 0.0, 1.0))
    apart = reward_report([pair(1, 0, prompt="a"), pair(0, 1, prompt="b")]).overall
    assert (apart.accuracy.low, apart.accuracy.high) == (0, 1)


def test_the_score_difference_is_read_as_log_odds():
    found = reward_report([pair(math.log(3), 0)]).calibration
    assert found.bins[0].confidence == pytest.approx(0.75)
    assert found.ece == pytest.approx(0.25)
    assert found.brier.value == pytest.approx(1 / 16)


def test_huge_differences_do_not_overflow():
    found = reward_report([pair(1e308, -1e308), pair(-1e308, 1e308)]).calibration
    assert (found.ece, found.brier.value) == (0.5, 0.5)


def test_a_coin_falls_where_the_binomial_says():
    coin = reward_report([pair(1, 0)] * 100).coin
    assert (coin.value, coin.low, coin.high) == (0.5, 0.40, 0.60)


def test_the_preference_for_length_is_compared_on_the_same_pairs():
    found = reward_report(
        [
            pair(2, 1, words=(20, 10)),  # scored higher: the longer; chosen: the longer
            pair(1, 2, words=(10, 20)),  # the longer; the shorter
            pair(1, 1, words=(10, 20)),  # tie; the shorter
            pair(9, 0, words=(10, 10)),  # as long
        ]
    )
    assert found.prefers_longer.value == (1 + 1 + 0.5) / 3
    assert found.chosen_is_longer.value == 1 / 3


def test_length_within_a_pair_is_not_length_between_prompts():
    # Long answers go with high scores from prompt to prompt, and with low ones in each pair.
    rows = [
        pair(10 * k + 1, 10 * k, prompt=str(k), words=(100 * k, 100 * k + 5)) for k in range(1, 8)
    ]
    found = reward_report(rows)
    assert found.length_pooled.value > 0.9
    assert found.length_within.value < -0.8


scores = st.none() | st.integers(-3, 3).map(float)
rows_of_pairs = st.lists(
    st.builds(
        RewardRow,
        st.sampled_from("abc"),
        st.sampled_from([None, "x", "y"]),
        scores,
        scores,
        st.integers(0, 4),
        st.integers(0, 4),
    ),
    max_size=12,
)


def swapped(row: RewardRow) -> RewardRow:
    return RewardRow(
        row.prompt_id, row.subset, row.rejected, row.chosen, row.words_rejected, row.words_chosen
    )


def invariants(rows: list[RewardRow]) -> None:
    one, other = reward_report(rows), reward_report([swapped(row) for row in rows])
    assert one.overall.pairs + one.overall.unscored == len(rows)
    assert one.prefers_longer.value == pytest.approx(other.prefers_longer.value)
    assert one.length_within.value == pytest.approx(other.length_within.value)
    if one.overall.pairs:
        assert one.overall.accuracy.value == pytest.approx(1 - other.overall.accuracy.value)
        assert one.overall.longer_wins.value == pytest.approx(
            1 - one.overall.shorter_wins.value, abs=1e-12
        )
    assert msgspec.json.decode(msgspec.json.encode(one), type=RewardReport) == one
    assert f"on {one.overall.pairs} pairs" in one.text()


@given(rows_of_pairs)
@settings(max_examples=25, deadline=None)
def test_swapping_chosen_and_rejected_turns_accuracy_and_leaves_length_bias(rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("factory.stats.bootstrap._RESAMPLES", 5)
        invariants(rows)


def test_the_table_shows_each_figure_with_its_interval():
    rows = [pair(1, 0, prompt=str(k), subset="chat") for k in range(40)]
    text = reward_report([*rows, pair(None, 0)]).text()
    assert "on 40 pairs of 40 prompts (0 ties; 1 more unscored)" in text
    assert any(
        line.split()[:5] == ["chat", "40", "1.00", "(0.90", "to"] for line in text.splitlines()
    )
    assert "prompts: only" not in text
    assert "prompts: only 1," in reward_report(rows[:1]).text()
