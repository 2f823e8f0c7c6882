"""Recipes that train a model which their own later stages use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factory.core.errors import RecipeError
from factory.engines import EngineConfig, build
from factory.engines.base import Engine
from factory.pipeline import manifest as manifests
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
from factory.recipe import pipeline as pipelines
from factory.recipe.check import first_use
from factory.recipe.load import load
from factory.recipe.recipe import Recipe
from factory.training import TRAINERS
from factory.training.config import TrainingConfig
from tests.conftest import ROOT, Scripted
from tests.fakes import FakeEngine
from tests.tiny import save_llama


@pytest.fixture
def shipped() -> Recipe:
    return load(ROOT / "pipelines" / "process-reward.yaml")


def test_the_part_before_a_training_makes_its_data_and_nothing_that_needs_its_result(
    shipped: Recipe,
) -> None:
    assert [t.result for t in waited_for(shipped)] == ["prm"]
    assert first_use(shipped, "prm") == 4
    part = before(shipped, "prm")
    assert part.stage_labels() == ["generate", "filter", "verify", "rollout"]
    assert list(part.models) == ["policy"]
    assert [view.kind for view in part.views] == ["process", "grpo"]
    assert part.training == []
    assert "trained:" not in part.text


def test_a_model_that_was_trained_takes_its_place(shipped: Recipe, tmp_path: Path) -> None:
    assert len(as_far_as_trained(shipped, tmp_path).stages) == 4
    made = tmp_path / "models" / "prm"
    made.mkdir(parents=True)
    (made / "config.json").write_text("{}")
    assert len(as_far_as_trained(shipped, tmp_path).stages) == 4  # not finished
    (made / "training.json").write_text("{}")
    whole = as_far_as_trained(shipped, tmp_path)
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
    shipped: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        source = shipped.source.model_copy(update={"limit": limit})
        run_with_trainings(shipped.model_copy(update={"source": source}), tmp_path)
    assert made[0] != made[1] == made[2]
    assert model_folder(tmp_path, "prm").resolve() == made[2]
    assert all((path / "training.json").exists() for path in made)


def check_scored(out: Path, score: str, training: str) -> None:
    """A finished run asked only the model that it had trained, which tells answers apart."""
    manifest = manifests.read(out)
    assert manifest is not None
    assert (manifest.state, manifest.quarantined) == ("finished", 0)
    made = {label: count.made for label, count in manifest.stages.items()}
    assert made.pop(score) > 0
    # What was asked before the training is not asked again.
    assert set(made.values()) == {0}
    scored = [s for sample in read_samples(out) for s in sample.scores if s.name == score]
    assert len({s.value for s in scored}) > 1
    record = out / "models" / training / "training.json"
    assert json.loads(record.read_text())["steps"] == 2
    assert {view["view"]: view["rows"] for view in manifest.views}["sft"] > 0


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_a_recipe_trains_a_process_reward_model_and_scores_with_it(
    process_reward: Scripted,
) -> None:
    assert process_reward.ended.returncode == 0, process_reward.ended.stderr[-2000:]
    check_scored(process_reward.folder, "process", "prm")
    labels = {
        label
        for sample in read_samples(process_reward.folder)
        for steps in sample.step_labels
        for label in steps.labels
    }
    assert labels >= {True, False}  # there was something to learn


@pytest.mark.engine
def test_a_recipe_trains_a_reward_model_and_scores_with_it(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers and verdicts to learn from are a fake engine's, and the training takes place in this
    process: those of the process reward model's recipe are real and apart."""

    def build_all(models: dict[str, EngineConfig], *given: Any) -> dict[str, Engine]:
        others = {name: config for name, config in models.items() if name != "policy"}
        return {"policy": FakeEngine(), **build(others, *given)}

    def train(training: TrainingConfig, data: Path, model: str, out: Path) -> dict[str, Any]:
        return TRAINERS[training.kind].train(data, model, out, config=training.config)

    monkeypatch.setattr(pipelines, "build", build_all)
    monkeypatch.setattr(trainings, "train_in_child_process", train)
    sizes = {"hidden_size": 64, "max_position_embeddings": 512}  # the engine dies of smaller heads
    policy = save_llama(tmp_path / "policy", tokenizer, **sizes)
    memory = "engine_args: {kv_cache_memory_bytes: 67108864}"
    recipe = load(
        ROOT / "pipelines" / "reward-scored.yaml",
        [
            "source.limit=4",
            "training.0.config.max_steps=2",
            f"models.policy.model={policy}",
            f"models.rm={{model: 'trained:reward', task: classify, max_model_len: 512, {memory}}}",
        ],
    )
    run_with_trainings(recipe, tmp_path / "run")
    check_scored(tmp_path / "run", "reward", "reward")
