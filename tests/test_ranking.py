from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.intervals import coverage
from factory.stats.bradley_terry import bradley_terry, relative_length
from factory.stats.elo import elo
from factory.stats.outcome import Outcome

LOG3 = math.log(3)  # the difference at which a preference is 0.75

soft = st.floats(0, 1).map(lambda p: round(p, 6))


@st.composite
def games(draw: st.DrawFn) -> tuple[int, list[Outcome]]:
    """Two to six players and some comparisons, not necessarily of all."""
    players = draw(st.integers(2, 6))
    pairs = st.permutations(range(players)).map(lambda order: (order[0], order[1]))
    outcomes = st.tuples(pairs, soft).map(lambda made: Outcome(*made[0], made[1]))
    return players, draw(st.lists(outcomes, max_size=12))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# Bradley-Terry ---------------------------------------------------------------------------------


def test_a_preference_of_three_quarters_is_a_difference_of_log_3() -> None:
    found = bradley_terry(2, [Outcome(0, 1, 0.75)], regularisation=1e-5).values
    assert found[0] - found[1] == pytest.approx(LOG3, abs=1e-4)


def test_regularisation_pulls_as_the_stationarity_equation_says() -> None:
    # At the maximum p - s(d) = lambda * d / 2. With p = 1 and s(log 3) = 3/4: lambda = 0.5 / log 3.
    found = bradley_terry(2, [Outcome(0, 1, 1.0)], regularisation=0.5 / LOG3).values
    assert found == pytest.approx([LOG3 / 2, -LOG3 / 2])


def test_ten_comparisons_alike_are_one_with_a_tenth_of_the_regularisation() -> None:
    ten = bradley_terry(3, [Outcome(0, 1, 0.9), Outcome(1, 2, 0.7)] * 10, regularisation=1.0)
    one = bradley_terry(3, [Outcome(0, 1, 0.9), Outcome(1, 2, 0.7)], regularisation=0.1)
    assert ten.values == pytest.approx(one.values)


def test_three_players_in_a_cycle_are_equal() -> None:
    cycle = [Outcome(0, 1, 0.8), Outcome(1, 2, 0.8), Outcome(2, 0, 0.8)]
    assert bradley_terry(3, cycle).values == pytest.approx([0, 0, 0])


def test_all_ties_are_all_zero() -> None:
    found = bradley_terry(4, [Outcome(a, b, 0.5) for a, b in combinations(range(4), 2)])
    assert found.values == [0.0, 0.0, 0.0, 0.0]


def test_groups_never_compared_are_ranked_each_by_itself() -> None:
    alone = bradley_terry(2, [Outcome(0, 1, 0.9)]).values
    both = bradley_terry(5, [Outcome(0, 1, 0.9), Outcome(3, 2, 0.9)]).values
    assert both == pytest.approx([*alone, *alone[::-1], 0])


def test_whoever_won_everything_has_a_finite_strength() -> None:
    found = bradley_terry(3, [Outcome(0, 1, 1.0), Outcome(0, 2, 1.0)], regularisation=1e-5).values
    assert found[0] > found[1] == pytest.approx(found[2])
    # Each loser: s(d) wins expected but none made, 1 - s(d) = lambda * -th = lambda * d / 3.
    d = found[0] - found[1]
    assert 1 - sigmoid(d) == pytest.approx(1e-5 * d / 3, rel=1e-3)


def test_nobody_and_nothing_to_compare() -> None:
    assert bradley_terry(0, [], resamples=10).values == []
    assert bradley_terry(2, [], lengths=[3, 4]).values == [0.0, 0.0]


def climbed(players: int, outcomes: list[Outcome], regularisation: float) -> list[float]:
    """Strengths by plain gradient ascent."""
    found = [0.0] * players
    for _ in range(3000):
        gradient = [-regularisation * value for value in found]
        for i, j, p in outcomes:
            surprise = p - sigmoid(found[i] - found[j])
            gradient[i] += surprise
            gradient[j] -= surprise
        found = [value + 0.15 * slope for value, slope in zip(found, gradient, strict=True)]
    return found


@settings(max_examples=20, deadline=None)
@given(games())
def test_newton_arrives_where_gradient_ascent_does(game: tuple[int, list[Outcome]]) -> None:
    assert bradley_terry(*game, regularisation=0.2).values == pytest.approx(
        climbed(*game, 0.2), abs=1e-5
    )


@settings(deadline=None)
@given(games(), st.sampled_from([1e-5, 0.1, 10.0]))
def test_strengths_sum_to_zero(game: tuple[int, list[Outcome]], regularisation: float) -> None:
    found = bradley_terry(*game, regularisation=regularisation).values
    assert all(map(math.isfinite, found))
    assert sum(found) == pytest.approx(0, abs=1e-7)


