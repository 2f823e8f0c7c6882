"""What comes with the package: every constitution, recipe and file of prompts can be used."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from factory.core import constitution
from factory.core.assets import shipped_file
from factory.core.records import Sample
from factory.recipe.load import load
from factory.sources.source import SourceConfig, open_source
from tests.conftest import ROOT

CONSTITUTIONS = sorted((ROOT / "constitutions").glob("*.yaml"))
RECIPES = sorted((ROOT / "pipelines").glob("*.yaml"))
PROMPTS = sorted((ROOT / "pipelines" / "prompts").glob("*.jsonl"))


def name(path: Path) -> str:
    return path.stem


def samples(path: Path) -> list[Sample]:
    rows = list(open_source(SourceConfig(path=str(path)), path.parent))
    assert [row for row in rows if not isinstance(row, Sample)] == []
    return [row for row in rows if isinstance(row, Sample)]


def test_there_is_enough_to_start_with() -> None:
    assert len(CONSTITUTIONS) >= 4
    assert len(RECIPES) >= 3
    assert sum(len(samples(path)) for path in PROMPTS) >= 200
    assert len(constitution.load(ROOT / "constitutions" / "harmless.yaml").principles) >= 12


# -- constitutions ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONSTITUTIONS, ids=name)
def test_a_constitution_loads_under_its_files_name(path: Path) -> None:
    assert constitution.load(path).name == path.stem


@pytest.mark.parametrize("path", CONSTITUTIONS, ids=name)
def test_every_principle_has_a_test_that_tells_two_answers_apart(path: Path) -> None:
    for principle in constitution.load(path).principles:
        assert principle.tests, principle.id
        assert all(test.better != test.worse for test in principle.tests), principle.id


@pytest.mark.parametrize("path", CONSTITUTIONS, ids=name)
def test_no_two_principles_of_a_constitution_say_the_same(path: Path) -> None:
    principles = constitution.load(path).principles
    for field in ("title", "critique", "revision", "compare"):
        texts = Counter(getattr(principle, field) for principle in principles)
        assert texts.most_common(1)[0][1] == 1, field


@pytest.mark.parametrize("path", CONSTITUTIONS, ids=name)
def test_a_comparison_asks_a_question_and_names_no_letter(path: Path) -> None:
    """The judge adds the letters itself, in both orders."""
    for principle in constitution.load(path).principles:
        assert principle.compare.endswith("?"), principle.id
        assert "(A)" not in principle.compare, principle.id


# -- recipes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_loads_under_its_files_name(path: Path) -> None:
    assert load(path).name == path.stem


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_opens_with_its_purpose_its_cost_and_its_command(path: Path) -> None:
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    keys = [
        word for word in ("purpose", "cost", "run") for c in comments if c.startswith(f"# {word}:")
    ]
    assert keys == ["purpose", "cost", "run"]
    assert path.read_text().startswith("# purpose: ")
    [run] = [line for line in comments if line.startswith("# run:")]
    assert f"pipelines/{path.name}" in run


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_what_is_trained_on_is_not_what_is_evaluated_on(path: Path) -> None:
    recipe = load(path)
    if recipe.evaluation is not None:
        seen, held_out = (
            {
                json.dumps(row.prompt)
                for row in open_source(s, recipe.folder)
                if isinstance(row, Sample)
            }
            for s in (recipe.source, recipe.evaluation.source)
        )
        assert held_out
        assert not seen & held_out


# -- prompts ------------------------------------------------------------------------------------


def test_ids_and_prompts_are_unique_across_files() -> None:
    rows = [row for path in PROMPTS for row in samples(path)]
    for values in ([row.id for row in rows], [row.prompt[-1]["content"] for row in rows]):
        assert Counter(values).most_common(1)[0][1] == 1


@pytest.mark.parametrize("path", PROMPTS, ids=name)
def test_every_prompt_has_an_id_of_its_file_and_tags(path: Path) -> None:
    for row in samples(path):
        assert row.id.startswith(path.stem)
        assert row.tags


def test_references_of_arithmetic_are_numbers() -> None:
    for row in samples(ROOT / "pipelines" / "prompts" / "arithmetic.jsonl"):
        assert re.fullmatch(r"-?\d+(\.\d+)?", row.reference or ""), row.id


# -- where they are found -----------------------------------------------------------------------


def test_shipped_files_are_found() -> None:
    assert shipped_file("constitutions/harmless.yaml") == ROOT / "constitutions" / "harmless.yaml"
    assert shipped_file("constitutions/nothing.yaml") is None
