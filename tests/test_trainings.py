"""Recipes that train a model which their own later stages use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factory.core.errors import RecipeError
from factory.pipeline import trainings
from factory.pipeline.manifest import Manifest
from factory.pipeline.traces import read_samples
from factory.pipeline.trainings import (
    as_far_as_trained,
    before,
    model_folder,
    run_with_trainings,
    waited_for,
)
from factory.recipe.check import first_use
from factory.recipe.load import load
from factory.recipe.recipe import Recipe
from factory.training.config import TrainingConfig
from tests.conftest import ROOT


@pytest.fixture
def process_reward() -> Recipe:
    return load(ROOT / "pipelines" / "process-reward.yaml")


def test_the_part_before_a_training_makes_its_data_and_nothing_that_needs_its_result(
    process_reward: Recipe,
) -> None:
    assert [t.result for t in waited_for(process_reward)] == ["prm"]
    assert first_use(process_reward, "prm") == 4
    part = before(process_reward, "prm")
    assert part.stage_labels() == ["generate", "filter", "verify", "rollout"]
    assert list(part.models) == ["policy"]
    assert [view.kind for view in part.views] == ["process", "grpo"]
    assert part.training == []
    assert "trained:" not in part.text


def test_a_model_that_was_trained_takes_its_place(process_reward: Recipe, tmp_path: Path) -> None:
    assert len(as_far_as_trained(process_reward, tmp_path).stages) == 4
    made = tmp_path / "models" / "prm"
    made.mkdir(parents=True)
    (made / "config.json").write_text("{}")
    assert len(as_far_as_trained(process_reward, tmp_path).stages) == 4  # not finished
    (made / "training.json").write_text("{}")
    whole = as_far_as_trained(process_reward, tmp_path)
    assert len(whole.stages) == 5
    assert whole.models["prm"].model == str(made)
    assert whole.trained_models() == {}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("training.0.name=other", "models.prm.model: no training named 'prm' (have: other)"),
        ("training.0.model=null", "training[0]: a model of the recipe needs its result: name the"),
        (
            "training.0.view=sft",
            "'sft' needs score:process, which only a stage after the first use",
        ),
        (
            "training=[{kind: prm, model: prm}]",
            "training[0]: it needs 'trained:prm'; list that training first",
        ),
        ("models.prm.task=classify", "stages[4].model: 'prm' is served with task: classify, and"),
    ],
)
def test_what_cannot_be_trained_is_told_before_anything_runs(change: str, complaint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(ROOT / "pipelines" / "process-reward.yaml", [change])
    assert complaint in str(caught.value)


def test_a_trainings_options_are_checked_before_its_data_is_made(tmp_path: Path) -> None:
    recipe = load(
        ROOT / "pipelines" / "process-reward.yaml", ["training.0.config.class_weights=evenly"]
    )
    with pytest.raises(RecipeError, match=r"class_weights: expected balanced, .* found 'evenly'"):
        run_with_trainings(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_data_makes_another_model_beside_the_one_before(
    process_reward: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def run(recipe: Recipe, out: Path, **_: object) -> Manifest:
        rows = {"view": "process", "rows": 3, "fingerprint": f"{recipe.source.limit} rows"}
        return Manifest(digest="", source_digest="", part_size=1, views=[rows])

    def train(training: TrainingConfig, data: Path, model: str, out: Path) -> dict[str, Any]:
        assert data == tmp_path / "before-prm" / "datasets" / "process"
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text("{}")
        (out / "training.json").write_text("{}")
        made.append(out)
        return {}

    monkeypatch.setattr(trainings, "run", run)
    monkeypatch.setattr(trainings, "train_in_child_process", train)
    for limit in (20, 40, 40):
        source = process_reward.source.model_copy(update={"limit": limit})
        run_with_trainings(process_reward.model_copy(update={"source": source}), tmp_path)
    assert made[0] != made[1] == made[2]
    assert model_folder(tmp_path, "prm").resolve() == made[2]
    assert all((path / "training.json").exists() for path in made)


SMALL = {
    "process-reward": [
        "source.limit=10",
        "stages.0.n=2",
        "stages.0.sampling.max_tokens=48",
        "stages.1.truncated=false",
        "stages.3.n=2",
        "stages.3.sampling.max_tokens=24",
        "training.0.config.max_steps=2",
        "training.0.config.class_weights=null",
        "models.policy.max_model_len=512",
        "models.prm.max_model_len=512",
    ],
    "reward-scored": [
        "source.limit=4",
        "stages.0.sampling.max_tokens=24",
        "views.0.truncated=keep",
        "views.3.truncated=keep",
        "training.0.config.max_steps=2",
        "models.policy.max_model_len=768",
        "models.rm.max_model_len=768",
    ],
}


@pytest.mark.engine
@pytest.mark.parametrize(
    ("name", "stage", "score"),
    [("process-reward", "process", "process"), ("reward-scored", "reward", "reward")],
)
def test_a_recipe_trains_a_scorer_and_scores_with_it(
    name: str, stage: str, score: str, tmp_path: Path
) -> None:
    recipe = load(ROOT / "pipelines" / f"{name}.yaml", SMALL[name])
    manifest = run_with_trainings(recipe, tmp_path)
    assert manifest.state == "finished"
    assert manifest.quarantined == 0
    made = {label: count.made for label, count in manifest.stages.items()}
    assert made[stage] > 0
    # What was asked before the training is not asked again.
    assert all(count == 0 for label, count in made.items() if label != stage)
    scored = [s for sample in read_samples(tmp_path) for s in sample.scores if s.name == score]
    assert len({s.value for s in scored}) > 1
    training = tmp_path / "models" / recipe.training[0].result / "training.json"
    assert json.loads(training.read_text())["steps"] == 2
    rows = {view["view"]: view["rows"] for view in manifest.views}
    assert rows["sft"] > 0
