"""What a kind of one's own costs: a file, and a line in a registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factory.recipe.load import load
from factory.training import TRAINERS, Listed, trainer_of
from factory.training.offline.sft import Sft
from tests.test_cli import Call, call  # noqa: F401


class Patient(Sft):
    """Supervised fine-tuning at a rate of its own."""

    kind = "patient"
    defaults = {**Sft.defaults, "learning_rate": 3e-7}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRAINERS, "patient", Listed(f"{__name__}:Patient", ("sft",)))


@pytest.mark.usefixtures("patient")
def test_a_trainer_is_a_class_and_a_line(
    call: Call,  # noqa: F811
    tiny: Path,
    tmp_path: Path,
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "Is 1 a number?", "completion": "Yes, it is."}\n' * 2)
    out = tmp_path / "out"
    asked = ["train", "patient", "--data", data, "--model", tiny, "--out", out]
    ended = call(*asked, "--set", "max_steps=1", "--set", "max_length=64")
    assert ended.code == 0, ended.err
    record: dict[str, Any] = json.loads((out / "training.json").read_text())
    assert record["kind"] == "patient"
    assert record["config"]["learning_rate"] == 3e-7


@pytest.mark.usefixtures("patient")
def test_a_recipe_names_it_and_its_view_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hi"}\n')
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: mine\nsource: {path: prompts.jsonl}\nmodels: {policy: {model: smollm2-135m-instruct}}\n"
        "stages: [{kind: generate, model: policy}]\nviews: [{kind: sft}]\n"
        "training: [{kind: patient, model: policy}]\n"
    )
    [training] = load(recipe).training
    assert (training.view, training.result) == ("sft", "patient")


def test_every_kind_of_training_says_what_the_registry_says() -> None:
    for kind, listed in TRAINERS.items():
        trainer = listed.load()
        assert trainer.kind == kind
        writes = trainer.loaded_as == "AutoModelForCausalLM"
        assert writes == listed.trains_policy
    suggested = {view: trainer_of(view) for view in ("preference", "process", "reward", "none")}
    assert suggested == {"preference": "dpo", "process": "prm", "reward": "reward", "none": None}
