"""docs/reference.md is made from the code."""

from __future__ import annotations

from factory.recipe.reference import reference
from factory.recipe.registry import STAGES
from factory.training import TRAINERS
from tests.conftest import ROOT


def test_the_page_is_current() -> None:
    written = (ROOT / "docs" / "reference.md").read_text()
    command = "python -m factory.recipe.reference > docs/reference.md"
    assert written == reference(), f"fields or their texts have changed; run: {command}"


def test_every_kind_is_on_it() -> None:
    made = reference()
    for kind in (*STAGES, *TRAINERS):
        assert f"kind: {kind}" in made
    assert "- `soft_labels` (bool, default `false`): The column `preference`" in made
