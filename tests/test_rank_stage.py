from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from factory.core.errors import SampleError
from factory.core.records import Candidate, Sample, Score, Verdict
from factory.export.pairs import Pair, PairRules
from factory.scorers.rank import Rank
from factory.stats.bradley_terry import bradley_terry
from factory.stats.outcome import Outcome
from tests.fakes import ScriptedModels

LOG3 = math.log(3)


def sample_of(*verdicts: Verdict, texts: tuple[str, ...] = ("a", "b", "c")) -> Sample:
    candidates = [Candidate(i, text, "generate", "m", "c") for i, text in enumerate(texts)]
    return Sample("s", 0, [], candidates=candidates, verdicts=[*verdicts])


def says(a: int, b: int, p: float | None, judge: str = "judge") -> Verdict:
    """A verdict: P(a is better than b)."""
    return Verdict(judge, a, b, p, 0.0, True, 1.0, [], [])


def ranked(sample: Sample, **options: Any) -> list[Score]:
    models = ScriptedModels([])
    scores = asyncio.run(Rank(**options)(sample, models)).scores
    assert models.questions == []
    return scores


def test_candidates_are_scored_by_strength() -> None:
    # p - s(d) = lambda * d / 2 with p = 1 and d = log 3.
    scores = ranked(
        sample_of(says(1, 0, 1.0), texts=("a", "b")), regularisation=0.5 / LOG3, resamples=0
    )
    assert scores == [
        Score("rank", 0, -0.549306, "rank 2 of 2, 1 verdict"),
        Score("rank", 1, 0.549306, "rank 1 of 2, 1 verdict"),
    ]


def test_each_verdict_counts_and_the_better_rank_higher() -> None:
    scores = ranked(sample_of(says(0, 1, 0.9), says(2, 1, 0.6), says(0, 2, 0.8)))
    assert [s.detail for s in scores] == [
        "rank 1 of 3, 2 verdicts",
        "rank 3 of 3, 2 verdicts",
        "rank 2 of 3, 2 verdicts",
    ]
    assert sum(s.value or 0 for s in scores) == pytest.approx(0, abs=2e-6)


def test_equals_share_a_rank_and_are_zero_without_a_sign() -> None:
    scores = ranked(sample_of(says(0, 1, 0.5 - 1e-8), says(1, 2, 0.5)))
    assert [(s.value, s.detail.split(",")[0]) for s in scores] == [(0.0, "rank 1 of 3")] * 3
    assert [str(s.value) for s in scores] == ["0.0"] * 3


def test_unparsed_and_non_finite_verdicts_are_left_out() -> None:
    scores = ranked(sample_of(says(0, 1, 0.9), says(0, 2, None), says(1, 2, math.nan)))
    assert [s.detail for s in scores][:2] == ["rank 1 of 2, 1 verdict", "rank 2 of 2, 1 verdict"]
    assert scores[2] == Score("rank", 2, None, "not compared")


def test_verdicts_on_dropped_candidates_are_left_out() -> None:
    sample = sample_of(says(0, 1, 0.9), says(1, 2, 0.9), says(0, 2, 0.9))
    sample.candidates[1].drop_reason = "refusal"
    alone = ranked(sample_of(says(0, 2, 0.9)))
    assert ranked(sample) == [alone[0], alone[2]]


def test_without_a_verdict_nobody_is_compared() -> None:
    assert ranked(sample_of(texts=("a", "b"))) == [
        Score("rank", 0, None, "not compared"),
        Score("rank", 1, None, "not compared"),
    ]
    assert ranked(sample_of(texts=())) == []


def test_one_judge_or_all() -> None:
    verdicts = says(0, 1, 0.9, "kind"), says(0, 1, 0.1, "strict")
    both = ranked(sample_of(*verdicts, texts=("a", "b")))
    kind = ranked(sample_of(*verdicts, texts=("a", "b")), judge="kind", name="kindness")
    assert [s.value for s in both] == [0.0, 0.0]
    assert [s.detail for s in kind] == ["rank 1 of 2, 1 verdict", "rank 2 of 2, 1 verdict"]
    assert [s.name for s in kind] == ["kindness", "kindness"]


