from __future__ import annotations

import math

import pytest

from factory.engines.base import Completion
from factory.stages.labels import leaning, read_labels
from tests.fakes import labelled, said

AB = ("A", "B")


def test_probabilities_are_normalised_over_the_labels() -> None:
    probabilities, mass = read_labels(labelled(A=0.6, B=0.2), AB)
    assert probabilities == pytest.approx({"A": 0.75, "B": 0.25})
    assert mass == pytest.approx(0.8)


def test_other_labels_are_ignored() -> None:
    probabilities, mass = read_labels(labelled(A=0.3, B=0.1, C=0.5), AB)
    assert probabilities == pytest.approx({"A": 0.75, "B": 0.25})
    assert mass == pytest.approx(0.4)


def test_a_completion_without_logprobs_is_unparsed() -> None:
    assert read_labels(said("A"), AB) == (None, 0.0)


def test_a_missing_label_is_unparsed_and_its_mass_is_kept() -> None:
    probabilities, mass = read_labels(labelled(A=0.9), AB)
    assert probabilities is None
    assert mass == pytest.approx(0.9)


@pytest.mark.parametrize("odd", [math.nan, -math.inf, math.inf])
def test_a_logprob_that_is_not_finite_is_unparsed(odd: float) -> None:
    completion = Completion("", "length", 1, 0, 1, {"A": math.log(0.5), "B": odd})
    assert read_labels(completion, AB) == (None, pytest.approx(0.5))


def test_labels_with_hardly_any_probability_are_unparsed() -> None:
    assert read_labels(labelled(A=0.006, B=0.003), AB) == (None, pytest.approx(0.009))
    probabilities, _ = read_labels(labelled(A=0.009, B=0.003), AB)
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