@settings(deadline=None)
@given(games())
def test_naming_a_pair_the_other_way_round_changes_nothing(
    game: tuple[int, list[Outcome]],
) -> None:
    players, outcomes = game
    renamed = [Outcome(b, a, 1 - p) for a, b, p in outcomes]
    assert bradley_terry(players, renamed).values == pytest.approx(
        bradley_terry(players, outcomes).values, abs=1e-7
    )


@settings(deadline=None)
@given(games())
def test_the_opposite_outcomes_give_the_opposite_strengths(
    game: tuple[int, list[Outcome]],
) -> None:
    players, outcomes = game
    opposite = [Outcome(a, b, 1 - p) for a, b, p in outcomes]
    assert bradley_terry(players, opposite).values == pytest.approx(
        [-value for value in bradley_terry(players, outcomes).values], abs=1e-7
    )


@settings(deadline=None)
@given(games(), st.randoms(use_true_random=False))
def test_strengths_follow_their_players_when_these_are_renumbered(
    game: tuple[int, list[Outcome]], random: object
) -> None:
    players, outcomes = game
    numbers = [*range(players)]
    random.shuffle(numbers)  # type: ignore[attr-defined]
    found = bradley_terry(players, outcomes).values
    renumbered = bradley_terry(
        players, [Outcome(numbers[a], numbers[b], p) for a, b, p in outcomes]
    )
    assert [renumbered.values[numbers[i]] for i in range(players)] == pytest.approx(found, abs=1e-7)


# Length control --------------------------------------------------------------------------------


def test_relative_length_is_antisymmetric_and_zero_for_nothing() -> None:
    assert relative_length(30, 10) == 0.5
    assert relative_length(10, 30) == -0.5
    assert relative_length(5, 0) == 1.0
    assert relative_length(0, 0) == 0.0


def test_a_win_that_length_explains_is_no_strength() -> None:
    # The covariate is (30 - 10) / 40 = 0.5, so gamma = 2 log 3 alone makes P = 0.75.
    found = bradley_terry(2, [Outcome(0, 1, 0.75)], lengths=[30, 10], gamma=2 * LOG3)
    assert found.values == pytest.approx([0, 0], abs=1e-9)
    assert found.length_effect == 2 * LOG3


def test_an_even_match_against_a_longer_answer_is_strength() -> None:
    found = bradley_terry(
        2, [Outcome(0, 1, 0.5)], lengths=[10, 30], gamma=2 * LOG3, regularisation=1e-5
    )
    assert found.values[0] - found.values[1] == pytest.approx(LOG3, abs=1e-4)


def test_a_fitted_length_effect_shares_the_evidence_with_the_strengths() -> None:
    # x = 0.5. At the maximum, r = p - s(d): th = +-r / lambda and gamma = x r / lambda, so
    # d = r (2 + x^2) / lambda. With p = 1, s = 3/4: lambda = 0.25 * 2.25 / log 3.
    found = bradley_terry(
        2, [Outcome(0, 1, 1.0)], lengths=[30, 10], regularisation=0.25 * 2.25 / LOG3
    )
    assert found.values == pytest.approx([LOG3 / 2.25, -LOG3 / 2.25])
    assert found.length_effect == pytest.approx(0.5 * LOG3 / 2.25)


def test_without_length_control_there_is_no_length_effect() -> None:
    assert bradley_terry(2, [Outcome(0, 1, 1.0)]).length_effect is None


def test_where_length_alone_decides_a_fitted_effect_takes_only_a_part_of_it() -> None:
    lengths = [10, 20, 40, 80]
    outcomes = [
        Outcome(a, b, sigmoid(3 * relative_length(lengths[a], lengths[b])))
        for a, b in combinations(range(4), 2)
    ]
    plain = bradley_terry(4, outcomes).values
    fitted = bradley_terry(4, outcomes, lengths=lengths)
    assert bradley_terry(4, outcomes, lengths=lengths, gamma=3.0).values == pytest.approx([0] * 4)
    assert fitted.length_effect is not None
    assert 0 < fitted.length_effect < 3
    assert 0 < fitted.values[3] < plain[3]


# Intervals -------------------------------------------------------------------------------------


def test_the_interval_ends_where_the_likelihood_has_dropped_by_half_of_3_84() -> None:
    # Two players, th = +-t: log L = log s(2t) + log s(-2t) - lambda t^2, at its highest log 1/4.
    found = bradley_terry(2, [Outcome(0, 1, 1.0), Outcome(0, 1, 0.0)], resamples=1)
    assert found.high is not None
    t = found.high[0]
    drop = math.log(1 / 4) - math.log(sigmoid(2 * t)) - math.log(sigmoid(-2 * t)) + 0.1 * t**2
    assert drop == pytest.approx(3.841459 / 2)
    assert found.low == pytest.approx([-t, -t])