def test_intervals_are_the_samples_own_and_the_same_again() -> None:
    verdicts = says(0, 1, 0.9), says(1, 2, 0.3), says(0, 2, 0.6)
    first, again = ranked(sample_of(*verdicts)), ranked(sample_of(*verdicts))
    assert first == again
    for score in first:
        assert score.low is not None
        assert score.high is not None
        assert score.low <= score.high
        assert (round(score.low, 6), round(score.high, 6)) == (score.low, score.high)


def test_no_interval_of_one_verdict_or_without_resamples() -> None:
    one = ranked(sample_of(says(0, 1, 0.9), texts=("a", "b")))
    none = ranked(sample_of(says(0, 1, 0.9), says(1, 2, 0.9)), resamples=0)
    assert {(s.low, s.high) for s in one + none} == {(None, None)}


def test_elo_follows_the_order_of_the_verdicts() -> None:
    verdicts = says(0, 1, 1.0), says(1, 2, 1.0)
    forth = ranked(sample_of(*verdicts), method="elo")
    back = ranked(sample_of(*verdicts[::-1]), method="elo")
    assert [s.value for s in forth] == [1516.0, 1500.736307, 1483.263693]
    assert [s.value for s in back] == [1516.736307, 1499.263693, 1484.0]


def test_length_control_counts_the_words_of_the_answers() -> None:
    # (3 - 1) / (3 + 1) = 0.5: gamma = 2 log 3 explains P = 0.75.
    sample = sample_of(says(0, 1, 0.75), texts=("one two three", "longwordthatisone"))
    assert [s.value for s in ranked(sample, length_control=True, gamma=2 * LOG3)] == [0.0, 0.0]


def test_a_length_effect_is_fitted_where_none_is_given() -> None:
    sample = sample_of(says(1, 2, 0.9), texts=("x", "one two three", "one"))
    fitted = bradley_terry(2, [Outcome(0, 1, 0.9)], lengths=[3, 1]).values
    assert [s.value for s in ranked(sample, length_control=True)[1:]] == pytest.approx(
        fitted, abs=1e-6
    )


def test_views_rank_by_the_strengths() -> None:
    # By mean P answer 2 is the best, 0.9 against the others' 0.75 and 0.6, but it met the worst alone.
    verdicts = says(0, 1, 0.6), says(0, 3, 0.9), says(1, 3, 0.8), says(2, 3, 0.9)
    sample = sample_of(*verdicts, texts=("a", "b", "c", "d"))
    ranked(sample)
    (by_mean,) = PairRules(pairs="best_vs_worst").choose(sample)
    (by_strength,) = PairRules(pairs="best_vs_worst", score="rank").choose(sample)
    assert isinstance(by_mean, Pair)
    assert isinstance(by_strength, Pair)
    assert (by_mean.chosen.index, by_mean.rejected.index) == (2, 3)
    assert (by_strength.chosen.index, by_strength.rejected.index) == (0, 3)
    assert by_strength.margin is not None
    assert by_strength.margin > 0


@pytest.mark.parametrize(("b", "p"), [(1, 1.2), (1, -0.1), (0, 0.5)])
def test_a_verdict_that_cannot_be_is_the_samples_failure(b: int, p: float) -> None:
    with pytest.raises(SampleError, match=f"candidates 0 and {b} has p {p}"):
        ranked(sample_of(says(0, b, p)))


def test_it_needs_any_verdicts_and_makes_a_score() -> None:
    stage = Rank(name="strength")
    assert stage.facts_needed() == {"candidates", "verdicts:*"}
    assert stage.facts_made() == {"score:strength", "ranking"}
    assert stage.models_used() == {}


def test_options_that_do_nothing_are_refused() -> None:
    assert Rank().problem() is None
    assert Rank(length_control=True, gamma=1.0).problem() is None
    assert (Rank(gamma=1.0).problem() or ("",))[0] == "gamma"
    assert (Rank(method="elo", length_control=True).problem() or ("",))[0] == "length_control"
