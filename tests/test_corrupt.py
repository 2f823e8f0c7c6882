"""Every wrong solution is wrong in just the way its labels say, by an arithmetic of the test's own."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.core.errors import SampleError
from factory.core.records import Sample
from factory.math.arithmetic import parse
from factory.math.error_injection import Solution, near
from factory.math.worked import solve
from factory.stages.corrupt import Corrupt
from tests.fakes import ScriptedModels

PROSE = [
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.",
    "Natalia sold 48+24 = <<48+24=72>>72 clips altogether.",
    "#### 72",
]


def corrupted(
    reference: str | None, prompt: str = "How many?", seed: int = 7, **options: Any
) -> Sample:
    sample = Sample("s", 0, [{"role": "user", "content": prompt}], reference=reference)
    return asyncio.run(Corrupt(**options)(sample, ScriptedModels(seed=seed)))


def a_sum(text: str, **options: Any) -> Sample:
    return corrupted("\n".join(solve(parse(text))[0]), f"Calculate {text}.", **options)


def faults(text: str, at: int, error: Any) -> list[list[str]]:
    solution = Solution(solve(parse(text))[0], f"Calculate {text}.")
    return list(solution.faults(at, error, random.Random(1)))


# By hand ---------------------------------------------------------------------------------------


def test_the_solution_itself_is_a_candidate_of_right_steps() -> None:
    sample = a_sum("4 - 1 - 7")
    first, labels, score = sample.candidates[0], sample.step_labels[0], sample.scores[0]
    assert first.text == "4 - 1 = 3, which leaves 3 - 7.\n3 - 7 = -4.\n#### -4"
    assert (first.origin, first.model, first.call, first.index) == ("reference", "", "", 0)
    assert labels.steps == first.text.split("\n")
    assert (labels.name, labels.candidate) == ("known", 0)
    assert labels.labels == [True, True, True]
    assert labels.scores == [1.0, 1.0, 1.0]
    assert (score.name, score.candidate, score.value) == ("known", 0, 1.0)


def test_a_swapped_operation_is_worked_on_with() -> None:
    assert faults("4 - 1 - 7", 0, "swapped_operation") == [
        ["4 - 1 = 5, which leaves 5 - 7.", "5 - 7 = -2.", "#### -2"]
    ]
    assert faults("4 - 1 - 7", 1, "swapped_operation") == [
        ["4 - 1 = 3, which leaves 3 - 7.", "3 - 7 = 10.", "#### 10"]
    ]
    assert faults("2 * 2 + 1", 0, "swapped_operation") == []  # 2 + 2 is 4 as well
    assert faults("4 - 1 - 7", 2, "swapped_operation") == []


def test_a_changed_number_is_worked_on_with() -> None:
    found = faults("4 - 1 - 7", 0, "changed_number")
    assert ["4 - 1 = 5, which leaves 5 - 7.", "5 - 7 = -2.", "#### -2"] in found
    assert all(lines[0] != "4 - 1 = 3, which leaves 3 - 7." for lines in found)


def test_the_answers_line_can_be_wrong_alone() -> None:
    found = faults("4 - 1 - 7", 2, "changed_number")
    assert {lines[-1] for lines in found} >= {"#### -5", "#### -3"}
    assert all(lines[:2] == ["4 - 1 = 3, which leaves 3 - 7.", "3 - 7 = -4."] for lines in found)


def test_a_skipped_step_leaves_a_line_that_does_not_follow() -> None:
    assert faults("20 + 30 + 50 - 1", 1, "skipped_step") == [
        ["20 + 30 = 50, which leaves 50 + 50 - 1.", "100 - 1 = 99.", "#### 99"]
    ]
    # The line after uses 50, which stands in the problem: it may follow.
    assert faults("20 + 30 + 50 - 1", 0, "skipped_step") == []
    # The only step, and the answer's line, cannot be missed.
    assert faults("20 + 30", 0, "skipped_step") == []
    assert faults("20 + 30 - 1", 2, "skipped_step") == []


def test_an_error_that_the_end_does_not_show_is_none() -> None:
    assert faults("(2 + 3) * 0", 0, "changed_number") == []


def test_whole_numbers_stay_whole() -> None:
    found = faults("(8 + 4) / 2", 0, "changed_number")
    assert found
    assert not any("." in line.rstrip(".") for lines in found for line in lines)


def test_prose_goes_on_as_it_was() -> None:
    sample = corrupted("\n".join(PROSE), n=30, errors=["swapped_operation"])
    texts = {candidate.text for candidate in sample.candidates[1:]}
    assert texts == {
        "Natalia sold 48/2 = 96 clips in May.\nNatalia sold 48+24 = 72 clips altogether.\n#### 72",
        "Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 24 clips altogether.\n#### 72",
    }


def test_a_step_of_prose_is_skipped_where_the_next_uses_its_number() -> None:
    sample = corrupted("\n".join(PROSE), "She had 48 friends.", errors=["skipped_step"], n=9)
    assert sample.candidates[0].text.startswith("Natalia sold 48/2 = 24 clips")
    by_text = {
        candidate.text: labels.labels
        for candidate, labels in zip(sample.candidates[1:], sample.step_labels[1:], strict=True)
    }
    assert by_text == {
        "Natalia sold 48+24 = 72 clips altogether.\n#### 72": [False, None],
        "Natalia sold 48/2 = 24 clips in May.\n#### 72": [True, False],
    }
    again = corrupted("\n".join(PROSE), "24 of 48, not 72.", errors=["skipped_step"])
    assert len(again.candidates) == 1


def test_prose_without_equations_has_no_wrong_copy() -> None:
    sample = corrupted("He has two and three.\nThat makes five.\n#### 5", n=4)
    assert len(sample.candidates) == len(sample.scores) == len(sample.step_labels) == 1


def test_candidates_follow_those_that_are_there() -> None:
    sample = a_sum("4 - 1 - 7", n=3)
    again = asyncio.run(Corrupt(name="more")(sample, ScriptedModels()))
    assert [candidate.index for candidate in again.candidates] == list(range(6))
    assert [labels.candidate for labels in again.step_labels] == list(range(6))


@pytest.mark.parametrize("reference", [None, "", "#### 5", "2 + 3 = 5", "2 + 3 = 5\n####"])
def test_a_reference_without_steps_fails_for_good(reference: str | None) -> None:
    with pytest.raises(SampleError, match="a step per line") as caught:
        corrupted(reference)
    assert caught.value.is_permanent


def test_it_makes_candidates_labels_and_a_score_of_its_name() -> None:
    made = Corrupt(name="sure").facts_made()
    assert made == {"candidates", "steps:sure", "score:sure", "ranking"}


@pytest.mark.parametrize(("right", "sign"), [(7, 1), (-12, -1), (Fraction(5, 2), 1), (0, 1)])
def test_near_numbers_are_others_of_the_same_sign_and_places(right: Any, sign: int) -> None:
    found = near(Fraction(right), random.Random(1))
    assert found
    assert all(other != right and other * sign > 0 for other in found)
    unit = 10 if Fraction(right).denominator > 1 else 1
    assert all((other * unit).denominator == 1 for other in found)


# For any sum -----------------------------------------------------------------------------------

OPERATION = re.compile(r"(-?[\d.]+) ([-+*/]) (-?[\d.]+) = (-?[\d.]+?)(?:, which leaves (.*))?\.")


def holds(line: str, before: str) -> bool:
    """The line does one operation of the sum before it, rightly; the test's own arithmetic."""
    found = OPERATION.fullmatch(line)
    assert found is not None, line
    left, operator, right, result, rest = found.groups()
    is_right = eval(f"Fraction('{left}') {operator} Fraction('{right}')") == Fraction(result)
    after = rest if rest is not None else result
    is_one_operation = len(numbers_in(before)) == len(numbers_in(after)) + 1
    return is_right and is_one_operation and fractions(after) == fractions(before)