def test_more_comparisons_narrow_the_interval() -> None:
    def width(times: int) -> float:
        pairs = [Outcome(a, b, 0.7) for a, b in combinations(range(4), 2)] * times
        found = bradley_terry(4, pairs, resamples=1)
        assert found.low is not None
        assert found.high is not None
        return found.high[0] - found.low[0]

    assert width(1) > 1.4 * width(3) > 0
    assert width(100) == pytest.approx(10 * width(10_000), rel=0.05)


@pytest.mark.parametrize(("players", "spread"), [(2, 1.0), (4, 1.0), (4, 2.5)])
def test_intervals_hold_the_true_strengths(players: int, spread: float) -> None:
    held, _ = coverage(players, spread, 2 if players == 2 else 1, is_soft=False, trials=100)
    assert held >= 0.93  # a standard error is 1 to 2%


def test_intervals_are_of_strengths_from_their_mean_with_a_length_effect_too() -> None:
    outcomes = [Outcome(a, b, 0.8) for a, b in combinations(range(4), 2)]
    for gamma in (None, 0.5):
        found = bradley_terry(4, outcomes, lengths=[9, 5, 7, 2], gamma=gamma, resamples=1)
        assert found.low is not None
        assert found.high is not None
        for low, value, high in zip(found.low, found.values, found.high, strict=True):
            assert low < value < high


def test_replays_that_are_all_alike_make_a_point_of_elos_range() -> None:
    found = elo(2, [Outcome(0, 1, 0.9)] * 3, resamples=20)
    assert found.low == pytest.approx(found.values)
    assert found.high == pytest.approx(found.values)


@pytest.mark.parametrize("method", [bradley_terry, elo])
def test_one_comparison_has_no_interval(method: type) -> None:
    found = method(2, [Outcome(0, 1, 0.9)], resamples=20)
    assert (found.low, found.high) == (None, None)


def test_elos_range_is_a_function_of_its_seed() -> None:
    outcomes = [Outcome(a, b, (a + 2 * b) % 5 / 4) for a, b in combinations(range(5), 2)]
    first, again, other = (elo(5, outcomes, resamples=50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.low != other.low
    assert first.values == other.values


# Elo -------------------------------------------------------------------------------------------


def test_equal_players_exchange_half_the_k_factor() -> None:
    assert elo(3, [Outcome(0, 1, 1.0)]).values == [1516.0, 1484.0, 1500.0]
    assert elo(2, [Outcome(0, 1, 0.75)]).values == [1508.0, 1492.0]
    assert elo(2, [Outcome(0, 1, 0.5)]).values == [1500.0, 1500.0]


def test_who_was_expected_to_win_gains_less() -> None:
    # The second time the first is ahead by 32: expected 1 / (1 + 10^(-32/400)) = 0.545922.
    found = elo(2, [Outcome(0, 1, 1.0), Outcome(0, 1, 1.0)]).values
    assert found == pytest.approx([1530.530498, 1469.469502], abs=1e-6)


def test_ratings_depend_on_the_order() -> None:
    # 1 beats 2 as an equal (+16), or after losing to 0, as the weaker by 16:
    # expected 1 / (1 + 10^(16/400)) = 0.476990, so +16.736307.
    early = elo(3, [Outcome(1, 2, 1.0), Outcome(0, 1, 1.0)]).values
    late = elo(3, [Outcome(0, 1, 1.0), Outcome(1, 2, 1.0)]).values
    assert early == pytest.approx([1516.736307, 1499.263693, 1484.0], abs=1e-6)
    assert late == pytest.approx([1516.0, 1500.736307, 1483.263693], abs=1e-6)


@given(games())
def test_points_are_only_exchanged(game: tuple[int, list[Outcome]]) -> None:
    assert sum(elo(*game).values) == pytest.approx(1500 * game[0])


# Bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [bradley_terry, elo])
@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (Outcome(0, 1, 1.5), "p 1.5 of 0 against 1 is not in"),
        (Outcome(0, 1, math.nan), "p nan of 0 against 1"),
        (Outcome(1, 1, 0.5), "1 against 1: not two of 2 players"),
        (Outcome(0, 2, 0.5), "0 against 2: not two of 2 players"),
        (Outcome(-1, 0, 0.5), "-1 against 0"),
    ],
)
def test_what_is_no_comparison_is_refused(method: type, outcome: Outcome, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(2, [outcome])


@pytest.mark.parametrize("regularisation", [0.0, -1.0, math.nan, math.inf])
def test_a_regularisation_that_does_not_regularise_is_refused(regularisation: float) -> None:
    with pytest.raises(ValueError, match=f"regularisation {regularisation}"):
        bradley_terry(2, [Outcome(0, 1, 1.0)], regularisation=regularisation)
