"""What pydantic finds wrong, in the words of who edits the file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, StringConstraints, field_validator

from factory.core.config import Config
from factory.core.errors import RecipeError
from factory.core.validation import validate
from factory.core.yamlfile import YamlFile


class Inner(Config):
    temperature: float = Field(1.0, ge=0, lt=10)
    tags: list[str] = Field([], max_length=2)


class Outer(Config):
    name: Annotated[str, StringConstraints(min_length=1, max_length=5, pattern="^[a-z]*$")]
    count: int = Field(1, ge=1, le=9)
    share: float = Field(0.5, gt=0)
    is_on: bool = False
    side: Literal["left", "right"] = "left"
    some: int | Literal["all"] = 1
    urls: str | list[str] = Field("x", min_length=1)
    inner: Inner = Inner()
    inners: list[Inner] = []
    maybe: Inner | None = None
    options: dict[str, Any] = {}

    @field_validator("side")
    @classmethod
    def _right_is_wrong(cls, side: str) -> str:
        if side == "right":
            raise ValueError("right is wrong")
        return side


def complaints(folder: Path, text: str) -> list[str]:
    path = folder / "x.yaml"
    path.write_text(text)
    file = YamlFile(path)
    with pytest.raises(RecipeError) as caught:
        validate(Outer, file, file.data)
    return str(caught.value).replace(f"{path}:", "").splitlines()


KNOWN = "(known: name, count, share, is_on, side, some, urls, inner, inners, maybe, options)"


@pytest.mark.parametrize(
    ("field", "complaint"),
    [
        ("count: two", "count: expected a whole number, found 'two'"),
        ("count: 2.5", "count: expected a whole number, found 2.5"),
        ("count: [2]", "count: expected a whole number, found a list of 1"),
        ("count:", "count: expected a whole number, found nothing"),
        ("count: 0", "count: expected 1 or more, found 0"),
        ("count: 10", "count: expected 9 or less, found 10"),
        ("share: 0", "share: expected more than 0, found 0"),
        ("share: much", "share: expected a number, found 'much'"),
        ("share: .nan", "share: expected a finite number, found nan"),
        ("is_on: maybe", "is_on: expected true or false, found 'maybe'"),
        ("is_on: {}", "is_on: expected true or false, found an empty mapping"),
        ("side: up", "side: expected 'left' or 'right', found 'up'"),
        ("side: Left", "side: expected 'left' or 'right', found 'Left'; did you mean 'left'?"),
        ("side: right", "side: right is wrong"),
        ("some: al", "some: expected a whole number or 'all', found 'al'; did you mean 'all'?"),
        ("some: 1.5", "some: expected a whole number or 'all', found 1.5"),
        ("urls: 80", "urls: expected text or a list, found 80; put it in quotes"),
        ("urls: []", "urls: expected at least one entry, found an empty list"),
        ("urls: [a, 80]", "urls[1]: expected text, found 80; put it in quotes"),
        ("urls: {a: b}", "urls: expected text or a list, found a mapping"),
        ("inner: 3", "inner: expected a mapping such as {temperature: ...}, found 3"),
        ("inner: {temperature: 10}", "inner.temperature: expected less than 10, found 10"),
        ("inner: {tags: a}", "inner.tags: expected a list, found 'a'"),
        ("inners: {}", "inners: expected a list, found an empty mapping"),
        (
            "inners: [{}, {tags: [no]}]",
            "inners[1].tags[0]: expected text, found false; put it in quotes",
        ),
        ("options: x", "options: expected a mapping, found 'x'"),
        (
            "inners: [{temprature: 1}]",
            "inners[0].temprature: unknown field; did you mean 'temperature'? "
            "(known: temperature, tags)",
        ),
        (
            "maybe: {tag: [a]}",
            "maybe.tag: unknown field; did you mean 'tags'? (known: temperature, tags)",
        ),
        ("coutn: 2", f"coutn: unknown field; did you mean 'count'? {KNOWN}"),
        (
            "temperature: 2",
            f"temperature: unknown field; did you mean 'inner.temperature'? {KNOWN}",
        ),
        ("zzz: 2", f"zzz: unknown field {KNOWN}"),
    ],
)
def test_one_mistake_is_one_line(tmp_path: Path, field: str, complaint: str) -> None:
    assert complaints(tmp_path, f"name: a\n{field}\n") == [f"2 {complaint}"]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("12", "expected text, found 12; put it in quotes"),
        ("1.0", "expected text, found 1.0; put it in quotes"),
        ("''", "expected some text, found ''"),
        ("abcdef", "expected at most 5 characters, found 'abcdef'"),
        ("A", "expected a text that matches ^[a-z]*$, found 'A'"),
    ],
)
def test_text(tmp_path: Path, name: str, complaint: str) -> None:
    assert complaints(tmp_path, f"name: {name}\n") == [f"1 name: {complaint}"]


def test_a_field_that_is_missing(tmp_path: Path) -> None:
    assert complaints(tmp_path, "count: 2\n") == ["1 name: this field is required"]


def test_a_mistyped_required_field_is_one_mistake(tmp_path: Path) -> None:
    assert complaints(tmp_path, "nmae: a\n") == [
        f"1 nmae: unknown field; did you mean 'name'? {KNOWN}"
    ]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    found = complaints(tmp_path, "name: a\ncount: 0\ninner:\n  tags: a\nzzz: 1\n")
    assert [line.split(":")[0] for line in found] == ["2 count", "4 inner.tags", "5 zzz"]


def test_a_kind_of_error_that_we_have_no_words_for_keeps_pydantics(tmp_path: Path) -> None:
    [found] = complaints(tmp_path, "name: a\ninner: {tags: [a, b, c]}\n")
    assert found.startswith("2 inner.tags: expected ")
    assert "3" in found
