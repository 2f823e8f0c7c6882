"""The loop, with a deterministic engine and a training that writes a folder: what follows what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from factory import align as module
from factory.align import align, table
from factory.errors import FactoryError, RecipeError
from factory.recipe import Recipe
from factory.runner.manifest import Manifest
from factory.runner.progress import Progress
from factory.runner.run import run_async
from factory.training.base import TrainingConfig
from tests.fakes import FakeEngine

Load = Callable[..., Recipe]


@pytest.fixture
def trained_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Adds training and evaluation to the project; returns (model, folder) of each training."""
    data = yaml.safe_load((project / "recipe.yaml").read_text())
    held_out = [{"id": f"h{i}", "prompt": f"What of {i} dogs?"} for i in range(5)]
    (project / "held-out.jsonl").write_text("".join(json.dumps(r) + "\n" for r in held_out))
    data["training"] = [{"kind": "dpo", "model": "policy"}]
    data["evaluation"] = {
        "source": {"path": "held-out.jsonl"},
        "model": "policy",
        "judge": "policy",
        "principles": 2,
    }
    (project / "recipe.yaml").write_text(yaml.safe_dump(data))
    trainings: list[tuple[str, str]] = []

    def run(recipe: Recipe, out: Path, *, progress: Progress) -> Manifest:
        engines = {name: FakeEngine(name=config.model) for name, config in recipe.models.items()}
        return asyncio.run(
            run_async(recipe, out, engines=engines, progress=Progress(is_quiet=True))
        )

    def train(training: TrainingConfig, data: Path, model: str, out: Path) -> dict[str, Any]:
        assert data == out.parent / "run" / "datasets" / "preference"
        trainings.append((model, out.parent.name))
        out.mkdir(exist_ok=True)
        (out / "config.json").write_text("{}")
        return {"steps": 3, "metrics": {"loss": 0.5}}

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module, "train_apart", train)
    return trainings


def test_each_round_trains_the_last_rounds_model(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    rounds = align(recipe(), tmp_path / "out", 2)
    first = str(tmp_path / "out" / "round-1" / "model")
    assert trained_on == [("smollm2-135m-instruct", "round-1"), (first, "round-2")]
    saved = yaml.safe_load((tmp_path / "out" / "round-2" / "run" / "recipe.yaml").read_text())
    assert saved["models"]["policy"]["model"] == first
    assert [r.number for r in rounds] == [1, 2]
    assert len(json.loads((tmp_path / "out" / "align.json").read_text())) == 2


def test_the_comparison_is_of_the_first_model_with_the_new_one(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    [done] = align(recipe(), tmp_path / "out", 1)
    written = yaml.safe_load((tmp_path / "out" / "round-1" / "evaluation.yaml").read_text())
    models = {name: entry["model"] for name, entry in written["models"].items()}
    assert models == {
        "before": "smollm2-135m-instruct",
        "after": str(tmp_path / "out" / "round-1" / "model"),
        "judge": "smollm2-135m-instruct",
    }
    w = done.win_rate
    # The fake engine answers both the same: every comparison is a tie, without a judge's call.
    assert (w.wins, w.losses, w.ties, w.prompts) == (0, 0, 5, 5)
    assert (w.rate, w.low, w.high) == (0.5, 0.5, 0.5)
    assert "50%  (95%: 50% to 50%, 5 prompts)" in table([done])


@pytest.mark.parametrize("field", ["training", "evaluation"])
def test_a_recipe_that_cannot_be_aligned_says_what_to_add(
    recipe: Load, trained_on: list[tuple[str, str]], project: Path, tmp_path: Path, field: str
) -> None:
    data = yaml.safe_load((project / "recipe.yaml").read_text())
    del data[field]
    (project / "recipe.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(RecipeError, match=f"{field}: align needs .*add `{field}: "):
        align(recipe(), tmp_path / "out", 1)
    assert trained_on == []


def test_a_model_that_only_scores_is_not_aligned(
    recipe: Load, project: Path, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="'reward' trains a model that scores"):
        align(recipe("training.0.kind=reward"), tmp_path, 1)
    assert trained_on == []


def test_a_run_without_pairs_stops_before_training(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    with pytest.raises(FactoryError, match="made no rows for 'preference'"):
        align(recipe("views.0.min_margin=0.99"), tmp_path / "out", 1)
    assert trained_on == []
