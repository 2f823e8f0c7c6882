"""A diff of a run: what is asked again, what is remembered, and what stays as it was."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from factory.cli.main import main
from factory.core.errors import FactoryError, RecipeError, TooManyFailures
from factory.core.lock import alone_in, undisturbed
from factory.engines.vllm import VllmConfig, VllmEngine
from factory.pipeline import manifest as manifests
from factory.pipeline.progress import Progress
from factory.pipeline.run import run_async
from factory.pipeline.traces import read_samples
from factory.recipe.load import load
from factory.workbench import rerun, sides
from factory.workbench.ledgers import Layered, Scratch
from factory.workbench.rerun import Diff, DryRun
from tests.conftest import CONSTITUTION, RECIPE
from tests.fakes import FakeEngine, said

QUIET = Progress(is_quiet=True)
Edit = Callable[..., Path]


def fake(**options: Any) -> FakeEngine:
    """Its answers are remembered as those of the recipe's engine."""
    return FakeEngine(name=fingerprint(), **options)


@functools.cache
def fingerprint() -> str:
    config = VllmConfig.model_validate({"engine": "vllm", **RECIPE["models"]["policy"]})  # type: ignore[index]
    return VllmEngine(config, judges=True).fingerprint


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the project's recipe, whose revisions are judged by one principle each."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "kind.yaml").write_text(yaml.safe_dump(CONSTITUTION, sort_keys=False))
    rows = [{"id": f"p{i}", "prompt": f"Tell me about {i} cats."} for i in range(12)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    recipe = load(folder / "recipe.yaml", ["stages.3.principles=same"])
    work = run_async(recipe, folder / "run", engines={"policy": fake()}, progress=QUIET)
    asyncio.run(work)
    return folder / "run"


@pytest.fixture
def run(made_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_once, tmp_path / "runs" / "it"))


@pytest.fixture
def edit(tmp_path: Path) -> Edit:
    """Writes the constitution with other texts for the principle `plain-words`."""

    def written(name: str = "edited.yaml", **texts: str) -> Path:
        kind, plain = CONSTITUTION["principles"]  # type: ignore[misc]
        data = {**CONSTITUTION, "principles": [kind, {**plain, **texts}]}  # type: ignore[dict-item]
        path = tmp_path / name
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path

    return written


def diff(run: Path, new: Path, old: Path | None = None, **options: Any) -> tuple[Diff, FakeEngine]:
    engine = fake()
    both = sides.by_constitution(run, old, new)
    engines = {"policy": engine}
    return rerun.diff(run, both, engines=engines, progress=QUIET, **options), engine


def dry(run: Path, both: rerun.Sides, engine: FakeEngine) -> DryRun:
    return rerun.dry_run(run, both, engines={"policy": engine}, progress=QUIET)


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def plain(run: Path) -> set[str]:
    """Samples that drew the principle `plain-words`."""
    return {
        s.id
        for s in read_samples(run)
        if any("plain-words" in c.principle_ids for c in s.critiques)
    }


def test_only_what_the_edit_touches_is_asked_again(run: Path, edit: Edit) -> None:
    before = contents(run)
    made, engine = diff(run, edit(compare="Which answer has shorter words?"))
    touched = plain(run)
    assert 0 < len(touched) < 12
    old, new = made.costs
    assert (old.made, old.remembered) == (0, 0)
    assert new.calls == {"judge": 4 * len(touched)}  # two revisions, each in both orders
    assert all("shorter words" in request.messages[-1]["content"] for request in engine.seen)
    assert new.asked == made.difference.touched == len(touched)
    assert {moved.id for moved in made.difference.moved} <= touched
    assert new.remembered == 12 * 10 - new.made
    assert new.output_tokens == new.made
    assert [(e.where, e.field) for e in made.edits] == [("principle plain-words", "compare")]
    assert contents(run) == before


