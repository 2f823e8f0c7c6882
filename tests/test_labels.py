from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

import pytest

from factory.core.records import Message
from factory.engines.base import Completion
from factory.engines.reasoning import CLOSE, begun
from factory.scorers.labels import Asking, Label, ask_labels, leaning, read_labels, verdict_in
from tests.fakes import ScriptedModels, labeled, said

AB = ("A", "B")


def test_probabilities_are_normalised_over_the_labels() -> None:
    probabilities, mass = read_labels(labeled(A=0.6, B=0.2), AB)
    assert probabilities == pytest.approx({"A": 0.75, "B": 0.25})
    assert mass == pytest.approx(0.8)


def test_other_labels_are_ignored() -> None:
    probabilities, mass = read_labels(labeled(A=0.3, B=0.1, C=0.5), AB)
    assert probabilities == pytest.approx({"A": 0.75, "B": 0.25})
    assert mass == pytest.approx(0.4)


def test_a_completion_without_logprobs_is_unparsed() -> None:
    assert read_labels(said("A"), AB) == (None, 0.0)


def test_a_missing_label_is_unparsed_and_its_mass_is_kept() -> None:
    probabilities, mass = read_labels(labeled(A=0.9), AB)
    assert probabilities is None
    assert mass == pytest.approx(0.9)


@pytest.mark.parametrize("odd", [math.nan, -math.inf, math.inf])
def test_a_logprob_that_is_not_finite_is_unparsed(odd: float) -> None:
    completion = Completion("", "length", 1, 0, 1, {"A": math.log(0.5), "B": odd})
    assert read_labels(completion, AB) == (None, pytest.approx(0.5))


def test_labels_with_hardly_any_probability_are_unparsed() -> None:
    assert read_labels(labeled(A=0.006, B=0.003), AB) == (None, pytest.approx(0.009))
    probabilities, _ = read_labels(labeled(A=0.009, B=0.003), AB)
    assert probabilities == pytest.approx({"A": 0.75, "B": 0.25})


def test_a_label_can_be_next_to_impossible() -> None:
    # -9999 is how OpenAI's API writes "not among the likely tokens".
    completion = Completion("", "length", 1, 0, 1, {"A": -9999.0, "B": math.log(0.5)})
    assert read_labels(completion, AB) == ({"A": 0.0, "B": 1.0}, pytest.approx(0.5))


def test_mass_never_exceeds_one() -> None:
    completion = Completion("", "length", 1, 0, 1, {"A": 1e-7, "B": -50.0})
    _, mass = read_labels(completion, AB)
    assert mass == 1.0


def test_a_tie_leans_neither_way() -> None:
    ps = [0.9, 0.500001, 0.5, 0.1 + 0.2 + 0.2, 0.4999999, 0.499, 0.0, None]
    assert [leaning(p) for p in ps] == [True, True, None, None, None, False, False, None]


# Estimators ------------------------------------------------------------------------------------

PREFIX = "The better answer is ("
ASKED: list[Message] = [{"role": "user", "content": "Which is better? Reply with (A) or (B)."}]


def asked(models: ScriptedModels, asking: Asking, count: int = 1) -> list[Label]:
    work = ask_labels(
        *(models, "judge", [ASKED] * count, AB),
        prefix=PREFIX,
        asking=asking,
        salt=lambda i, draw: (i, draw),
    )
    return asyncio.run(work)


def p_of_a(probabilities: Mapping[str, float]) -> float:
    return probabilities["A"]


def test_sampled_verdicts_are_a_share_with_the_variance_of_a_mean() -> None:
    replies = ["It is kind.\nThe better answer is (A).", "(B)", "the better answer is (A)", "(A)"]
    models = ScriptedModels([said(text) for text in replies])
    [label] = asked(models, Asking("sampled"))
    assert label.mean(p_of_a) == 0.75
    # 1, 0, 1, 1: squares about the mean 3 x 0.0625 + 0.5625 = 0.75; over 3, over 4.
    assert label.variance(p_of_a) == pytest.approx(0.0625)
    assert (label.mass, label.calls) == (1.0, ["call1", "call2", "call3", "call4"])
    assert [q.salt for q in models.questions] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    [question] = {q.messages[0]["content"] for q in models.questions}
    assert question.endswith("where X is A or B:\nThe better answer is (X)")
    assert all(not q.labels and not q.prefix for q in models.questions)


def test_what_cannot_be_read_enters_no_mean() -> None:
    cut = said("Both are fine. The better answer is (A", reason="length")
    models = ScriptedModels([said("(A)"), said("I cannot say."), cut, said("**(B)**")])
    [label] = asked(models, Asking("sampled"))
    assert (label.mean(p_of_a), label.mass) == (0.5, 0.5)
    assert label.variance(p_of_a) == 0.25  # 1 and 0: 0.5 over 1, over 2
    [unread] = asked(ScriptedModels([said("No.")]), Asking("sampled", samples=1))
    assert (unread.mean(p_of_a), unread.variance(p_of_a)) == (None, None)


def thought(text: str, reason: str = "stop") -> Completion:
    completion = said("", reason=reason)
    completion.reasoning = text
    return completion


def test_a_judge_that_thinks_is_read_after_its_thought() -> None:
    answers = [thought("A is kind."), thought("Is it?"), labeled(A=0.9, B=0.1)]
    models = ScriptedModels([*answers, labeled(A=0.6, B=0.4)], is_thinking=True)
    [label] = asked(models, Asking(samples=2))
    assert label.mean(p_of_a) == pytest.approx(0.75)
    assert label.variance(p_of_a) == pytest.approx(0.0225)  # 2 x 0.15^2, over 1, over 2
    first, second, *read = models.questions
    assert all(CLOSE in q.sampling.stop and not q.prefix for q in (first, second))
    assert [q.prefix for q in read] == [begun(t, PREFIX) for t in ("A is kind.", "Is it?")]
    assert label.calls == ["call1", "call3", "call2", "call4"]
    assert label.reasoning == "A is kind.\n\nIs it?"


def test_a_thought_that_never_ended_is_unparsed_and_no_label_is_asked_for() -> None:
    models = ScriptedModels([thought("But then", reason="length")], is_thinking=True)
    [label] = asked(models, Asking())
    assert (label.mean(p_of_a), label.mass, label.calls) == (None, 0.0, ["call1"])
    assert len(models.questions) == 1


def test_a_judge_without_thoughts_is_read_at_once_however_many_are_wanted() -> None:
    models = ScriptedModels([labeled(A=0.5, B=0.3)] * 2)
    both = asked(models, Asking(samples=8), count=2)
    assert [label.mean(p_of_a) for label in both] == [0.625, 0.625]
    assert both[0].variance(p_of_a) is None
    assert len(models.questions) == 2


def test_scores_are_read_from_what_is_written_too() -> None:
    labels = tuple("012345")
    for reply, found in {
        "Useful and clear.\n\nScore: 4": "4",
        "score:  3/5": "3",
        "**Score: 2**.": "2",
        "Score: 10": None,
        "Score: 4.5": None,
        "I give it 4 of 5.": None,
    }.items():
        assert verdict_in(reply, labels, "Score: ") == found, reply
    assert verdict_in('My answer is "no".', ("Yes", "No"), 'My answer is "') == "No"
    assert verdict_in("It says a lot. a", AB, PREFIX) is None  # "a" is a word
