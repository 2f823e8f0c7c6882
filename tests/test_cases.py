"""Pairs that people decided, put to a judge as tests of the run's principles."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.core.constitution import Constitution, load
from factory.core.errors import RecipeError
from factory.review.journal import opened
from factory.review.session import Answer
from factory.workbench.cases import decided_pairs
from tests.reviewing import judged, made_run, session_of
from tests.test_workbench import Reader, asked


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four pairs of which the judge prefers the first answer, `good` or not."""
    texts = [("good 0", "bad 0"), ("bad 1", "good 1"), ("good 2", "bad 2"), ("good 3", "bad 3")]
    return made_run(tmp_path / "run", [judged(i, 0.9, *two) for i, two in enumerate(texts)])


@pytest.fixture
def made(run: Path) -> Constitution:
    return load(run / "kind.yaml")


def decide(run: Path, reviewer: str, labels: dict[str, str]) -> None:
    """`labels`: sample -> the text of the better answer, or `tie`."""
    with opened(run, reviewer) as journal:
        session = session_of(run, journal, reviewer)
        while (pair := session.state()["pair"]) and pair["id"] in labels:
            wanted = labels.pop(pair["id"])
            sides = {pair[side]["text"]: side for side in ("left", "right")}
            session.decide(Answer(pair["pair"], sides.get(wanted, wanted)))


def test_a_judge_is_held_against_what_people_prefer(
    run: Path, made: Constitution, tmp_path: Path
) -> None:
    decide(run, "anna", {"p0": "good 0", "p1": "good 1", "p2": "bad 2", "p3": "tie"})
    cases = decided_pairs(run, made)
    assert [(c.principle.id, c.name, c.better, c.worse) for c in cases] == [
        ("kind-words", "p0:0>1", "good 0", "bad 0"),
        ("kind-words", "p1:1>0", "good 1", "bad 1"),
        ("kind-words", "p2:1>0", "bad 2", "good 2"),
    ]
    report = asked(made, tmp_path, Reader(), cases=cases)
    assert [test.outcome for test in report.tests] == ["passed", "passed", "failed"]
    assert asked(made, tmp_path, Reader(), cases=cases, pattern="p2:").calls == 0


def test_people_who_disagree_decide_nothing(run: Path, made: Constitution) -> None:
    decide(run, "anna", {"p0": "good 0", "p1": "good 1", "p2": "good 2", "p3": "good 3"})
    decide(run, "bo", {"p0": "good 0", "p1": "bad 1", "p2": "good 2", "p3": "tie"})
    assert [case.name for case in decided_pairs(run, made)] == ["p0:0>1", "p2:0>1"]


def test_a_run_that_nobody_decided_says_what_to_do(run: Path, made: Constitution) -> None:
    with pytest.raises(RecipeError, match=r"people prefer no answer .*: factory review "):
        decided_pairs(run, made)