def test_an_edited_critique_changes_revisions_and_their_verdicts(run: Path, edit: Edit) -> None:
    made, _ = diff(run, edit(critique="Name long words."))
    n = len(plain(run))
    assert made.costs[1].calls == {"critique": 2 * n, "revise": 2 * n, "judge": 4 * n}
    found = made.difference
    assert {each.id for each in found.rewritten} == plain(run)
    assert all(each.origin == "revise" for each in found.rewritten)
    assert found.judges[0].on_same_answers == 2 * (12 - n)


def test_a_second_diff_makes_no_call(run: Path, edit: Edit) -> None:
    new = edit(critique="Name long words.")
    first, _ = diff(run, new)
    second, engine = diff(run, new)
    assert engine.seen == []
    assert second.costs[1].made == 0
    assert second.difference == first.difference


def test_two_other_constitutions_are_both_asked_and_compared(run: Path, edit: Edit) -> None:
    old, new = edit("a.yaml", compare="Which is short?"), edit("b.yaml", compare="Which is long?")
    made, _ = diff(run, new, old)
    assert [set(cost.calls) for cost in made.costs] == [{"judge"}, {"judge"}]
    assert made.names == (str(old), str(new))
    assert made.edits[0].before == "Which is short?"


def test_the_runs_own_constitution_is_not_gone_through_again(run: Path, edit: Edit) -> None:
    made, _ = diff(run, edit(compare="Which is short?"), old=edit("same.yaml"))
    assert made.costs[0].remembered == 0
    assert made.difference.samples == 12


def test_calls_that_are_kept_are_not_made_again_by_a_run(run: Path, edit: Edit) -> None:
    new = edit(critique="Name long words.")
    diff(run, new)
    _, engine = diff(run, new, keeps=True)  # copied from the ledger beside
    assert engine.seen == []
    traces = contents(run / "traces")
    edited = load(run / "recipe.yaml", [f"constitution={new}"])
    work = run_async(edited, run, engines={"policy": engine}, progress=QUIET)
    asyncio.run(work)
    assert engine.seen == []
    assert contents(run / "traces") != traces


@pytest.mark.parametrize("field", ["compare", "critique"])
def test_a_dry_run_counts_the_calls_and_asks_nobody(run: Path, edit: Edit, field: str) -> None:
    new = edit(**{field: "Something else?"})
    both = sides.by_constitution(run, None, new)
    before = contents(run.parent)
    engine = fake()
    planned = dry(run, both, engine)
    assert engine.seen == []
    assert contents(run.parent) == before
    made, _ = diff(run, new)
    assert planned.costs[1].calls == made.costs[1].calls
    assert planned.costs[1].asked == made.costs[1].asked
    assert planned.is_exact is (field == "compare")
    stages = manifests.read(run)
    assert stages is not None
    a_call = {name: count.output_tokens / count.calls for name, count in stages.stages.items()}
    expected = sum(n * a_call[stage] for stage, n in made.costs[1].calls.items())
    assert planned.costs[1].output_tokens == round(expected)
    assert dry(run, both, engine).costs[1].made == 0  # as they are remembered now


# Judges -------------------------------------------------------------------------------------------


def by_judge(run: Path, *judges: str, constitution: Path | None = None) -> rerun.Sides:
    return sides.by_judge(run, judges, constitution)


def test_another_judge_judges_the_same_answers(run: Path) -> None:
    both = by_judge(run, "policy", "some/model")
    assert (both[0].new_judge, both[1].new_judge) == (None, "judge-b")
    assert both[1].recipe.models["judge-b"].model == "some/model"
    assert both[1].recipe.models["policy"] == both[0].recipe.models["policy"]
    other = FakeEngine(name="other")
    engines = {"policy": fake(), "judge-b": other}
    made = rerun.diff(run, both, engines=engines, progress=QUIET)
    assert made.costs[1].calls == {"judge": 48}
    assert len(other.seen) == 48
    [judge] = made.difference.judges
    assert judge.on_same_answers == 24
    assert not made.difference.rewritten
    assert not made.edits


def test_one_judge_is_compared_with_the_runs_own(run: Path) -> None:
    old, new = by_judge(run, "some/model")
    assert (old.name, new.name, new.new_judge) == ("policy", "some/model", "judge-a")


