"""YAML as people write it: what it means, on which line it stands, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.core.errors import RecipeError
from factory.core.yamlfile import YamlFile, closest, describe, dotted, dump, missing_file, parse


def file(folder: Path, text: str | bytes) -> YamlFile:
    path = folder / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return YamlFile(path)


def complaint(folder: Path, text: str | bytes) -> str:
    with pytest.raises(RecipeError) as caught:
        file(folder, text)
    return str(caught.value).removeprefix(f"{folder}/")


# -- what it means ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("0.5", 0.5),
        ("1e-5", 1e-5),  # text in YAML 1.1, which nobody means
        ("1.0e-5", 1e-5),
        ("-2E+3", -2000.0),
        (".5e1", 5.0),
        ("e5", "e5"),
        ("1e", "1e"),
        ("true", True),
        ("no", False),
        ("null", None),
        ("", None),
        ("2026-01-31", "2026-01-31"),  # a date in YAML 1.1
        ("[1, a]", [1, "a"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("'4'", "4"),
    ],
)
def test_values(text: str, value: object) -> None:
    assert parse(text) == value
    assert type(parse(text)) is type(value)


@pytest.mark.parametrize(
    "value", ["1e-5", "4", "no", "2026-01-31", 1e-5, True, None, "a: b", "é\n- x", [{}], "- "]
)
def test_what_is_dumped_reads_as_it_was(value: object) -> None:
    assert parse(dump({"x": value})) == {"x": value}


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_text(tmp_path: Path) -> None:
    assert file(tmp_path, b"\xef\xbb\xbfa: |\r\n  b\r\n  c\r\n").data == {"a": "b\nc\n"}


def test_anchors_and_merges(tmp_path: Path) -> None:
    text = "a: &x {k: 1, m: 2}\nb:\n  <<: *x\n  m: 3\n"
    assert file(tmp_path, text).data["b"] == {"k": 1, "m": 3}


# -- where it stands ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loc", "place"),
    [
        (("a",), "1 a"),
        (("b",), "2 b"),
        (("b", 0), "3 b[0]"),
        (("b", 0, "d"), "4 b[0].d"),
        (("b", 1), "6 b[1]"),
        (("b", 1, "e", "f"), "6 b[1].e.f"),
        (("b", 1, "missing"), "6 b[1].missing"),
        (("b", 7, "e"), "2 b[7].e"),
        (("a", "deeper"), "1 a.deeper"),
        (("nowhere",), "1 nowhere"),
    ],
)
def test_an_error_names_the_line_of_the_field_or_of_its_nearest_parent(
    tmp_path: Path, loc: tuple[int | str, ...], place: str
) -> None:
    text = "a: 1\nb:\n- c: 1\n  d: |\n    long\n- {e: {f: 2}}\n"
    assert str(file(tmp_path, text).error(loc, "odd")) == f"{tmp_path}/x.yaml:{place}: odd"


def test_an_error_about_the_whole_file_names_no_field(tmp_path: Path) -> None:
    assert str(file(tmp_path, "a: 1").error((), "odd")) == f"{tmp_path}/x.yaml:1 odd"


def test_an_error_about_what_was_set_names_the_option(tmp_path: Path) -> None:
    found = file(tmp_path, "a: {b: 1, c: 2}\n")
    found.overridden(("a", "b"), "a.b=5")
    found.overridden(("new", "x"), "new.x=1")
    assert str(found.error(("a", "b"), "odd")) == "--set a.b=5: odd"
    assert str(found.error(("a", "b", "deeper"), "odd")) == "--set a.b=5: a.b.deeper: odd"
    assert str(found.error(("a", "c"), "odd")) == f"{tmp_path}/x.yaml:1 a.c: odd"
    assert str(found.error(("a",), "odd")) == f"{tmp_path}/x.yaml:1 a: odd"
    # A field that the file lacks, beside the one that --set made:
    assert str(found.error(("new", "y"), "odd")) == "--set new.x=1: new.y: odd"


def test_dotted() -> None:
    assert dotted(("stages", 2, "model")) == "stages[2].model"


# -- what is wrong with it ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "x.yaml:1 expected a mapping of fields, found nothing"),
        ("# only a comment\n", "x.yaml:1 expected a mapping of fields, found nothing"),
        ("- a\n", "x.yaml:1 expected a mapping of fields, found a list of 1"),
        ("hello", "x.yaml:1 expected a mapping of fields, found 'hello'"),
        ("a: 1\na: 2\n", "x.yaml:2 'a' is given twice; keep one"),
        ("a:\n  - {b: 1,\n     b: 2}\n", "x.yaml:3 'b' is given twice; keep one"),
        (
            "a: {b: 1\nc: 2\n",
            "x.yaml:2 is not YAML: while parsing a flow mapping that begins in line 1, "
            "expected ',' or '}', but got ':'",
        ),
        (
            "a: 1\nb 2\nc: 3\n",
            "x.yaml:3 is not YAML: while scanning a simple key that begins in line 2, "
            "could not find expected ':'; a field is written name: value",
        ),
        (
            "a:\n  - 1\n - 2\n",
            "x.yaml:3 is not YAML: while parsing a block mapping that begins in line 1, "
            "expected <block end>, but found '<block sequence start>'; check the indentation",
        ),
        (
            "a:\n\tb: 1\n",
            "x.yaml:2 is not YAML: found character '\\t' that cannot start any token; "
            "indent with spaces, not tabs",
        ),
        (
            "title: Foo: bar\n",
            "x.yaml:1 is not YAML: mapping values are not allowed here; "
            "check the indentation; a text with ': ' in it needs quotes",
        ),
        (
            "a: @b\n",
            "x.yaml:1 is not YAML: found character '@' that cannot start any token; "
            "a text that begins with it needs quotes",
        ),
        (
            "a: {{ b }}\n",
            "x.yaml:1 the name of a field must be plain text; "
            "a text that begins with '{' or '[' needs quotes",
        ),
        ("a: *b\n", "x.yaml:1 is not YAML: found undefined alias 'b'"),
        (
            "a: 1\n---\nb: 2\n",
            "x.yaml:2 is not YAML: expected a single document in the stream that begins in line 1, "
            "but found another document",
        ),
        ("a: 1\nb: \0\n", "x.yaml:2 is not YAML: the character U+0000 is not allowed"),
        ("a: &x [*x]\n", "x.yaml:1 is not YAML: it contains itself"),
        ("a: " + "[" * 3000, "x.yaml:1 is not YAML: nested deeper than 50 levels"),
        (b"a: 1\nb: caf\xe9\n", "x.yaml:2 is not UTF-8 text (byte 0xe9); save it as UTF-8"),
        ("a: 1\n".encode("utf-16"), "x.yaml:1 is not UTF-8 text (byte 0xff); save it as UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert complaint(tmp_path, text) == expected


def test_a_file_never_runs_code(tmp_path: Path) -> None:
    told = complaint(tmp_path, f"a: !!python/object/apply:os.mkdir [{tmp_path}/made]\n")
    assert told == "x.yaml:1 the tag !!python/object/apply:os.mkdir is not used here"
    assert not (tmp_path / "made").exists()


# -- names --------------------------------------------------------------------------------------


def test_the_nearest_name_is_found_in_any_case_of_letters() -> None:
    assert closest("Generat", ["generate", "revise"]) == "generate"
    assert closest("POLICY", ["Policy"]) == "Policy"
    assert closest("zzz", ["generate"]) == ""


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("pipelines/quickstrat.yaml", "pipelines/quickstart.yaml"),
        ("pipelines/quickstart.yml", "pipelines/quickstart.yaml"),
        ("quickstart.yaml", "pipelines/quickstart.yaml"),  # in a folder below
        ("quickstart", "pipelines/quickstart.yaml"),
        ("pipeline/quickstart.yaml", "pipelines/quickstart.yaml"),  # the folder is mistyped
        ("pipelines/constitutions/kind.yaml", "pipelines/../constitutions/kind.yaml"),
        ("pipelines/zzz.yaml", None),
        ("zzz/quickstart", "pipelines/quickstart.yaml"),
    ],
)
def test_a_missing_file_is_told_with_the_nearest_there_is(
    tmp_path: Path, name: str, near: str | None
) -> None:
    for there in ("pipelines/quickstart.yaml", "constitutions/kind.yaml"):
        (tmp_path / there).parent.mkdir()
        (tmp_path / there).touch()
    told = missing_file(tmp_path / name).replace(f"{tmp_path}/", "")
    assert told == f"{name}: no such file" + (f"; did you mean {near}?" if near else "")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a folder; name a file in it"):
        YamlFile(tmp_path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing"),
        (True, "true"),
        (1.5, "1.5"),
        ("x", "'x'"),
        ([], "an empty list"),
        ([1, 2], "a list of 2"),
        ({}, "an empty mapping"),
        ({"a": 1}, "a mapping"),
        ("x" * 100, "'" + "x" * 56 + "..."),
    ],
)
def test_a_value_in_a_few_words(value: object, words: str) -> None:
    assert describe(value) == words
