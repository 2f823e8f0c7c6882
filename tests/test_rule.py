from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from factory.core.records import Candidate, Sample
from factory.scorers.rules import RuleScore
from tests.fakes import ScriptedModels


def scored(rule: dict[str, Any], *candidates: Candidate) -> list[tuple[int, float | None]]:
    sample = Sample("s", 0, [{"role": "user", "content": "?"}], candidates=[*candidates])
    stage = RuleScore.model_validate({"kind": "rule", "name": "r", "rule": rule})
    assert stage.problem() is None
    done = asyncio.run(stage(sample, ScriptedModels()))
    assert {score.name for score in done.scores} <= {"r"}
    return [(score.candidate, score.value) for score in done.scores]


def said(index: int, text: str, **fields: Any) -> Candidate:
    return Candidate(index, text, "generate", "policy", "c", **fields)


def test_nearness_to_a_length_is_scored_in_shares_of_it() -> None:
    rule = {"kind": "length", "target": 4}
    found = scored(rule, said(0, "a b c d"), said(1, "a b c"), said(2, "a b c d e f"), said(3, ""))
    assert found == [(0, 0.0), (1, -0.25), (2, -0.5)]  # what says nothing has no score


def test_tokens_are_those_that_were_generated() -> None:
    rule = {"kind": "length", "maximum": 5, "unit": "tokens"}
    found = scored(rule, said(0, "a", output_tokens=5), said(1, "a", output_tokens=6))
    assert found == [(0, 1.0), (1, 0.0)]


def test_a_pattern_is_found_or_not_and_dropped_candidates_are_not_scored() -> None:
    rule = {"kind": "pattern", "pattern": r"answer is \d+"}
    found = scored(
        rule, said(0, "The answer is 4."), said(1, "Four."), said(2, "x", drop_reason="empty")
    )
    assert found == [(0, 1.0), (1, 0.0)]


def test_a_rule_that_says_nothing_is_refused() -> None:
    stage = RuleScore.model_validate({"rule": {"kind": "length"}})
    problem = stage.problem()
    assert problem is not None
    assert problem[0] == "rule"
    assert "target" in problem[1]
    with pytest.raises(ValidationError):
        RuleScore.model_validate({"rule": {"kind": "sparkle"}})


def test_tokens_that_are_not_known_make_no_score() -> None:
    assert scored({"kind": "overlong", "maximum": 8, "cache": 4}, said(0, "a")) == [(0, None)]


def test_what_only_a_training_uses_is_refused() -> None:
    rule = {"kind": "length", "target": 4, "weight": -1}
    assert RuleScore.model_validate({"rule": rule}).problem() == (
        "rule",
        "weight is for the rewards of a training; here it has no effect",
    )
