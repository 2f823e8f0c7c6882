"""A constitution: what a file of one must be, and which principles a sample is given."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from factory.core.constitution import Constitution, load
from factory.core.errors import RecipeError
from tests.conftest import CONSTITUTION

FILE = """\
name: kind
version: 1.0.0
principles:
  - id: kind-words
    title: Is kind
    critique: Say where your answer is unkind.
    revision: Rewrite it kindly.
    compare: Which answer is kinder?
  - id: plain-words
    title: Is plain
    critique: Say where your answer is hard to read.
    revision: Rewrite it plainly.
    compare: Which answer is plainer?
"""


def edited(folder: Path, old: str, new: str) -> Path:
    assert FILE.count(old) == 1
    path = folder / "kind.yaml"
    path.write_text(FILE.replace(old, new))
    return path


def principle(id: str, **fields: Any) -> dict[str, Any]:
    texts = dict.fromkeys(("title", "critique", "revision", "compare"), f"About {id}.")
    return {"id": id, **texts, **fields}


def constitution(*principles: dict[str, Any]) -> Constitution:
    return Constitution.model_validate({"name": "x", "version": "1", "principles": principles})


def drawn(c: Constitution, count: Any = 1, seed: int = 0, tags: tuple[str, ...] = ()) -> list[str]:
    return [p.id for p in c.choose(tags, count, seed)]


FIVE = constitution(*(principle(letter) for letter in "abcde"))


# -- loading ------------------------------------------------------------------------------------


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "kind.yaml"
    path.write_text(FILE)
    c = load(path)
    assert (c.name, c.version, c.description) == ("kind", "1.0.0", "")
    assert [p.id for p in c.principles] == ["kind-words", "plain-words"]
    assert c.principles[0].critique == "Say where your answer is unkind."
    assert (c.principles[0].weight, c.principles[0].applies_when) == (1.0, None)


def test_texts_lose_only_the_space_around_them(tmp_path: Path) -> None:
    path = edited(tmp_path, "Rewrite it kindly.", "|\n      Rewrite it.\n\n      {{ Kindly }}.\n\n")
    assert load(path).principles[0].revision == "Rewrite it.\n\n{{ Kindly }}."


PRINCIPLE_FIELDS = "(known: id, title, critique, revision, compare, weight, applies_when, tests)"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "critique: Say where your answer is unkind.",
            "critque: Say where your answer is unkind.",
            "6 principles[0].critque: unknown field; did you mean 'critique'? " + PRINCIPLE_FIELDS,
        ),
        (
            "    revision: Rewrite it kindly.\n",
            "",
            "4 principles[0].revision: this field is required",
        ),
        ("Rewrite it kindly.", "", "7 principles[0].revision: expected text, found nothing"),
        ("Rewrite it kindly.", "' '", "7 principles[0].revision: expected some text, found ' '"),
        ("Rewrite it kindly.", "[a]", "7 principles[0].revision: expected text, found a list of 1"),
        ("1.0.0", "1.0", "2 version: expected text, found 1.0; put it in quotes"),
        (
            "id: plain-words",
            "id: Plain words",
            "9 principles[1].id: expected a text that matches ^[a-z0-9][a-z0-9-]*$, "
            "found 'Plain words'",
        ),
        (
            "id: plain-words",
            "id: no",
            "9 principles[1].id: expected text, found false; put it in quotes",
        ),
        (
            "id: plain-words",
            "id: kind-words",
            "3 principles: [0] and [1] have the same id 'kind-words'; give one another",
        ),
        (
            "title: Is plain",
            "title: x\n    weight: 0",
            "11 principles[1].weight: expected more than 0, found 0",
        ),
        (
            "title: Is plain",
            "title: x\n    weight: high",
            "11 principles[1].weight: expected a number, found 'high'",
        ),
        (
            "title: Is plain",
            "title: x\n    applies_when: {tags: safety}",
            "11 principles[1].applies_when.tags: expected a list, found 'safety'",
        ),
        (
            "title: Is plain",
            "title: x\n    applies_when: {tags: []}",
            "11 principles[1].applies_when.tags: expected at least one entry, found an empty list",
        ),
        (
            "title: Is plain",
            "title: x\n    applies_when: safety",
            "11 principles[1].applies_when: expected a mapping such as {tags: ...}, found 'safety'",
        ),
        (
            "title: Is plain",
            "title: x\n    tests: [{prompt: a, better: b, wrose: c}]",
            "11 principles[1].tests[0].wrose: unknown field; did you mean 'worse'? "
            "(known: prompt, better, worse)",
        ),
        ("title: Is plain", "title: x\n    title: y", "11 'title' is given twice; keep one"),
        (
            "title: Is plain",
            "title: Plain: always",
            "10 is not YAML: mapping values are not allowed here; "
            "check the indentation; a text with ': ' in it needs quotes",
        ),
        (
            FILE[FILE.index("principles:") :],
            "principles: []\n",
            "3 principles: expected at least one entry, found an empty list",
        ),
        (
            FILE[FILE.index("principles:") :],
            "principles:\n",
            "3 principles: expected a list, found nothing",
        ),
        (FILE[FILE.index("principles:") :], "", "1 principles: this field is required"),
        (
            "name: kind",
            "nmae: kind",
            "1 nmae: unknown field; did you mean 'name'? "
            "(known: name, version, description, principles, examples)",
        ),
        (FILE, "", "1 expected a mapping of fields, found nothing"),
        (FILE, "- just\n- a list\n", "1 expected a mapping of fields, found a list of 2"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_field(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    path = edited(tmp_path, old, new)
    with pytest.raises(RecipeError) as caught:
        load(path)
    assert str(caught.value) == f"{path}:{complaint}"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = edited(tmp_path, "title: Is kind", "titel: Is kind")
    path.write_text(path.read_text().replace("1.0.0", "1"))
    with pytest.raises(RecipeError) as caught:
        load(path)
    lines = [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]
    assert [line.split(":")[0] for line in lines] == ["2 version", "5 principles[0].titel"]


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "kind.yaml"
    path.write_bytes(FILE.replace("Is kind", "Is ké").encode("latin-1"))
    with pytest.raises(RecipeError, match=r"kind\.yaml:5 is not UTF-8 text \(byte 0xe9\)"):
        load(path)


def test_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "kind.yaml").write_text(FILE)
    with pytest.raises(RecipeError, match=r"kin\.yaml: no such file; did you mean .*/kind\.yaml\?"):
        load(tmp_path / "kin.yaml")


# -- choosing -----------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_principles() -> None:
    assert all(drawn(FIVE, 2, seed) == drawn(FIVE, 2, seed) for seed in range(20))


def test_each_principle_is_drawn_by_some_seed() -> None:
    assert {drawn(FIVE, seed=seed)[0] for seed in range(100)} == set("abcde")


def test_all_are_given_in_the_order_of_the_file() -> None:
    assert drawn(FIVE, "all", seed=3) == list("abcde")


def test_several_are_different_ones() -> None:
    draws = [drawn(FIVE, 3, seed) for seed in range(50)]
    assert all(len(set(draw)) == 3 for draw in draws)
    assert len({tuple(draw) for draw in draws}) > 20


def test_fewer_draws_are_the_first_of_more() -> None:
    assert all(drawn(FIVE, 3, seed)[:1] == drawn(FIVE, 1, seed) for seed in range(50))


def test_more_than_there_are_gives_all() -> None:
    assert sorted(drawn(FIVE, 9)) == list("abcde")


def test_rounds_may_draw_the_same_principle_again() -> None:
    """A round is a seed of its own, so by chance 1 in 5 of them repeat the one before."""
    rounds = [drawn(FIVE, seed=seed)[0] for seed in range(1000)]
    repeats = sum(a == b for a, b in pairwise(rounds))
    assert 150 < repeats < 250


def test_a_principle_of_weight_3_is_drawn_three_times_as_often_as_one_of_1() -> None:
    c = constitution(principle("heavy", weight=3), principle("light"))
    share = sum(drawn(c, seed=seed) == ["heavy"] for seed in range(4000)) / 4000
    assert share == pytest.approx(0.75, abs=0.02)  # 3 standard errors


def test_weights_only_matter_relative_to_each_other() -> None:
    small = constitution(principle("a", weight=0.5), principle("b", weight=1), principle("c"))
    large = constitution(
        principle("a", weight=50), principle("b", weight=100), principle("c", weight=100)
    )
    assert all(drawn(small, 3, seed) == drawn(large, 3, seed) for seed in range(200))


def test_the_second_draw_follows_the_weights_that_are_left() -> None:
    """Of 6, 3 and 1: given that the first was drawn, the second follows with 3 / (3 + 1)."""
    c = constitution(
        principle("six", weight=6), principle("three", weight=3), principle("one", weight=1)
    )
    pairs = Counter(tuple(drawn(c, 2, seed)) for seed in range(10_000))
    assert (pairs["six", "three"] + pairs["six", "one"]) / 10_000 == pytest.approx(0.6, abs=0.02)
    of_six = pairs["six", "three"] / (pairs["six", "three"] + pairs["six", "one"])
    assert of_six == pytest.approx(0.75, abs=0.02)


def test_a_principle_applies_to_samples_with_one_of_its_tags() -> None:
    c = constitution(
        principle("always"),
        principle("safe", applies_when={"tags": ["safety", "medicine"]}),
        principle("maths", applies_when={"tags": ["maths"]}),
    )
    assert drawn(c, "all") == ["always"]
    assert drawn(c, "all", tags=("medicine", "cooking")) == ["always", "safe"]
    assert drawn(c, 9, tags=("maths",)) in (["always", "maths"], ["maths", "always"])
    assert {drawn(c, seed=s, tags=("maths",))[0] for s in range(50)} == {"always", "maths"}


def test_where_no_principle_applies_none_is_drawn() -> None:
    c = constitution(principle("maths", applies_when={"tags": ["maths"]}))
    assert drawn(c, 1) == drawn(c, "all") == []


def test_editing_texts_and_reordering_change_no_draw() -> None:
    other = constitution(
        *(principle(letter, title="New", critique="New.", compare="New?") for letter in "ecadb")
    )
    assert all(drawn(FIVE, 2, seed) == drawn(other, 2, seed) for seed in range(200))


def test_a_new_principle_changes_only_the_draws_that_it_wins() -> None:
    more = constitution(*(principle(letter) for letter in "abcdef"))
    pairs = [(drawn(FIVE, seed=seed), drawn(more, seed=seed)) for seed in range(600)]
    assert all(new in (old, ["f"]) for old, new in pairs)
    assert sum(new == ["f"] for _, new in pairs) / 600 == pytest.approx(1 / 6, abs=0.05)


# -- digest -------------------------------------------------------------------------------------


def test_the_digest_is_of_the_content_and_not_of_how_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "kind.yaml"
    path.write_text(FILE)
    first = load(path).digest()
    path.write_text("# a comment\n" + FILE.replace("Is kind", "'Is kind'"))
    assert load(path).digest() == first
    assert len(first) == 16


def test_the_digest_changes_with_every_text() -> None:
    base = copy.deepcopy(CONSTITUTION)
    base["principles"][0]["tests"] = [{"prompt": "a", "better": "b", "worse": "c"}]  # type: ignore[index]
    base["description"] = "Kind answers."
    text = yaml.safe_dump(base)
    digests = {Constitution.model_validate(base).digest()}
    places = list(_texts(base))
    for holder, key in places:
        was = holder[key]
        holder[key] = f"{was}x"
        digests.add(Constitution.model_validate(base).digest())
        holder[key] = was
    assert yaml.safe_dump(base) == text
    assert len(places) == 3 + 2 * 5 + 3 + 4
    assert len(digests) == len(places) + 1


def _texts(node: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of every text in the data."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    found: list[tuple[Any, Any]] = []
    for key, value in pairs:
        found += [(node, key)] if isinstance(value, str) else _texts(value)
    return found
