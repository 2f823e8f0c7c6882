"""`factory init`: a folder of one's own, ready to run."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.cli.init import create
from factory.core.errors import FactoryError, RecipeError
from factory.recipe.load import load
from tests.conftest import ROOT


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_a_project_has_every_shipped_file_and_its_recipes_are_valid(tmp_path: Path) -> None:
    create(tmp_path / "deep" / "mine")
    made = tmp_path / "deep" / "mine"
    for name, kind in (("constitutions", "constitution"), ("pipelines", "recipe")):
        beside = f"{kind}.schema.json"
        assert files(made / name) == files(ROOT / name) | {Path(beside)}
        for path in (made / name).glob("*.yaml"):
            first, _, rest = path.read_text().partition("\n")
            assert first == f"# yaml-language-server: $schema={beside}"
            assert rest == (ROOT / name / path.name).read_text()
    for path in (made / "pipelines").glob("*.yaml"):
        used = load(path).constitution
        assert used is None or (used.path and made in used.path.resolve().parents)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    create(tmp_path)
    assert (tmp_path / "pipelines" / "quickstart.yaml").is_file()


def test_a_folder_with_anything_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RecipeError, match="is not empty; choose a new folder"):
        create(tmp_path)
    assert files(tmp_path) == {Path("mine.txt")}


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(RecipeError, match="mine is a file; choose a new folder"):
        create(tmp_path / "mine")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FactoryError, match=r"cannot write .*/file/mine/constitutions"):
        create(tmp_path / "file" / "mine")
