from __future__ import annotations

import asyncio
from typing import Any

import pytest

from factory.core.errors import SampleError
from factory.core.records import Candidate, Sample, Score
from factory.scorers.verify import Verify
from tests.fakes import ScriptedModels


def sample_of(*texts: str, reference: str | None = "work\n#### 18") -> Sample:
    candidates = [Candidate(i, text, "generate", "m", "c") for i, text in enumerate(texts)]
    prompt = [{"role": "user", "content": "How many?"}]
    return Sample("s", 0, prompt, reference=reference, candidates=candidates)


def verified(sample: Sample, **options: Any) -> list[Score]:
    models = ScriptedModels()
    scores = asyncio.run(Verify(**options)(sample, models)).scores
    assert models.questions == []
    return scores


def test_right_wrong_and_unparsed_are_three_things() -> None:
    assert verified(sample_of("#### 18", "#### 41", "no idea"), how="gsm8k") == [
        Score("verify", 0, 1.0, "correct: 18"),
        Score("verify", 1, 0.0, "wrong: 41"),
        Score("verify", 2, None, "unparsed"),
    ]


def test_formulas_are_compared_by_default() -> None:
    sample = sample_of("it is \\boxed{\\frac{36}{2}}", "it is 17", reference="18")
    assert [score.value for score in verified(sample)] == [1.0, 0.0]


def test_a_pattern_finds_the_answer() -> None:
    sample = sample_of("answer is B", "answer is C", reference="b")
    scores = verified(sample, how="pattern", pattern=r"answer is (\w)", name="letter")
    assert scores == [Score("letter", 0, 1.0, "correct: B"), Score("letter", 1, 0.0, "wrong: C")]


def test_dropped_candidates_are_not_checked() -> None:
    sample = sample_of("#### 18", "#### 18")
    sample.candidates[0].drop_reason = "refusal"
    assert [score.candidate for score in verified(sample, how="gsm8k")] == [1]


def test_what_was_read_is_cut_short_in_the_detail() -> None:
    (score,) = verified(sample_of("a" * 5000), how="exact")
    assert score.detail == "wrong: " + "a" * 200


@pytest.mark.parametrize("reference", [None, "", " \n"])
def test_a_sample_without_a_reference_fails_for_good(reference: str | None) -> None:
    with pytest.raises(SampleError, match=r"source\.columns\.reference") as caught:
        verified(sample_of("#### 18", reference=reference))
    assert caught.value.is_permanent


def test_a_reference_that_cannot_be_read_fails_for_good() -> None:
    with pytest.raises(SampleError, match="'eighteen' is not one number") as caught:
        verified(sample_of("#### 18", reference="eighteen"), how="gsm8k")
    assert caught.value.is_permanent
    assert caught.value.raw == "eighteen"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"how": "pattern"}, "needs one"),
        ({"how": "pattern", "pattern": "("}, "not a regular expression"),
        ({"how": "exact", "pattern": "x"}, "does not use it"),
    ],
)
def test_a_pattern_goes_with_its_check(options: dict[str, Any], said: str) -> None:
    problem = Verify(**options).problem()
    assert problem is not None
    assert problem[0] == "pattern"
    assert said in problem[1]


def test_sound_options_have_no_problem() -> None:
    assert Verify().problem() is None
    assert Verify(how="pattern", pattern=r"(\d)").problem() is None


def test_it_makes_a_score_and_a_ranking_of_its_name() -> None:
    assert Verify(name="right").facts_made() == {"score:right", "ranking"}
    assert Verify().facts_needed() == {"candidates"}


def test_a_wrong_answer_that_was_cut_is_unparsed_and_a_right_one_is_right() -> None:
    sample = sample_of("so far 41", "#### 18")
    for candidate in sample.candidates:
        candidate.finish_reason = "length"
    assert [(s.value, s.detail) for s in verified(sample)] == [
        (None, "unparsed, cut: 41"),
        (1.0, "correct: 18"),
    ]
