"""The reward stage: what it asks, what it makes of the logits, and what it refuses."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from factory.core.errors import EngineError, Renamed
from factory.core.records import Candidate, Combination, Sample, Score
from factory.engines.base import Completion, Request, Scoring
from factory.pipeline.progress import Progress
from factory.pipeline.run import run_async
from factory.pipeline.traces import read_samples
from factory.recipe.load import load
from factory.recipe.recipe import Recipe
from factory.recipe.registry import STAGES
from factory.scorers.reward_model import Reward, reward
from factory.stages.base import Question
from tests.fakes import FakeEngine, ScriptedModels

TWO = {"helpful": "rm1", "harmless": "rm2"}


def logits(*row: float) -> Completion:
    return Completion("", "stop", 10, 0, 0, scores=[list(row)])


def sample_of(*texts: str) -> Sample:
    candidates = [Candidate(i, text, "generate", "m", "c") for i, text in enumerate(texts)]
    return Sample("s", 0, [{"role": "user", "content": "Hello?"}], candidates=candidates)


def scored(sample: Sample, completions: Any, **options: Any) -> tuple[list[Score], ScriptedModels]:
    models = ScriptedModels(completions)
    stage = Reward(**({"model": "rm"} | options))
    return asyncio.run(stage(sample, models)).scores, models


def test_the_whole_conversation_is_scored_as_it_would_be_read() -> None:
    _, models = scored(sample_of("hi"), [logits(1.0)])
    (question,) = models.questions
    assert question.messages == [
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "hi"},
    ]
    assert question.scoring == Scoring()


def test_one_label_is_the_raw_logit_of_each_kept_candidate() -> None:
    sample = sample_of("a", "b", "c")
    sample.candidates[1].drop_reason = "refusal"
    scores, _ = scored(sample, [logits(1.23456789), logits(-40.0)], name="rm")
    assert scores == [
        Score("rm", 0, 1.234568, calls=["call1"]),
        Score("rm", 2, -40.0, calls=["call2"]),
    ]


def test_two_labels_are_the_log_odds_of_the_second() -> None:
    assert scored(sample_of("a"), [logits(1.5, 4.0)])[0][0].value == 2.5
    assert scored(sample_of("a"), [logits(1.5, 4.0)], label=0)[0][0].value == -2.5
    assert scored(sample_of("a"), [logits(1.5, 4.0)], label=1)[0][0].value == 2.5


def test_one_of_many_labels_is_its_log_odds_against_the_rest() -> None:
    # p = 3/6 of label 2: odds 3 / (1 + 2) = 1; of label 1: odds 2 / (1 + 3) = 0.5
    row = logits(math.log(1), math.log(2), math.log(3))
    assert scored(sample_of("a"), [row], label=2)[0][0].value == pytest.approx(0.0, abs=1e-6)
    value = scored(sample_of("a"), [row], label=1)[0][0].value
    assert value == pytest.approx(math.log(0.5), abs=1e-6)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6), st.floats(-1e3, 1e3))
def test_log_odds_do_not_depend_on_what_is_added_to_all_logits(
    row: list[float], shift: float
) -> None:
    value = reward(row, 0, "rm")
    assert reward([x + shift for x in row], 0, "rm") == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("row", "label", "words"),
    [
        ([0.0, 1.0, 2.0], None, "model 'rm' has 3 labels .* set its `label` .0 to 2."),
        ([0.0, 1.0], 2, "model 'rm' has 2 labels, so `label: 2` is not there"),
        ([0.0], 1, "model 'rm' has 1 label, so `label: 1` is not there"),
    ],
)
def test_a_model_with_other_labels_stops_the_run(
    row: list[float], label: int | None, words: str
) -> None:
    with pytest.raises(EngineError, match=words):
        scored(sample_of("a"), [logits(*row)], label=label)


@pytest.mark.parametrize("scores", [None, [], [[]], [[1.0], [2.0]]])
def test_a_model_that_gives_no_row_stops_the_run(scores: list[list[float]] | None) -> None:
    with pytest.raises(EngineError, match="'rm' was asked for one row of scores"):
        scored(sample_of("a"), [Completion("", "stop", 1, 0, 0, scores=scores)])


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ([math.nan], None),
        ([math.inf], None),
        ([0.0, -math.inf], None),
        ([0.0, math.inf], 0),
        ([1.0, 2.0, -math.inf], 0),
        ([math.inf, math.inf], 0),
    ],
)
def test_a_score_that_is_not_finite_is_unread_and_the_others_are_kept(
    row: list[float], label: int | None
) -> None:
    sample = sample_of("fine", "odd")
    scores, _ = scored(sample, [logits(*[0.0] * len(row)), logits(*row)], label=label)
    assert scores[0].value is not None
    assert scores[1] == Score("reward", 1, None, "not finite", ["call2"])


def test_several_models_give_a_score_each() -> None:
    def answer(question: Question) -> Completion:
        return logits(float(len(question.messages[-1]["content"])))

    scores, _ = scored(sample_of("a", "bb"), answer, model=None, models=TWO)
    assert [(s.name, s.candidate, s.value, s.calls) for s in scores] == [
        ("reward/helpful", 0, 1.0, ["call1"]),
        ("reward/helpful", 1, 2.0, ["call2"]),
        ("reward/harmless", 0, 1.0, ["call3"]),
        ("reward/harmless", 1, 2.0, ["call4"]),
    ]


def test_the_recipe_is_told_what_it_makes_and_uses() -> None:
    one, two = Reward(model="rm", name="quality"), Reward(models=TWO)
    assert one.facts_made() == {"score:quality", "ranking"}
    assert two.facts_made() == {
        "score:reward",
        "score:reward/helpful",
        "score:reward/harmless",
        "ranking",
    }
    assert one.models_used() == {"model": "rm"}
    assert two.models_used() == {"models.helpful": "rm1", "models.harmless": "rm2"}
    assert one.task() == two.task() == "classify"
    assert one.facts_needed() == {"candidates"}


def test_the_old_name_of_a_field_is_read_with_a_notice() -> None:
    entry = {"kind": "reward", "models": TWO, "standardise": False}
    with pytest.warns(Renamed, match="'standardise' is called 'standardize' now"):
        old = Reward.model_validate(entry)
    assert not old.standardize
    # Digests of runs made before hold the old name.
    assert old.model_dump(mode="json")["standardise"] is False
    with pytest.raises(ValidationError, match="is the old name of 'standardize'; give one"):
        Reward.model_validate({**entry, "standardize": True})


def test_several_models_are_one_combination() -> None:
    assert Reward(model="rm").combinations() == []
    (equal,) = Reward(models=TWO).combinations()
    assert equal == Combination("reward", {"reward/helpful": 0.5, "reward/harmless": 0.5})
    (chosen,) = Reward(
        models=TWO, name="q", weights={"harmless": 2, "helpful": 0}, standardize=False
    ).combinations()
    # In the order of `models`, with a weight of 0 kept
    assert list(chosen.parts.items()) == [("q/helpful", 0.0), ("q/harmless", 2.0)]
    assert not chosen.standardize
    (careful,) = Reward(models=TWO, combine="mean_minus_variance", penalty=0.25).combinations()
    assert (careful.how, careful.penalty) == ("mean_minus_variance", 0.25)


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({}, "model", "found none"),
        ({"model": "rm", "models": TWO}, "models", "found both"),
        ({"model": "rm", "combine": "minimum"}, "combine", "there is one, 'rm'"),
        ({"model": "rm", "weights": {"a": 1}}, "weights", "there is one, 'rm'"),
        ({"model": "rm", "standardize": False}, "standardize", "there is one, 'rm'"),
        (
            {"models": TWO, "combine": "minimum", "weights": {"helpful": 1, "harmless": 1}},
            "weights",
            "is for combine: weights; minimum has none",
        ),
        ({"models": TWO, "penalty": 0.5}, "penalty", "is for combine: mean_minus_variance"),
        (
            {"models": TWO, "weights": {"helpfull": 1, "harmless": 1}},
            "weights",
            "'helpfull' is none of the `models`; did you mean 'helpful'? (have: helpful, harmless)",
        ),
        ({"models": TWO, "weights": {"helpful": 1}}, "weights", "add 'harmless'"),
        ({"models": TWO, "weights": {"helpful": 0, "harmless": 0}}, "weights", "all are 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    options: dict[str, Any], field: str, words: str
) -> None:
    problem = Reward(**options).problem()
    assert problem is not None
    assert problem[0] == field
    assert words in problem[1]


@pytest.mark.parametrize(
    "options",
    [
        {"model": "rm", "label": 3},
        {"models": TWO},
        {"models": TWO, "weights": {"helpful": 1, "harmless": -0.5}},
        {"models": TWO, "combine": "mean_minus_variance", "penalty": 0},
    ],
)
def test_sensible_options_are_accepted(options: dict[str, Any]) -> None:
    assert Reward(**options).problem() is None


# ---- a run


class RewardEngine(FakeEngine):
    """A reward model: the number of characters of the answer, times `scale`."""

    def __init__(self, name: str, scale: float) -> None:
        super().__init__(name=name)
        self.scale = scale

    async def generate(self, request: Request) -> Completion:
        self.seen.append(request)
        assert request.scoring == Scoring()
        return logits(self.scale * len(request.messages[-1]["content"]))


@pytest.fixture
def rewarded(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Recipe]:
    """A recipe that samples three answers and scores them with two reward models."""
    monkeypatch.setitem(STAGES, "reward", Reward)
    data = yaml.safe_load((project / "recipe.yaml").read_text())
    data["models"] |= {
        name: data["models"]["policy"] | {"task": "classify"} for name in ("rm1", "rm2")
    }
    data["stages"] = [data["stages"][0] | {"n": 3}, {"kind": "reward", "models": TWO}]
    data["views"] = [
        {"kind": "reward"},
        {"kind": "preference", "pairs": "best_vs_worst"},
        {"kind": "sft", "pick": "best", "score": "reward/helpful"},
        {"kind": "grpo"},
    ]
    (project / "recipe.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return lambda: load(project / "recipe.yaml")


def go(recipe: Recipe, out: Path) -> Sequence[FakeEngine]:
    engines = {
        "policy": FakeEngine(),
        "rm1": RewardEngine("rm1", 1.0),
        "rm2": RewardEngine("rm2", 0.01),
    }
    asyncio.run(run_async(recipe, out, engines=engines, progress=Progress(is_quiet=True)))
    return [*engines.values()]


def files(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for folder in ("traces", "datasets")
        for path in sorted((out / folder).rglob("*"))
        if path.is_file()
    }


def test_a_run_keeps_raw_scores_and_its_views_have_the_combined_one(
    rewarded: Callable[[], Recipe], tmp_path: Path
) -> None:
    from datasets import load_from_disk

    go(rewarded(), tmp_path / "run")
    samples = list(read_samples(tmp_path / "run"))
    names = {score.name for sample in samples for score in sample.scores}
    assert names == {"reward/helpful", "reward/harmless"}
    lengths = [len(c.text) for s in samples for c in s.candidates]
    mean = sum(lengths) / 36
    std = (sum((x - mean) ** 2 for x in lengths) / 36) ** 0.5
    data = load_from_disk(str(tmp_path / "run" / "datasets" / "reward"))
    assert len(data) == 12
    for row in data:  # both models go by length, so both z are equal, and so is their mean
        expected = [(len(text) - mean) / std for text in row["responses"]]
        assert row["scores"] == pytest.approx(expected, abs=2e-6)
    pairs = load_from_disk(str(tmp_path / "run" / "datasets" / "preference"))
    assert all(len(p["chosen"][0]["content"]) > len(p["rejected"][0]["content"]) for p in pairs)


def test_two_runs_write_the_same_bytes_and_a_third_asks_nothing(
    rewarded: Callable[[], Recipe], tmp_path: Path
) -> None:
    go(rewarded(), tmp_path / "one")
    go(rewarded(), tmp_path / "two")
    before = files(tmp_path / "one")
    assert before == files(tmp_path / "two")
    assert [engine.seen for engine in go(rewarded(), tmp_path / "one")] == [[], [], []]
    assert files(tmp_path / "one") == before


def test_other_weights_make_other_datasets_without_a_call(
    rewarded: Callable[[], Recipe], project: Path, tmp_path: Path
) -> None:
    go(rewarded(), tmp_path / "run")
    before = files(tmp_path / "run")
    data = yaml.safe_load((project / "recipe.yaml").read_text())
    data["stages"][1]["weights"] = {"helpful": 1.0, "harmless": -2.0}
    (project / "recipe.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    assert [engine.seen for engine in go(rewarded(), tmp_path / "run")] == [[], [], []]
    after = files(tmp_path / "run")
    changed = {name.split("/")[1] for name in before if before[name] != after[name]}
    assert {"reward", "preference"} <= changed
    assert "part-00000.parquet" not in changed
