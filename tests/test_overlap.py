"""A held-out prompt that a training has seen is found, however it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factory.core.errors import RecipeError
from factory.recipe.check import check_held_out
from factory.recipe.load import load
from factory.sources.overlap import shared_prompts
from factory.sources.source import Source, SourceConfig, open_source


def source(folder: Path, name: str, *prompts: Any) -> Source:
    path = folder / name
    path.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    return open_source(SourceConfig(path=name), folder)


def shared(folder: Path, training: list[Any], held: list[Any]) -> list[int]:
    both = source(folder, "train.jsonl", *training), source(folder, "held.jsonl", *held)
    return [sample.index for sample in shared_prompts(*both)]


def test_the_same_words_are_the_same_prompt_whatever_the_spacing_and_unicode_form(
    tmp_path: Path,
) -> None:
    training = ["What  is 1 + 1?\n", "Un caf\u00e9?", "\uff11\uff0b\uff12", "other", "", "x\u00b2"]
    held = ["new", "What is 1 + 1?", "Un cafe\u0301?", "1+2", "What is 1 + 2?", "", "other", "x2"]
    assert shared(tmp_path, training, held) == [1, 2, 3, 6]


def test_turns_count_and_the_system_prompt_does_not(tmp_path: Path) -> None:
    def talk(*turns: tuple[str, str]) -> list[dict[str, str]]:
        return [{"role": role, "content": content} for role, content in turns]

    training = [talk(("system", "Be brief."), ("user", "Hi")), talk(("user", "a"), ("user", "b"))]
    held = ["Hi", talk(("system", "Be kind."), ("user", "Hi")), "b", "a b", "a\nb"]
    assert shared(tmp_path, training, held) == [0, 1]


def test_each_repetition_of_a_held_out_prompt_is_named_and_a_clean_one_is_empty(
    tmp_path: Path,
) -> None:
    assert shared(tmp_path, ["a", "b", "a"], ["a", "c", "a"]) == [0, 2]
    assert shared(tmp_path, ["a", "b"], ["c"]) == []
    assert shared(tmp_path, [], ["c"]) == []


RECIPE = """\
name: test
source: {path: train.jsonl}
models: {policy: {model: smollm2-135m-instruct}}
stages: [{kind: generate, model: policy}]
views: [{kind: sft}]
evaluation:
  source: {path: held.jsonl}
  model: policy
  judge: policy
"""


def checked(folder: Path, recipe: str, *overrides: str) -> None:
    (folder / "recipe.yaml").write_text(recipe)
    check_held_out(load(folder / "recipe.yaml", overrides))


def test_held_out_prompts_of_the_training_are_refused_with_count_example_and_remedy(
    tmp_path: Path,
) -> None:
    source(tmp_path, "train.jsonl", "Why is the sky  blue?", "b", "c")
    source(tmp_path, "held.jsonl", "x", "Why is the sky blue?", "c")
    with pytest.raises(RecipeError) as caught:
        checked(tmp_path, RECIPE)
    told = str(caught.value)
    assert "recipe.yaml:7 evaluation.source: 2 of its 3 prompts are also in the source that" in told
    assert "'Why is the sky blue?'" in told
    assert told.endswith("not held out; remove them from one of the two")
    checked(tmp_path, RECIPE, "source.limit=1", "evaluation.source.limit=1")


def test_made_problems_are_made_disjoint_by_the_remedy_that_the_message_gives(
    tmp_path: Path,
) -> None:
    small = "min_digits: 1, max_digits: 1, min_terms: 2, max_terms: 2"
    made = "{path: 'reasoning-gym:chain_sum', limit: 24, options: {seed: %d, SMALL}}"
    recipe = RECIPE.replace("{path: train.jsonl}", made % 1)
    recipe = recipe.replace("{path: held.jsonl}", made % 99).replace("SMALL", small)
    with pytest.raises(RecipeError, match="prompts are also in the source") as caught:
        checked(tmp_path, recipe)
    exclude = f"{{limit: 24, seed: 1, {small}}}"
    remedy = f"evaluation.source.options.exclude: {exclude}"
    assert str(caught.value).endswith(remedy)
    checked(tmp_path, recipe.replace("seed: 99", f"seed: 99, exclude: {exclude}"))
