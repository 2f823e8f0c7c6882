"""`--set`: what it changes, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from factory.core.errors import RecipeError
from factory.core.override import override
from factory.core.yamlfile import Loc

DATA: dict[str, Any] = {"seed": 7, "stages": [{"n": 1}, {"n": 2}], "empty": None, "none": []}


def changed(text: str) -> tuple[dict[str, Any], Loc]:
    data = copy.deepcopy(DATA)
    return data, override(data, text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("4", 4),
        ("0.5", 0.5),
        ("1e-5", 1e-5),
        ("true", True),
        ("null", None),
        ("", None),
        ("[1, a]", [1, "a"]),
        ("{a: 1}", {"a": 1}),
        ("some text", "some text"),
        ("'4'", "4"),
        ("a=b", "a=b"),
        ("https://x.org:80/v1", "https://x.org:80/v1"),
    ],
)
def test_values_of_every_type(value: str, expected: object) -> None:
    data, loc = changed(f"stages.1.n={value}")
    assert data == {**DATA, "stages": [{"n": 1}, {"n": expected}]}
    assert type(data["stages"][1]["n"]) is type(expected)
    assert loc == ("stages", 1, "n")


def test_a_place_as_errors_write_it() -> None:
    assert changed("stages[1].n=4") == changed("stages.1.n=4")


def test_a_new_field() -> None:
    data, loc = changed("a.b.c=1")
    assert data == {**DATA, "a": {"b": {"c": 1}}}
    assert loc == ("a", "b", "c")


def test_a_field_of_nothing() -> None:
    assert changed("empty.x=1")[0]["empty"] == {"x": 1}


def test_one_past_the_end_of_a_list_adds_to_it() -> None:
    data, loc = changed("stages.2={n: 3}")
    assert data["stages"] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert loc == ("stages", 2)
    assert changed("none.0=1")[0]["none"] == [1]


def test_an_entry_is_replaced() -> None:
    assert changed("stages.0=x")[0]["stages"] == ["x", {"n": 2}]


FORM = "expected field=value, as stages.0.n=4"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("stages.0.n", FORM),
        ("stages.0.n: 4", FORM),
        ("=4", FORM),
        ("a..b=4", FORM),
        ("a.=4", FORM),
        ("", FORM),
        ("stages.3=x", "stages is a list; expected a position from 0 to 2, found '3'"),
        ("stages.2.n=x", "stages is a list; expected a position from 0 to 1, found '2'"),
        ("stages.-1.n=x", "stages is a list; expected a position from 0 to 1, found '-1'"),
        ("stages.n=x", "stages is a list; expected a position from 0 to 2, found 'n'"),
        ("none.0.n=x", "none is an empty list, which has no '0'"),
        ("seed.x=1", "seed is 7, which has no field 'x'"),
        ("seed=[1", "'[1' is not a YAML value: expected ',' or ']', but got '<stream end>'"),
        ("seed=@", "'@' is not a YAML value: found character '@' that cannot start any token"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, complaint: str) -> None:
    data = copy.deepcopy(DATA)
    with pytest.raises(RecipeError) as caught:
        override(data, text)
    assert str(caught.value) == f"--set {text}: {complaint}"
    assert data == DATA
