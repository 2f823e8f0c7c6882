"""The workbench: a constitution linted, tested, shown and imported."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from typer.testing import CliRunner

from factory.cli.main import app
from factory.core.constitution import Constitution, load
from factory.core.errors import RecipeError
from factory.core.records import Candidate, Reading, Sample, Verdict
from factory.engines.base import Completion, Request
from factory.pipeline.progress import Progress
from factory.pipeline.traces import write_part
from factory.recipe.named_constitution import find
from factory.recipe.recipe import Recipe
from factory.workbench.contexts import Context
from factory.workbench.convert import convert
from factory.workbench.lint import Finding, lint
from factory.workbench.tests import (
    Report,
    Result,
    judge_of_model,
    judge_of_recipe,
    junit,
    run_tests,
)
from tests.conftest import ROOT
from tests.fakes import FakeEngine, labeled

SHIPPED = sorted((ROOT / "constitutions").glob("*.yaml"))
EQUAL = [
    {"prompt": "Hi?", "better": "Hello, my dear friend.", "worse": "Go away, you fool."},
    {"prompt": "Ho?", "better": "So nice to meet you.", "worse": "You are so very dull."},
]


def principle(id: str, compare: str, **fields: Any) -> dict[str, Any]:
    texts = {"title": f"Is {id}", "critique": f"Where is {id} broken?", "revision": f"Mend {id}!"}
    return {"id": id, **texts, "compare": compare, "tests": EQUAL, **fields}


def written(folder: Path, *principles: dict[str, Any]) -> Path:
    path = folder / "c.yaml"
    data = {"name": "c", "version": "1", "principles": list(principles)}
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def found(folder: Path, *principles: dict[str, Any], **options: Any) -> list[Finding]:
    return lint(written(folder, *principles), **options)


KIND = principle("kind", "Which answer is kinder to the reader?")
PLAIN = principle("plain", "Which text has plainer words?")


# -- lint ---------------------------------------------------------------------------------------


def test_nothing_is_found_in_a_good_file(tmp_path: Path) -> None:
    assert found(tmp_path, KIND, PLAIN) == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_nothing_is_found_in_a_shipped_constitution(path: Path) -> None:
    assert lint(path) == []


@pytest.mark.parametrize(
    ("changed", "severity", "field", "said"),
    [
        ({"compare": "Is Answer A kinder?"}, "error", "compare", "'Answer A' names an option"),
        ({"compare": "Is the first response ok?"}, "error", "compare", "'first response' names"),
        ({"compare": "Say (A) if it is kind."}, "error", "compare", "'(A)' names an option"),
        ({"compare": "Which text has plainer  WORDS?"}, "error", "compare", "asks the same as"),
        (
            {"compare": "Which text has plainer words, too?"},
            "warning",
            "compare",
            "nearly the same",
        ),
        ({"critique": "Where is plain broken?"}, "warning", "critique", "nearly the same as that"),
        ({"tests": []}, "warning", "", "'other' has no tests"),
        ({"tests": EQUAL[:1]}, "warning", "tests", "'other' has one test"),
        (
            {"tests": [*EQUAL, {"prompt": "x", "better": "Same text.", "worse": "same  text."}]},
            "error",
            "tests[2]",
            "are the same text",
        ),
        (
            {
                "tests": [
                    *EQUAL,
                    {"prompt": "x", "better": "Go home.", "worse": "Go home. Now eat."},
                ]
            },
            "warning",
            "tests[2]",
            "differ by length alone",
        ),
        (
            {"tests": [{"prompt": "x", "better": f"{n} b c d", "worse": "e f"} for n in "12"]},
            "warning",
            "tests",
            "better is the longer answer in all 2 tests",
        ),
        (
            {"tests": [{"prompt": "x", "worse": f"{n} b c d", "better": "e f"} for n in "12"]},
            "warning",
            "tests",
            "better is the shorter answer in all 2 tests",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    tmp_path: Path, changed: dict[str, Any], severity: str, field: str, said: str
) -> None:
    other = principle("other", "What is the more helpful text?") | changed
    [only] = found(tmp_path, PLAIN, other)
    assert (only.severity, only.field) == (severity, f"principles[1].{field}".rstrip("."))
    assert said in only.message
    line = (tmp_path / "c.yaml").read_text().splitlines()[only.line - 1].lstrip(" -")
    last = field.partition("[")[0] or "id"
    assert line.startswith("prompt" if "[" in field else last)


def test_opposite_questions_are_told(tmp_path: Path) -> None:
    long, short = (principle(w, f"Which answer is {w}?") for w in ("longer", "shorter"))
    [only] = found(tmp_path, long, short)
    assert "asks the opposite of 'longer'" in only.message


def test_errors_of_the_form_keep_their_line_and_field(tmp_path: Path) -> None:
    path = written(tmp_path, KIND)
    path.write_text(path.read_text().replace("title:", "titel:"))
    [only] = lint(path)
    assert (only.severity, only.line, only.field) == ("error", 5, "principles[0].titel")
    assert only.message.startswith("unknown field; did you mean 'title'?")


def run_with(folder: Path, sides: list[tuple[float, float]]) -> Path:
    """A run in which kind and plain gave these probabilities, in both orders."""
    answers = [Candidate(i, text, "generate", "m", "") for i, text in enumerate("xy")]
    samples = [
        Sample(
            id=str(i),
            index=i,
            prompt=[{"role": "user", "content": "?"}],
            candidates=answers,
            verdicts=[
                Verdict(
                    *("judge", 0, 1, 0.5, 0.0, True, 1.0, ["kind", "plain"]),
                    readings=[
                        Reading(name, is_swapped, p, 1.0, "")
                        for name, p in (("kind", kind), ("plain", plain))
                        for is_swapped in (False, True)
                    ],
                )
            ],
        )
        for i, (kind, plain) in enumerate(sides)
    ]
    write_part(folder / "run", 0, samples)
    return folder / "run"


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        ([(0.9, 0.7)] * 20, "'plain' never differs from 'kind' (20 comparisons by both)"),
        ([(0.9, 0.3)] * 20, "'plain' always opposes 'kind' (20 comparisons by both)"),
        ([(0.9, 0.7)] * 19, ""),
        ([(0.9, 0.7)] * 19 + [(0.2, 0.7)], ""),
    ],
)
def test_a_run_tells_principles_that_never_differ(
    tmp_path: Path, sides: list[tuple[float, float]], said: str
) -> None:
    messages = [f.message for f in found(tmp_path, KIND, PLAIN, run=run_with(tmp_path, sides))]
    assert len(messages) == bool(said)
    assert all(said in message for message in messages)


def test_a_text_longer_than_the_context_is_an_error(tmp_path: Path) -> None:
    long = principle("long", "Which text is of more use?", critique="word " * 120)
    context = Context("m", 100, lambda text: len(text.split()))
    [only] = found(tmp_path, KIND, long, context=context)
    assert (only.severity, only.field) == ("error", "principles[1].critique")
    assert "is 120 tokens or more, and m reads 100" in only.message


# -- finding ------------------------------------------------------------------------------------


def test_a_shipped_name_and_a_file_are_found(tmp_path: Path) -> None:
    shipped = ROOT / "constitutions" / "concise.yaml"
    assert find("concise", tmp_path) == find("concise.yaml", tmp_path) == shipped
    assert find("c.yaml", written(tmp_path, KIND).parent) == tmp_path / "c.yaml"
    with pytest.raises(RecipeError, match=r"concis: no such file.*shipped: careful-math, concise"):
        find("concis", tmp_path)


# -- test ---------------------------------------------------------------------------------------


class Reader(FakeEngine):
    """Prefers the answer that holds the word `good`, whichever is A; without it, A."""

    async def generate(self, request: Request) -> Completion:
        self.seen.append(request)
        asked = request.messages[-1]["content"]
        first, second = asked.partition("Answer (B):")[::2]
        if "odd" in asked:
            return labeled(A=0.001, B=0.001)
        likes_second = "good" in second and "good" not in first
        return labeled(A=0.2, B=0.8) if likes_second else labeled(A=0.8, B=0.2)


def asked(made: Constitution, folder: Path, engine: FakeEngine, **options: Any) -> Report:
    work = run_tests(
        made,
        judge_of_model("smollm2-135m-instruct"),
        folder / "ledger.sqlite",
        engines={"judge": engine},
        progress=Progress(is_quiet=True),
        **options,
    )
    return asyncio.run(work)


def with_tests(*answers: tuple[str, str], tags: bool = False) -> Constitution:
    tests = [{"prompt": "Q?", "better": b, "worse": w} for b, w in answers]
    one = principle("kind", "Which answer is kinder?", tests=tests)
    if tags:
        one["applies_when"] = {"tags": ["math"]}
    data = {"name": "c", "version": "1", "principles": [one, {**PLAIN, "tests": []}]}
    return Constitution.model_validate(data)


def test_a_test_is_judged_in_both_orders_by_its_own_principle(tmp_path: Path) -> None:
    made = with_tests(
        ("good one", "x"), ("y", "good two"), ("neither", "of them"), ("odd", "z"), tags=True
    )
    engine = Reader()
    report = asked(made, tmp_path, engine)
    assert [(t.outcome, t.p) for t in report.tests] == [
        ("passed", 0.8), ("failed", 0.2), ("order", 0.5), ("unparsed", None),
    ]  # fmt: skip
    assert report.passed == 0.25
    assert len(engine.seen) == report.calls == 8
    assert all("Which answer is kinder?" in r.messages[-1]["content"] for r in engine.seen)
    assert {r.labels for r in engine.seen} == {("A", "B")}


def test_only_tests_that_an_edit_touched_are_asked_again(tmp_path: Path) -> None:
    asked(with_tests(("good", "x"), ("good", "y")), tmp_path, Reader())
    engine = Reader()
    assert asked(with_tests(("good", "x"), ("good", "y")), tmp_path, engine).calls == 0
    assert asked(with_tests(("good", "x"), ("good", "why")), tmp_path, engine).calls == 2
    assert len(engine.seen) == 2


def test_a_pattern_chooses_tests(tmp_path: Path) -> None:
    made = with_tests(("good", "x"), ("good", "y"))
    report = asked(made, tmp_path, Reader(), pattern="kind[1]")
    assert [t.test for t in report.tests] == ["1"]
    with pytest.raises(RecipeError, match="no test matches -k 'cruel'"):
        asked(made, tmp_path, Reader(), pattern="cruel")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_tests_can_be_asked(path: Path, tmp_path: Path) -> None:
    made = load(path)
    report = asked(made, tmp_path, FakeEngine())
    assert len(report.tests) == sum(len(p.tests) for p in made.principles)
    assert all(t.outcome in ("passed", "failed", "order") for t in report.tests)


def test_a_recipes_judge_is_asked_with_its_options(recipe: Callable[..., Recipe]) -> None:
    path = recipe().path
    judge = judge_of_recipe(path, "policy")
    assert (judge.config, judge.stage.principles) == (recipe().models["policy"], 2)
    with pytest.raises(RecipeError, match=r"has no model of that name \(have: policy\)"):
        judge_of_recipe(path, "judge")


def test_junit_names_what_failed_and_why() -> None:
    tests = [
        Result("kind", "0", "Q?", "passed", 0.9),
        Result("kind", "1", "Q <b>\x1b?", "order", 0.5),
    ]
    root = ElementTree.fromstring(junit(Report("c", "1", "m", tests, 4)).encode())
    [suite] = root
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    first, second = suite
    assert (first.get("name"), len(first)) == ("kind[0]", 0)
    assert second[0].get("type") == "order"
    assert second[0].text == "Q <b>\\x1b?"


# -- import -------------------------------------------------------------------------------------


def imported(folder: Path, name: str, text: str) -> tuple[Constitution, dict[str, list[str]]]:
    (folder / name).write_text(text)
    made = convert(folder / name, "mine")
    (folder / "mine.yaml").write_text(made.text)
    assert [f for f in lint(folder / "mine.yaml") if f.severity == "error"] == []
    return load(folder / "mine.yaml"), made.composed


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps({"constitutions": [{"critic": "Is it rude?", "revision": "Mend."}]})),
        ("b.json", json.dumps([{"critique_request": "Is it rude?", "revision_request": "Mend."}])),
        (
            "c.json",
            json.dumps({"x": {"critique_requests": ["Is it rude?", "2"], "revision_requests": ["Mend."]}}),
        ),
        ("d.jsonl", json.dumps({"critique": "Is it rude?", "revision": "Mend."}) + "\n\n"),
    ],
)  # fmt: skip
def test_critiques_and_revisions_are_read_and_the_comparison_composed(
    tmp_path: Path, name: str, text: str
) -> None:
    made, composed = imported(tmp_path, name, text)
    [only] = made.principles
    assert (only.critique, only.revision) == ("Is it rude?", "Mend.")
    assert only.compare == 'Which answer gives a critic less to say who is asked: "Is it rude?"?'
    assert composed == {only.id: ["compare"]}


def test_comparisons_and_prose_are_told_apart_and_ids_are_unique(tmp_path: Path) -> None:
    text = "# Rules\n\n- Be honest.\n- The answer is honest.\n1. Which of these answers is kinder?\n\nBye.\n"
    made, composed = imported(tmp_path, "p.md", text)
    assert [p.id for p in made.principles] == ["honest", "honest-2", "kinder"]
    assert made.principles[2].compare == "Which of these answers is kinder?"
    assert list(composed.values()) == [
        ["critique", "revision", "compare"], ["critique", "revision", "compare"],
        ["critique", "revision"],
    ]  # fmt: skip


def test_what_holds_no_principle_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(["Be kind.", {"colour": "red"}, 3]))
    made = convert(path, "x")
    assert made.principles == 1
    assert [each.partition(":")[0].removeprefix(f"{path} ") for each in made.skipped] == [
        "[1]",
        "[2]",
    ]
    path.write_text("[3]")
    with pytest.raises(RecipeError, match="nothing in it is a principle"):
        convert(path, "x")
    path.write_text("{")
    with pytest.raises(RecipeError, match="is not JSON"):
        convert(path, "x")


def test_the_commands_end_with_codes_that_ci_reads(tmp_path: Path) -> None:
    def code(*arguments: object) -> int:
        return CliRunner().invoke(app, ["constitution", *map(str, arguments)]).exit_code

    (tmp_path / "p.txt").write_text("Be kind.\nBe honest.\n")
    made = tmp_path / "made.yaml"
    assert code("import", tmp_path / "p.txt", "--out", made) == 0
    before = made.read_text()
    (tmp_path / "p.txt").write_text("Be brief.\n")
    assert code("import", tmp_path / "p.txt", "--out", made) == 1  # raised: it exists
    assert made.read_text() == before
    assert code("import", tmp_path / "p.txt", "--out", made, "--force") == 0
    assert "Be brief." in made.read_text()
    assert (code("lint", made), code("lint", made, "--strict")) == (0, 1)
    made.write_text(made.read_text().replace("Which answer", "Which (A)"))
    assert code("lint", made) == 1
    assert (
        "Puts the answer first"
        in CliRunner().invoke(app, ["constitution", "show", "concise"]).output
    )
