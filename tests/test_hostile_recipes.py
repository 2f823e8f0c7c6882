"""Whatever is written into a recipe, what comes back is one message, and soon.

`python -m benchmarks.hostile_recipes` tries as many as you like.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.hostile_recipes import CONSTITUTION, EVERYTHING, bombs, case, outcome
from factory.core.errors import RecipeError
from factory.core.yamlfile import YamlFile
from factory.stages.base import template_problem

PATIENCE = 10.0  # seconds: a busy machine is no hang


def test_the_recipe_that_the_cases_are_made_of_loads(tmp_path: Path) -> None:
    assert outcome(tmp_path, EVERYTHING, CONSTITUTION, [], PATIENCE) == "loads"


@pytest.mark.parametrize("what", list(bombs()))
def test_a_file_that_grows_when_it_is_read_is_refused(tmp_path: Path, what: str) -> None:
    assert outcome(tmp_path, bombs()[what], CONSTITUTION, [], PATIENCE) == "refused"


def test_generated_recipes_load_or_are_refused(tmp_path: Path) -> None:
    ended = {seed: outcome(tmp_path, *case(seed), PATIENCE) for seed in range(20_000, 20_100)}
    assert {seed: said for seed, said in ended.items() if said not in ("loads", "refused")} == {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("!!int abc", "'abc' is not a whole number"),
        ("0x_", "'0x_' is not a whole number"),
        ("!!float x", "'x' is not a number"),
        ("!!bool maybe", "'maybe' is not true or false"),
        ("!!timestamp x", "the tag !!timestamp is not used here"),
        ("!!binary eA==", "the tag !!binary is not used here"),
        ("!mine x", "the tag !mine is not used here; a text that begins with '!' needs quotes"),
        ("=", "a text that is only '=' needs quotes"),
        (
            "123456789012345678901234567890",
            "this number is too large: whole numbers go up to 2**63 - 1",
        ),
        ("9" * 5000, "a number of 5,000 digits is too large"),
        (
            '"\\U00110000"',
            "is not YAML: found an escape of a character that does not exist",
        ),
        ('"\\ud800"', "the character U+D800 is not allowed"),
        ('"a\\0b"', "the character U+0000 is not allowed"),
    ],
)
def test_a_value_that_is_none_is_refused_with_its_line(
    tmp_path: Path, value: str, expected: str
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"a: 1\nb: {value}\n")
    with pytest.raises(RecipeError) as caught:
        YamlFile(path)
    assert str(caught.value) == f"{path}:2 {expected}"


def test_a_time_of_day_is_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 12:30\nb: 1:2:3.5\n")
    assert YamlFile(path).data == {"a": "12:30", "b": "1:2:3.5"}


def test_aliases_count_for_all_they_stand_for(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &a [1, 2]\nb: [*a, *a]\n")
    assert YamlFile(path).data["b"] == [[1, 2], [1, 2]]
    path.write_text("a: &a [" + "1, " * 300 + "1]\nb: [" + "*a, " * 100 + "*a]\n")
    with pytest.raises(RecipeError, match=r"more than 20,000 values, with what its aliases stand"):
        YamlFile(path)


def test_a_device_or_a_pipe_is_no_recipe(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(RecipeError, match=r"is a pipe or a device; name a file"):
            YamlFile(path)


def test_many_errors_are_cut_to_twenty(tmp_path: Path) -> None:
    text = EVERYTHING.replace("views:", "  - {kind: nothing}\n" * 50 + "views:")
    (tmp_path / "recipe.yaml").write_text(text)
    (tmp_path / "constitution.yaml").write_text(CONSTITUTION)
    from factory.recipe.load import load

    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "recipe.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and 30 more errors"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stages.0.n=100000000000", "expected 10000 or less, found 100000000000"),
        ("source.limit=true", "expected a number, found true"),
        ("seed=false", "expected a number, found false"),
        ("part_size=yes", "expected a number, found true"),
        ("stages.0.sampling.temperature=true", "expected a number, found true"),
    ],
)
def test_counts_have_an_end_and_truth_is_no_number(
    tmp_path: Path, override: str, told: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(EVERYTHING)
    (tmp_path / "constitution.yaml").write_text(CONSTITUTION)
    (tmp_path / "prompts.jsonl").write_text('{"question": "Hi?", "prompt": "Hi?"}\n')
    from factory.recipe.load import load

    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "recipe.yaml", [override])
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://h/v1?key=SECRET", "http://u:SECRET@h/v1", "https://h/#SECRET"]
)
def test_a_key_in_a_url_that_was_set_is_not_shown(tmp_path: Path, url: str) -> None:
    (tmp_path / "recipe.yaml").write_text(EVERYTHING)
    (tmp_path / "constitution.yaml").write_text(CONSTITUTION)
    from factory.recipe.load import load

    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "recipe.yaml", [f"models.far.base_url={url}"])
    assert "SECRET" not in str(caught.value)
    assert "--set models.far.base_url=" in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 9**9**9**9 }}",
        "{{ 'a' * 10**10 }}",
        "{{ [1] * 10000000000 }}",
        "{{ '%99999999999s' % 1 }}",
        "{{ '{:99999999999}'.format(1) }}",
        "{{ 'a'.ljust(99999999999) }}",
        "{{ 'a' | center(99999999999) }}",
        "{{ lipsum(n=1000000) }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ ().__class__ }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_can_neither_fill_the_memory_nor_run_for_ever(template: str) -> None:
    assert (template_problem(template) or ("", ""))[1].startswith("the template does not render: ")


def test_a_template_can_do_what_texts_need() -> None:
    template = (
        "{% for p in principles[:3] %}{{ loop.index }}. {{ p | upper }} {{ 2 * 3 }} {{ 7 % 4 }}"
        "{% endfor %}{{ '%d' | format(3) }}"
    )
    assert template_problem(template, principles=["a", "b"]) is None