def test_a_model_that_did_not_judge_gets_an_engine_of_its_own(
    project: Path, tmp_path: Path
) -> None:
    """What it wrote in the run is remembered of the engine that wrote it."""
    data = yaml.safe_load((project / "recipe.yaml").read_text())
    data["models"]["judge"] = data["models"]["policy"]
    data["stages"][3]["model"] = "judge"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    made = load(tmp_path / "recipe.yaml")
    engines = {"policy": FakeEngine(), "judge": FakeEngine(name="judge")}
    out = tmp_path / "run"
    asyncio.run(run_async(made, out, engines=engines, progress=QUIET))
    _, new = by_judge(out, "policy")
    assert new.new_judge == "judge-a"
    assert new.recipe.stages[3].judging().model == "judge-a"  # type: ignore[union-attr]
    assert new.recipe.stages[0].model == "policy"  # type: ignore[attr-defined]


def test_wrong_judges_are_refused(run: Path) -> None:
    with pytest.raises(RecipeError, match="expected one or two, found 3"):
        by_judge(run, "a", "b", "c")
    text = yaml.safe_load((run / "recipe.yaml").read_text())
    text["stages"].pop()
    text["views"] = []
    (run / "recipe.yaml").write_text(yaml.safe_dump(text))
    with pytest.raises(RecipeError, match=r"no stage of .* judges \(stages: generate, critique"):
        by_judge(run, "policy")


# What is refused ----------------------------------------------------------------------------------


def test_a_run_that_is_written_is_refused(run: Path, edit: Edit) -> None:
    new = edit(compare="Which?")
    with alone_in(run), pytest.raises(FactoryError, match="another factory process is working in"):
        diff(run, new)


