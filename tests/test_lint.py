"""What `factory constitution lint` must not take for a mistake, and `import` for a text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factory.core.errors import RecipeError
from factory.workbench.convert import convert
from factory.workbench.lint import lint
from tests.test_workbench import found, principle


def fields(folder: Path, compare: str, **more: object) -> list[str]:
    return [finding.message for finding in found(folder, principle("kind", compare, **more))]


@pytest.mark.parametrize(
    ("compare", "is_one"),
    [
        ("Is answer A kinder?", True),
        ("Which is kinder, (A) or (B)?", True),
        ("Is Response 2 kinder than the other?", True),
        ("Is the first one kinder?", True),
        ("Is The Latter Answer kinder?", True),
        ("Which answer a child could read is clearer?", False),
        ("Which answer is the option one would take?", False),
        ("Which answer has a better first sentence?", False),
    ],
)
def test_options_and_orders_are_named(tmp_path: Path, compare: str, is_one: bool) -> None:
    assert any("names an option" in said for said in fields(tmp_path, compare)) == is_one


def test_a_comparison_that_is_the_critique_is_an_error(tmp_path: Path) -> None:
    said = fields(tmp_path, "Where is it unkind?", critique="where is it unkind?")
    assert [message[:27] for message in said] == ["is the text of critique, wh"]


@pytest.mark.parametrize(
    ("better", "worse", "is_length"),
    [
        ("Yes.", "Yes, it is.", True),
        ("No, it does not. It cannot.", "No, it does not.", True),
        ("No.", "Nothing shows that it works.", False),
        ("Yes.", "Yesterday it rained.", False),
    ],
)
def test_answers_that_differ_by_length_alone(
    tmp_path: Path, better: str, worse: str, is_length: bool
) -> None:
    tests = [{"prompt": "Is it so?", "better": better, "worse": worse}]
    said = fields(tmp_path, "Which answer is kinder?", tests=tests)
    assert any("by length alone" in message for message in said) == is_length


def test_imported_texts_that_are_none_are_left_out_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(["be \0 kind", "x \ud800 y", "be kind", "a" * 3_000]))
    made = convert(path, "odd")
    assert made.skipped == [
        f"{path} [0]: the character U+0000 is no text; remove it",
        f"{path} [1]: the character U+D800 is no text; remove it",
    ]
    (tmp_path / "made.yaml").write_text(made.text)
    assert {f.severity for f in lint(tmp_path / "made.yaml")} == {"warning"}
    assert list(made.composed) == ["kind", "a" * 60]
    path.write_text(json.dumps(["\0"]))
    with pytest.raises(RecipeError, match=r"nothing in it is a principle \(.*U\+0000"):
        convert(path, "odd")
