"""README and docs: links lead somewhere, both languages show the same, and what they show loads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from factory.core import constitution
from factory.recipe.load import load
from tests.conftest import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(path: Path) -> list[tuple[str, str]]:
    """Language and text of each."""
    return _BLOCK.findall(path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """GitHub's names of the headings."""
    text = _BLOCK.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def targets(path: Path) -> list[str]:
    text = _BLOCK.sub("", path.read_text(encoding="utf-8"))
    inline = re.findall(r"\]\(([^)\s]+)\)", text)
    return inline + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in targets(path):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_the_first_page_is_short() -> None:
    for name in ("README.md", "README.zh.md"):
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 150, name


def test_both_languages_show_the_same() -> None:
    english, chinese = ROOT / "README.md", ROOT / "README.zh.md"
    assert blocks(english) == blocks(chinese)
    rest = [target for target in targets(english) if target != chinese.name]
    assert rest == [target for target in targets(chinese) if target != english.name]


def test_what_the_first_page_shows_of_the_demo_is_in_its_output() -> None:
    shown = next(text for _, text in blocks(ROOT / "README.md") if text.startswith("$ make demo"))
    whole = blocks(ROOT / "docs" / "demo.md")[0][1].splitlines()
    at = 0
    for line in shown.splitlines():
        if line != "[...]":
            at = whole.index(line, at) + 1


@pytest.mark.parametrize("page", ["README.md", "docs/recipes.md"])
def test_the_recipes_that_are_shown_are_valid(page: str, tmp_path: Path) -> None:
    shown = [text for _, text in blocks(ROOT / page) if text.startswith("name: ")]
    principles = [
        text for _, text in blocks(ROOT / "docs/constitutions.md") if "principles:" in text
    ]
    assert len(shown) == len(principles) == 1
    (tmp_path / "my-constitution.yaml").write_text(principles[0])
    assert constitution.load(tmp_path / "my-constitution.yaml").name == "kind"
    for name in ("my-prompts", "held-out"):
        fields = dict.fromkeys(("prompt", "question", "answer"), name)
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(fields))
    (tmp_path / "my-run.yaml").write_text(shown[0])
    assert load(tmp_path / "my-run.yaml").name == "my-run"


def test_the_stage_that_is_shown_is_one(tmp_path: Path) -> None:
    code = [text for _, text in blocks(ROOT / "docs/stages-and-scorers.md") if "(Stage)" in text]
    assert len(code) == 1
    (tmp_path / "my_stages.py").write_text(code[0])
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hello"}\n')
    (tmp_path / "r.yaml").write_text(
        "name: r\nsource: {path: prompts.jsonl}\nmodels: {policy: {model: smollm2-135m-instruct}}\n"
        "stages: [{kind: generate, model: policy}, "
        "{kind: 'my_stages:Translate', model: policy}]\n"
    )
    assert load(tmp_path / "r.yaml").stage_labels() == ["generate", "translate"]