def test_nobody_writes_in_a_folder_that_is_read(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        pass
    with (
        undisturbed(tmp_path),
        undisturbed(tmp_path),
        pytest.raises(FactoryError, match="another factory process"),
        alone_in(tmp_path),
    ):
        pass
    with alone_in(tmp_path):
        pass


def test_an_unfinished_run_is_refused(run: Path, edit: Edit) -> None:
    manifest = manifests.read(run)
    assert manifest is not None
    manifest.state = "running"
    manifest.save(run)
    with pytest.raises(FactoryError, match="is not finished: run its recipe again first"):
        diff(run, edit())


def test_a_run_without_its_ledger_is_refused(run: Path, edit: Edit) -> None:
    (run / "ledger.sqlite").unlink()
    with pytest.raises(FactoryError, match=r"ledger\.sqlite, which does not exist"):
        diff(run, edit(compare="Which?"))
    assert not (run / "ledger.sqlite").exists()


def test_a_wrong_constitution_is_refused_before_any_call(run: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: x\nversion: 1\nprinciples: []\n")
    with pytest.raises(RecipeError, match=r"wrong\.yaml:3 principles"):
        sides.by_constitution(run, None, wrong)
    with pytest.raises(RecipeError, match=r"nowhere\.yaml: no such file"):
        sides.by_constitution(run, None, tmp_path / "nowhere.yaml")


def test_samples_that_fail_are_counted_and_too_many_stop_it(run: Path, edit: Edit) -> None:
    both = sides.by_constitution(run, None, edit(compare="Which has fewer words?"))
    engines = {"policy": fake(fails_on="fewer words")}
    made = rerun.diff(run, both, engines=engines, progress=QUIET)
    n = len(plain(run))
    assert made.costs[1].failed == {"judge: asked about fewer words": n}
    assert (made.difference.samples, made.difference.only_before) == (12 - n, n)


def test_too_many_failures_stop_it(project: Path, tmp_path: Path, edit: Edit) -> None:
    rows = "".join(f'{{"prompt": "Why {i}?"}}\n' for i in range(40))
    (project / "prompts.jsonl").write_text(rows)
    made, out = load(project / "recipe.yaml"), tmp_path / "run"
    asyncio.run(run_async(made, out, engines={"policy": FakeEngine()}, progress=QUIET))
    both = sides.by_constitution(out, None, edit(compare="Which has fewer words?"))
    engines = {"policy": FakeEngine(fails_on="fewer words")}
    with pytest.raises(TooManyFailures, match="finished calls are remembered"):
        rerun.diff(out, both, engines=engines, progress=QUIET)


# Ledgers ------------------------------------------------------------------------------------------


def test_layered_ledgers_write_to_the_first_alone() -> None:
    writes, other = Scratch(), Scratch()
    other.put(b"a", said("old"))
    layered = Layered(writes, other)
    layered.put(b"b", said("new"))
    assert {key: c.text for key, c in layered.get_many([b"a", b"b", b"c"]).items()} == {
        b"a": "old",
        b"b": "new",
    }
    assert writes.get_many([b"a"]) == other.get_many([b"b"]) == {}
    Layered(writes, other, copies=True).get_many([b"a"])
    assert writes.get_many([b"a"])[b"a"].text == "old"
    assert layered.just_put(b"b") is not None


# The command --------------------------------------------------------------------------------------


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Runs `factory constitution diff ARGUMENTS`, with the recipe's own engines."""

    def called(*arguments: object) -> Ended:
        words = ["factory", "constitution", "diff", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            main()
        assert isinstance(end.value.code, int)
        return Ended(end.value.code, *capsys.readouterr())

    return called


def test_the_command_starts_no_engine_if_nothing_is_asked(
    run: Path,
    edit: Edit,
    tmp_path: Path,
    call: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(VllmEngine, "_start", None)  # would fail
    new = edit(critique="Name long words.", compare="Which has shorter words?")
    diff(run, new)
    ended = call(new, "--run", run, "-n", 1, "--json", tmp_path / "diff.json")
    n = len(plain(run))
    assert ended.code == 0, ended.err
    for text in (
        "plain-words, critique: [-Say where your answer is hard to read.-] {+Name long words.+}",
        "new: no call made; 120 answered from the ledger",
        f"{n} of 12 samples differ, in {n} of them the critique",
        f"agreement on {2 * (12 - n)} pairs whose texts are the same: 1.00",
        f"answers rewritten (1 of {2 * n}; -n shows more)",
        f"constitution diff {new} --run {run} --keep",
    ):
        assert text in ended.out
    written = json.loads((tmp_path / "diff.json").read_text())
    assert written["difference"]["touched"] == n
    assert len(written["difference"]["rewritten"]) == 2 * n


def test_the_command_counts_calls(run: Path, edit: Edit, call: Callable[..., Ended]) -> None:
    ended = call(edit(compare="Which?"), "--run", run, "--dry-run")
    n = len(plain(run))
    assert f"new: {4 * n} calls to make for {n} samples, about " in ended.out
    ended = call("--judge", "policy", "--run", run, "--dry-run")
    assert "both sides are the run as it was made: no call to make" in ended.out
    ended = call(edit(critique="Why?"), "--run", run, "--dry-run")
    assert f"new: about {8 * n} calls to make" in ended.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name one constitution, to compare with the run's own; or two, OLD and NEW"),
        (("a", "b", "c"), "(found 3 constitutions)"),
        (("a", "b", "--judge", "x"), "--judge compares judges on one constitution; found 2: a, b"),
        (("nowhere.yaml",), "nowhere.yaml: no such file"),
        (("nowhere",), "no such file (shipped: careful-math, concise"),
    ],
)
def test_wrong_arguments_end_with_2(
    run: Path, call: Callable[..., Ended], arguments: tuple[str, ...], message: str
) -> None:
    ended = call(*arguments, "--run", run)
    assert ended.code == 2
    assert message in ended.err


def test_a_folder_without_a_run_is_refused(tmp_path: Path, call: Callable[..., Ended]) -> None:
    ended = call("concise", "--run", tmp_path)
    assert (ended.code, ended.err) == (
        2,
        f"error: --run {tmp_path} holds no run: there is no manifest.json in it\n",
    )
