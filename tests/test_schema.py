"""JSON Schema of recipes and constitutions: what the loader takes, it takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from factory.recipe.schema import schema
from tests.conftest import ROOT
from tests.test_cli import Call, call  # noqa: F401

Complaints = Callable[[Any], list[str]]


def complaints_of(kind: str) -> Complaints:
    made = schema(kind)
    jsonschema.Draft202012Validator.check_schema(made)
    validator = jsonschema.Draft202012Validator(made)
    return lambda data: [error.json_path for error in validator.iter_errors(data)]


@pytest.fixture(scope="module")
def recipe() -> Complaints:
    return complaints_of("recipe")


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_are_taken(recipe: Complaints, path: Path) -> None:
    assert recipe(yaml.safe_load(path.read_text())) == []


def test_shipped_constitutions_are_taken() -> None:
    constitution = complaints_of("constitution")
    for path in (ROOT / "constitutions").glob("*.yaml"):
        assert constitution(yaml.safe_load(path.read_text())) == []
    assert constitution({"name": "x", "version": "1"}) == ["$"]  # no principles


MINIMAL = {
    "name": "mine",
    "source": {"path": "prompts.jsonl"},
    "models": {"policy": {"model": "m"}},
    "stages": [{"kind": "generate", "model": "policy"}],
    "views": [{"kind": "sft"}],
}


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({}, []),
        ({"stages": [{"kind": "my_stages:Translate", "language": "French"}]}, []),
        ({"models": {"far": {"engine": "endpoint", "model": "m", "base_url": "http://a/v1"}}}, []),
        ({"stages": [{"kind": "judge", "mode": "pointwise", "model": "policy"}]}, []),
        ({"stage": []}, ["$"]),
        ({"seed": "seven"}, ["$.seed"]),
        ({"stages": [{"kind": "generat", "model": "policy"}]}, ["$.stages[0]"]),
        ({"stages": [{"kind": "generate", "modle": "policy"}]}, ["$.stages[0]"]),
        ({"models": {"far": {"engine": "endpoint", "model": "m"}}}, ["$.models.far"]),
        ({"views": [{"kind": "sft", "pick": "worst"}]}, ["$.views[0]"]),
        ({"views": [{"pick": "best"}]}, ["$.views[0]"]),
        ({"training": [{"kind": "dop"}]}, ["$.training[0].kind"]),
    ],
)
def test_what_the_loader_refuses_is_refused(
    recipe: Complaints, changed: dict[str, Any], where: list[str]
) -> None:
    assert recipe(MINIMAL | changed) == where


def test_fields_say_what_they_are(recipe: Complaints) -> None:
    made = schema("recipe")
    assert "share of samples" in made["properties"]["max_failure_rate"]["description"]


def test_the_command_prints_it(call: Call) -> None:  # noqa: F811
    assert json.loads(call("schema", "constitution").out) == schema("constitution")
    ended = call("schema", "recipes")
    assert (ended.code, ended.err) == (
        2,
        "error: factory schema: no schema of 'recipes' (have: recipe, constitution)\n",
    )
