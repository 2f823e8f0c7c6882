"""Several scores -> one: standardized over the run by hand, and what is missing stays missing."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.core.errors import RecipeError
from factory.core.records import Candidate, Combination, Sample, Score
from factory.export.view import Drop
from factory.scorers.combine import Moments, combine, measure, with_combined
from factory.scorers.comparison import scores_of

HELPFUL, HARMLESS = "reward/helpful", "reward/harmless"


def sample(*scores: tuple[float | None, float | None], id_: str = "s0") -> Sample:
    """One candidate for each (helpful, harmless)."""
    made = Sample(id_, 0, [{"role": "user", "content": "Hello?"}])
    for i, values in enumerate(scores):
        made.candidates.append(Candidate(i, "abc"[i], "generate", "m", "c"))
        for name, value in zip((HELPFUL, HARMLESS), values, strict=True):
            made.scores.append(Score(name, i, value, calls=[f"{name}{i}"]))
    return made


def of_two(**more: Any) -> Combination:
    return Combination("reward", {HELPFUL: 0.5, HARMLESS: 0.5}, **more)


def values(combination: Combination, *samples: Sample) -> list[float | None]:
    measured = measure([combination], samples)
    return [
        score.value
        for each in samples
        for score in with_combined(each, measured).scores
        if score.name == combination.name
    ]


def three() -> list[Sample]:
    """helpful 1, 2, 3: mean 2, variance 2/3, z -1.224745, 0, 1.224745.
    harmless 6, 0, 0: mean 2, variance 24/3 = 8, z 1.414214, -0.707107, -0.707107."""
    return [sample((1.0, 6.0), (2.0, 0.0)), sample((3.0, 0.0), id_="s1")]


def test_moments_are_those_of_the_run() -> None:
    (measured,) = measure([of_two()], three())
    helpful, harmless = measured.moments[HELPFUL], measured.moments[HARMLESS]
    assert (helpful.count, helpful.mean) == (3, 2.0)
    assert helpful.std == pytest.approx((2 / 3) ** 0.5)
    assert harmless.count == 3
    assert harmless.mean == pytest.approx(2.0)
    assert harmless.std == pytest.approx(8**0.5)


def test_equal_weights() -> None:
    # (-1.224745 + 1.414214) / 2, (0 - 0.707107) / 2, (1.224745 - 0.707107) / 2
    assert values(of_two(), *three()) == pytest.approx([0.094734, -0.353553, 0.258819], abs=1e-6)


def test_own_weights_are_taken_as_they_are() -> None:
    # 2 x -1.224745 + 1.414214, 0 - 0.707107, 2 x 1.224745 - 0.707107
    made = Combination("reward", {HELPFUL: 2.0, HARMLESS: 1.0})
    assert values(made, *three()) == pytest.approx([-1.035276, -0.707107, 1.742383], abs=1e-6)


def test_minimum_is_the_worst_criterion() -> None:
    made = values(of_two(how="minimum"), *three())
    assert made == pytest.approx([-1.224745, -0.707107, -0.707107], abs=1e-6)


def test_mean_minus_variance() -> None:
    # Of two values the variance is (half their difference)^2: 1.319479^2, 0.353553^2, 0.965926^2
    # = 1.741025, 0.125, 0.933013; the means are those of equal weights; penalty 0.5.
    made = values(of_two(how="mean_minus_variance", penalty=0.5), *three())
    assert made == pytest.approx([-0.775778, -0.416053, -0.207688], abs=2e-6)


def test_raw_values_are_combined_where_that_is_said() -> None:
    assert values(of_two(standardize=False), *three()) == [3.5, 1.0, 1.5]
    assert values(of_two(standardize=False, how="minimum"), *three()) == [1.0, 0.0, 0.0]
    # means 3.5, 1, 1.5; variances 2.5^2, 1, 1.5^2
    made = values(of_two(standardize=False, how="mean_minus_variance"), *three())
    assert made == [3.5 - 6.25, 0.0, 1.5 - 2.25]


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_a_missing_part_is_none_and_no_zero(missing: float | None) -> None:
    samples = [sample((1.0, 0.0), (3.0, missing)), sample((None, 2.0), id_="s1")]
    # helpful 1, 3: z -1, 1; harmless 0, 2: z -1, 1. What is known counts in the moments.
    assert values(of_two(), *samples) == [-1.0, None, None]


def test_a_candidate_that_no_part_scored_has_no_score() -> None:
    late = sample((1.0, 0.0))
    late.candidates.append(Candidate(1, "revised later", "revise", "m", "c", parent=0, round=1))
    made = with_combined(late, measure([of_two()], [late])).scores
    assert [s.candidate for s in made if s.name == "reward"] == [0]


def test_a_part_that_never_varies_counts_as_zero() -> None:
    samples = [sample((5.0, 0.0), (5.0, 4.0)), sample((5.0, 2.0), id_="s1")]
    # harmless 0, 4, 2: mean 2, variance 8/3, z -1.224745, 1.224745, 0
    assert values(of_two(), *samples) == pytest.approx([-0.612372, 0.612372, 0.0], abs=1e-6)
    (measured,) = measure([of_two()], samples)
    assert measured.moments[HELPFUL] == Moments(3, 5.0, 0.0)


def test_a_part_that_nothing_has_leaves_no_value() -> None:
    samples = [sample((1.0, None), (2.0, None))]
    assert values(of_two(), *samples) == [None, None]
    (measured,) = measure([of_two()], samples)
    assert measured.moments[HARMLESS] == Moments(0, None, None)


def test_dropped_candidates_count_nowhere() -> None:
    samples = three()
    samples[0].candidates.append(Candidate(2, "c", "generate", "m", "c", drop_reason="short"))
    samples[0].scores += [Score(HELPFUL, 2, 99.0), Score(HARMLESS, 2, 99.0)]
    assert values(of_two(), *samples) == values(of_two(), *three())


def test_a_repeated_part_is_averaged_and_every_call_is_named() -> None:
    samples = three()
    samples[0].scores.append(Score(HELPFUL, 0, 3.0, calls=["again"]))  # (1 + 3) / 2 = 2
    made = with_combined(samples[0], measure([of_two(standardize=False)], samples)).scores[-2]
    assert (made.name, made.candidate, made.value) == ("reward", 0, 4.0)
    assert made.calls == [f"{HELPFUL}0", f"{HARMLESS}0", "again"]


def test_the_detail_tells_the_parts() -> None:
    samples = [sample((1.0, 0.0), (3.0, None))]
    first, second = with_combined(samples[0], measure([of_two()], samples)).scores[-2:]
    assert first.detail == "reward/helpful 1 (z -1.0000); reward/harmless 0 (z +0.0000)"
    assert second.detail == "reward/helpful 3 (z +1.0000); reward/harmless unknown"
    raw = with_combined(samples[0], measure([of_two(standardize=False)], samples)).scores[-2]
    assert raw.detail == "reward/helpful 1; reward/harmless 0"


def test_the_sample_itself_stays_as_it_was() -> None:
    samples = three()
    measured = measure([of_two()], samples)
    assert with_combined(samples[0], measured) == with_combined(samples[0], measured)
    assert samples == three()
    assert with_combined(samples[0], []) is samples[0]


def test_parts_do_not_count_beside_what_they_were_combined_into() -> None:
    samples = three()
    assert scores_of(samples[0], None) == Drop("several-scores")
    combined = with_combined(samples[0], measure([of_two(standardize=False)], samples))
    assert scores_of(combined, None) == {0: 3.5, 1: 1.0}
    assert scores_of(combined, HELPFUL) == {0: 1.0, 1: 2.0}
    combined.scores.append(Score("judge", 0, 4.0))
    assert scores_of(combined, None) == Drop("several-scores")


def test_one_name_for_two_scores_is_refused() -> None:
    with pytest.raises(RecipeError, match="two stages make a score named 'reward'"):
        measure([of_two(), of_two(how="minimum")], three())
    samples = three()
    samples[0].scores.append(Score("reward", 0, 1.0))
    with pytest.raises(RecipeError, match="two stages make a score named 'reward'"):
        measure([of_two()], samples)


def test_nothing_is_read_where_nothing_is_combined() -> None:
    assert measure([], iter([sample((1.0, 1.0))])) == []


# The square of 1e-161 is no float: scores are nowhere near, and a spread of that size is not tried.
_SCORES = st.floats(-1e6, 1e6).map(lambda value: round(value, 9))


@given(st.lists(_SCORES, min_size=1, max_size=30))
def test_standardized_values_have_mean_0_and_variance_1(raw: list[float]) -> None:
    samples = [sample((value, 0.0), id_=str(i)) for i, value in enumerate(raw)]
    (measured,) = measure([of_two()], samples)
    moments = measured.moments[HELPFUL]
    assert moments.std is not None
    z = [moments.standardize(value) for value in raw]
    if moments.std <= 1e-6 * max(map(abs, raw), default=0.0):
        return  # apart by no more than float noise
    assert sum(z) / len(z) == pytest.approx(0.0, abs=1e-6)
    assert sum(x * x for x in z) / len(z) == pytest.approx(1.0, abs=1e-6)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=5), st.floats(0, 10))
def test_careful_ways_never_score_above_the_mean(zs: list[float], penalty: float) -> None:
    parts = {str(i): 1 / len(zs) for i in range(len(zs))}
    mean = combine(zs, Combination("m", parts))
    for how in ("minimum", "mean_minus_variance"):
        careful = combine(zs, Combination("m", parts, how=how, penalty=penalty))
        assert careful <= mean + 1e-9
