from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.scorers.tournament import Pair, next_round, swiss_rounds

Credit = Callable[[int, int], float]


def play(
    players: int, rounds: int, credit: Credit, seed: int = 0
) -> tuple[list[list[Pair]], dict[int, float]]:
    """A tournament in which `credit(a, b)` is what a gets of b. Byes are half a point."""
    points = dict.fromkeys(range(players), 0.0)
    played: list[list[Pair]] = []
    for number in range(rounds):
        pairs = next_round(points, played, seed + number)
        gained = dict.fromkeys(points, 0.5)
        for a, b in pairs:
            gained[a] = credit(a, b)
            gained[b] = 1 - gained[a]
        points = {i: points[i] + gained[i] for i in points}
        played.append(pairs)
    return played, points


def byes(players: int, played: list[list[Pair]]) -> Counter[int]:
    return Counter(i for pairs in played for i in {*range(players)} - {j for p in pairs for j in p})


def meetings(played: list[list[Pair]]) -> Counter[Pair]:
    return Counter(pair for pairs in played for pair in pairs)


outcomes = st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), min_size=81, max_size=81)


@settings(max_examples=300, deadline=None)
@given(st.integers(2, 9), outcomes, st.integers(0, 2**31 - 1))
def test_all_play_somebody_new_every_round_but_for_a_bye_each(
    players: int, table: list[float], seed: int
) -> None:
    rounds = (players + 1) // 2
    played, _ = play(players, rounds, lambda a, b: table[9 * a + b], seed)
    for pairs in played:
        assert len({i for pair in pairs for i in pair}) == 2 * len(pairs) == players - players % 2
        assert all(0 <= a < b < players for a, b in pairs)
    assert set(meetings(played).values()) == {1}
    assert max(byes(players, played).values(), default=0) <= 1


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9), outcomes, st.integers(0, 2**31 - 1))
def test_however_many_rounds_nobody_meets_anybody_twice(
    players: int, table: list[float], seed: int
) -> None:
    played, _ = play(players, 12, lambda a, b: table[9 * a + b], seed)
    assert all(times == 1 for times in meetings(played).values())
    for pairs in played:
        assert len({i for pair in pairs for i in pair}) == 2 * len(pairs)
    assert played[-1] == []  # all that could meet have met


@settings(deadline=None)
@given(st.permutations(range(7)), st.integers(0, 2**31 - 1))
def test_the_order_in_which_players_are_named_does_not_matter(order: list[int], seed: int) -> None:
    points = dict(enumerate([2.0, 1.5, 1.5, 1.0, 1.0, 0.5, 0.5]))
    played = [[(0, 5), (1, 6), (2, 3)], [(0, 1), (2, 4), (3, 5)]]
    shuffled = {i: points[i] for i in order}
    assert next_round(shuffled, played, seed) == next_round(points, played, seed)


def test_the_first_round_is_drawn_by_the_seed() -> None:
    points = dict.fromkeys(range(6), 0.0)
    first = next_round(points, [], 1)
    assert first == next_round(points, [], 1)
    assert len({tuple(next_round(points, [], seed)) for seed in range(20)}) > 5


def test_nearest_in_points_meet_the_top_first() -> None:
    points = {0: 0.2, 1: 0.9, 2: 0.4, 3: 0.8, 4: 0.6, 5: 0.1}
    assert next_round(points, [], 0) == [(1, 3), (2, 4), (0, 5)]


def test_who_has_met_meets_the_next_in_points() -> None:
    points = {0: 4.0, 1: 3.0, 2: 2.0, 3: 1.0}
    assert next_round(points, [[(0, 1), (2, 3)]], 0) == [(0, 2), (1, 3)]


def test_the_bye_goes_to_the_lowest_who_had_none() -> None:
    points = {0: 2.0, 1: 1.0, 2: 0.5, 3: 0.25, 4: 0.0}
    assert next_round(points, [], 0) == [(0, 1), (2, 3)]
    assert next_round(points, [[(0, 3), (1, 2)]], 0) == [(0, 1), (2, 4)]


def test_byes_go_round() -> None:
    played, _ = play(5, 3, lambda a, b: 1.0)
    assert len(byes(5, played)) == 3


def test_pairs_are_broken_up_where_the_last_two_have_met() -> None:
    # From the top: 0 with 1, and then 2 and 3 are left, who have met.
    points = {0: 3.0, 1: 2.0, 2: 1.0, 3: 0.0}
    assert next_round(points, [[(2, 3)]], 0) == [(0, 2), (1, 3)]


def test_who_has_met_all_that_are_free_sits_out() -> None:
    # Two threesomes who have yet to meet among themselves: one of each is left.
    across = [[(a, 3 + (a + shift) % 3) for a in range(3)] for shift in range(3)]
    points = dict.fromkeys(range(6), 1.0)
    ((a, b), (c, d)) = next_round(points, across, 0)
    assert {a // 3, c // 3} == {0, 1}
    assert (a // 3, c // 3) == (b // 3, d // 3)


def test_equal_points_but_for_float_noise_are_equal() -> None:
    exact = {0: 0.3, 1: 0.3, 2: 0.3, 3: 0.3}
    noisy = {0: 0.1 + 0.2, 1: 0.3, 2: 0.3, 3: 0.1 + 0.2}
    assert all(next_round(noisy, [], s) == next_round(exact, [], s) for s in range(20))


@pytest.mark.parametrize(
    ("players", "rounds"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4)]
)
def test_rounds_are_log2_of_the_players_rounded_up(players: int, rounds: int) -> None:
    assert swiss_rounds(players) == rounds


@given(st.integers(0, 2**31 - 1))
def test_the_best_of_eight_alone_wins_all_three_rounds(seed: int) -> None:
    _, points = play(8, 3, lambda a, b: float(a < b), seed)
    assert [i for i in points if points[i] == 3] == [0]


def test_there_may_be_nobody_to_pair() -> None:
    assert next_round({}, [], 0) == []
    assert next_round({3: 0.0}, [], 0) == []