def numbers_in(text: str) -> list[str]:
    return re.findall(r"[\d.]+", text)


def fractions(text: str) -> Fraction:
    return Fraction(eval(re.sub(r"[\d.]+", lambda found: f"Fraction('{found[0]}')", text)))


def first_wrong(problem: str, steps: list[str]) -> int | None:
    before = problem
    for at, line in enumerate(steps[:-1]):
        if not holds(line, before):
            return at
        found = OPERATION.fullmatch(line)
        assert found is not None
        before = found[5] or found[4]
    return None if steps[-1] == f"#### {before}" else len(steps) - 1


CHAINS = st.builds(
    lambda first, rest: first + "".join(rest),
    st.integers(1, 99).map(str),
    st.lists(
        st.builds(
            lambda op, n, wrap: f" {op} " + wrap.format(n, n + 3),
            st.sampled_from("+-*"),
            st.integers(1, 99),
            st.sampled_from(["{0}", "{0}", "({0} + {1})", "-({0} - {1})"]),
        ),
        min_size=1,
        max_size=5,
    ),
)


@settings(max_examples=150, deadline=None)
@given(CHAINS, st.integers(0, 999), st.integers(1, 6))
def test_copies_are_wrong_where_their_labels_say(text: str, seed: int, n: int) -> None:
    sample = a_sum(text, seed=seed, n=n)
    texts = [candidate.text for candidate in sample.candidates]
    assert len(set(texts)) == len(texts)
    assert first_wrong(text, sample.step_labels[0].steps) is None
    records = zip(sample.candidates, sample.step_labels, sample.scores, strict=True)
    for candidate, known, score in list(records)[1:]:
        at = known.labels.index(False)
        assert first_wrong(text, known.steps) == at, (text, score.detail, known.steps)
        assert known.labels == [True] * at + [False] + [None] * (len(known.steps) - at - 1)
        assert known.scores == [1.0] * at + [0.0] + [None] * (len(known.steps) - at - 1)
        assert candidate.text == "\n".join(known.steps)
        assert candidate.origin == "corrupt"
        assert score.value == 0.0
        assert f"at step {at + 1} of {len(known.steps)}" in score.detail


@settings(max_examples=30, deadline=None)
@given(CHAINS, st.integers(0, 999))
def test_the_same_seed_makes_the_same_copies(text: str, seed: int) -> None:
    assert a_sum(text, seed=seed, n=3) == a_sum(text, seed=seed, n=3)


def test_errors_are_spread_evenly_over_steps_and_kinds() -> None:
    text = "120 + 345 - 210 + 777"  # three operations and the answer
    positions: Counter[int] = Counter()
    kinds: Counter[str] = Counter()
    for seed in range(400):
        sample = a_sum(text, seed=seed)
        positions[sample.step_labels[1].labels.index(False)] += 1
        kinds[sample.scores[1].detail.split()[0]] += 1
    # 100 each expected; four standard deviations are 35.
    assert sorted(positions) == [0, 1, 2, 3]
    assert all(65 <= count <= 135 for count in positions.values()), positions
    # A third of three positions, and all of the answer's are changed numbers: 200, 100, 100.
    assert all(kinds[kind] >= 65 for kind in ("swapped_operation", "skipped_step")), kinds


def test_copies_go_to_different_steps_first() -> None:
    for seed in range(20):
        sample = a_sum("120 + 345 - 210 + 777", seed=seed, n=4)
        places = [labels.labels.index(False) for labels in sample.step_labels[1:]]
        assert sorted(places) == [0, 1, 2, 3]
