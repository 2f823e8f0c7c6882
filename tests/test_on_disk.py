"""What a run and an export leave on disk, whatever happens: whole, true, and nobody else's."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from factory.align.loop import align
from factory.cli import runs as commands
from factory.cli.init import create
from factory.cli.scores import _report_path
from factory.core.errors import EngineError, FactoryError, NothingMade, RecipeError, TooManyFailures
from factory.core.lock import alone_in
from factory.core.records import Failure, Sample
from factory.engines.base import Completion, Request
from factory.pipeline import manifest as manifests
from factory.pipeline import traces as shards
from factory.pipeline.folder import NEXT
from factory.pipeline.ledger import Ledger
from factory.pipeline.manifest import Manifest
from factory.pipeline.outcomes import reason_of
from factory.pipeline.preview import answer_some
from factory.pipeline.progress import Progress
from factory.pipeline.run import run_async
from factory.pipeline.traces import part_path, read_samples
from factory.pipeline.trainings import run_with_trainings
from factory.recipe.load import load
from factory.recipe.recipe import Recipe
from tests.conftest import ROOT
from tests.fakes import DyingEngine, FakeEngine
from tests.test_run import contents, edit_principle, go, made

Load = Callable[..., Recipe]


@pytest.fixture
def run_folder(recipe: Load, tmp_path: Path) -> Path:
    """A finished run of three parts."""
    go(recipe("part_size=4"), tmp_path / "run")
    return tmp_path / "run"


# A whole run stays until the next is whole ------------------------------------------------------


def test_an_edit_that_stops_half_way_leaves_the_run_as_it_was(
    recipe: Load, project: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run_folder)
    original = recipe("part_size=4")
    edit_principle(project, compare="Which answer is friendlier?")
    edited = recipe("part_size=4")
    with pytest.raises(EngineError):
        go(edited, run_folder, DyingEngine(30))
    assert contents(run_folder) == before
    commands.status(run_folder)
    shown = capsys.readouterr().out
    assert "finished, 12 samples" in shown
    assert f"a newer run of {project}/recipe.yaml has made " in shown
    assert "samples (stopped: run it again to continue)" in shown
    assert "the run above stays until the newer one is finished" in shown
    commands.export(run_folder)
    assert contents(run_folder).keys() == before.keys()
    assert len(list(read_samples(run_folder))) == 12
    # The edit goes on from where it stopped, and takes the run's place once it is whole.
    manifest, _ = go(edited, run_folder)
    assert (manifest.state, manifest.samples) == ("finished", 12)
    go(edited, project / "alone")
    assert contents(run_folder) == contents(project / "alone")
    assert not (run_folder / NEXT).exists()
    # And back: another edit that is given up again.
    with pytest.raises(EngineError):
        go(original.model_copy(update={"seed": 99}), run_folder, DyingEngine(0))
    _, engine = go(edited, run_folder)
    assert engine.seen == []
    assert not (run_folder / NEXT).exists()


def test_trying_failures_again_keeps_the_run_until_it_is_done(recipe: Load, tmp_path: Path) -> None:
    loose = recipe("max_failure_rate=0.5", "part_size=4")
    go(loose, tmp_path / "run", FakeEngine(fails_on="3 cats"))
    before = contents(tmp_path / "run")
    with pytest.raises(EngineError):
        go(loose, tmp_path / "run", DyingEngine(0))
    assert contents(tmp_path / "run") == before
    kept = manifests.read(tmp_path / "run")
    assert kept is not None
    assert (kept.state, kept.samples) == ("finished", 11)
    manifest, _ = go(loose, tmp_path / "run")
    assert (manifest.samples, manifest.quarantined) == (12, 0)


def test_what_is_stopped_while_it_takes_its_place_is_brought_to_its_end_by_any_command(
    recipe: Load, project: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_principle(project, compare="Which answer is friendlier?")
    rmtree = shutil.rmtree

    def stop_at_the_traces(path: Any, *args: Any, **kwargs: Any) -> None:
        if Path(path).name == "traces":
            raise KeyboardInterrupt
        rmtree(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stop_at_the_traces)
        with pytest.raises(KeyboardInterrupt):
            go(recipe("part_size=4"), run_folder)
    commands.status(run_folder)
    manifest = manifests.read(run_folder)
    assert manifest is not None
    assert (manifest.state, manifest.samples) == ("traced", 12)
    _, engine = go(recipe("part_size=4"), run_folder)
    assert engine.seen == []
    go(recipe("part_size=4"), project / "alone")
    assert contents(run_folder) == contents(project / "alone")


def test_an_extension_that_stops_leaves_the_shorter_run(recipe: Load, tmp_path: Path) -> None:
    go(recipe("part_size=4", "source.limit=8"), tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(EngineError):
        go(recipe("part_size=4"), tmp_path / "run", DyingEngine(0))
    assert contents(tmp_path / "run") == before
    go(recipe("part_size=4"), tmp_path / "run")
    go(recipe("part_size=4"), tmp_path / "alone")
    assert contents(tmp_path / "run") == contents(tmp_path / "alone")


# Parts are what the manifest says ---------------------------------------------------------------


def delete(run: Path) -> None:
    part_path(run, 1).unlink()


def copy(run: Path) -> None:
    shutil.copyfile(part_path(run, 0), part_path(run, 2))


def copy_beyond(run: Path) -> None:
    shutil.copyfile(part_path(run, 0), part_path(run, 3))


def flip(run: Path) -> None:
    data = bytearray(part_path(run, 1).read_bytes())
    data[len(data) // 2] ^= 1
    part_path(run, 1).write_bytes(data)


def cut(run: Path) -> None:
    part_path(run, 2).write_bytes(part_path(run, 2).read_bytes()[:-10])


def swap(run: Path) -> None:
    first = part_path(run, 0).read_bytes()
    shutil.copyfile(part_path(run, 1), part_path(run, 0))
    part_path(run, 1).write_bytes(first)


def lose_all(run: Path) -> None:
    shutil.rmtree(run / "traces")


@pytest.mark.parametrize(
    ("harm", "has_checksums"),
    [(harm, True) for harm in (delete, copy, copy_beyond, flip, cut, swap, lose_all)]
    + [(harm, False) for harm in (delete, copy, swap)],
)
def test_parts_that_are_not_the_runs_are_refused_and_made_again_without_a_call(
    recipe: Load, run_folder: Path, harm: Callable[[Path], None], has_checksums: bool
) -> None:
    if not has_checksums:  # as 0.1.0 wrote it
        path = run_folder / "manifest.json"
        old = json.loads(path.read_text())
        del old["trace_parts"]
        path.write_text(json.dumps(old))
        commands.status(run_folder)
    before = contents(run_folder)
    harm(run_folder)
    for command in (commands.status, commands.export):
        with pytest.raises(FactoryError, match=r"was changed or damaged: part-0000\d.parquet") as e:
            command(run_folder)
        assert "Run the recipe again" in str(e.value)
    assert {k: v for k, v in contents(run_folder).items() if k.startswith("datasets")} == {
        k: v for k, v in before.items() if k.startswith("datasets")
    }
    manifest, engine = go(recipe("part_size=4"), run_folder)
    assert engine.seen == []
    assert (manifest.state, manifest.samples, made(manifest)) in [
        ("finished", 12, 168),
        ("finished", 12, 0),  # where all was gone through again
    ]
    assert contents(run_folder) == before
    commands.status(run_folder)


def test_a_part_is_made_again_without_asking_what_had_failed(recipe: Load, tmp_path: Path) -> None:
    loose = recipe("max_failure_rate=0.5", "part_size=4")
    go(loose, tmp_path / "run", FakeEngine(fails_on="3 cats"))
    before = contents(tmp_path / "run")
    part_path(tmp_path / "run", 0).unlink()
    engine = FakeEngine(fails_on="3 cats")
    quiet, engines = Progress(is_quiet=True), {"policy": engine}
    out = tmp_path / "run"
    asyncio.run(run_async(loose, out, engines=engines, progress=quiet, retries=False))
    assert engine.seen == []
    assert contents(tmp_path / "run") == before


def test_a_part_that_the_ledger_does_not_give_again_is_made_anew_with_all_others(
    recipe: Load, run_folder: Path
) -> None:
    part_path(run_folder, 1).unlink()
    for file in run_folder.glob("ledger.sqlite*"):
        file.unlink()

    class Sampling(FakeEngine):
        """Says something else than before."""

        def _answer(self, request: Request, rng: random.Random) -> Completion:
            return super()._answer(request, random.Random(f"other {rng.random()}"))

    manifest, _ = go(recipe("part_size=4"), run_folder, Sampling())
    assert (manifest.state, manifest.samples) == ("finished", 12)
    with Ledger(run_folder / "ledger.sqlite") as ledger:
        for sample in read_samples(run_folder):
            assert all(ledger.get(bytes.fromhex(c.call)) for c in sample.candidates)


def test_a_name_with_more_zeros_is_no_second_part(run_folder: Path) -> None:
    shutil.copyfile(part_path(run_folder, 1), run_folder / "traces" / "part-000001.parquet")
    assert len(list(read_samples(run_folder))) == 12


@pytest.mark.parametrize("what", ["run", "traces", "part"])
def test_what_is_deleted_under_a_run_is_an_error(
    recipe: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    out = tmp_path / "run"
    gone = {"run": out, "traces": out / "traces", "part": part_path(out, 0)}[what]
    write = shards.write_part

    def deleting(run: Path, part: int, samples: list[Sample]) -> shards.TracePart:
        if part == 1:
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        return write(run, part, samples)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_part", deleting)
        with pytest.raises(FactoryError, match=r"deleted|is missing|cannot write"):
            go(recipe("part_size=4"), out)
    manifest, _ = go(recipe("part_size=4"), out)
    assert (manifest.state, manifest.samples) == ("finished", 12)
    go(recipe("part_size=4"), tmp_path / "alone")
    assert contents(out) == contents(tmp_path / "alone")


def test_every_call_of_a_part_is_committed_before_it(
    recipe: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    write = shards.write_part

    def looking(run: Path, part: int, samples: list[Sample]) -> shards.TracePart:
        held = {
            k.hex()
            for (k,) in sqlite3.connect(run / "ledger.sqlite").execute("SELECT key FROM calls")
        }
        assert {r.call for s in samples for v in s.verdicts for r in v.readings} <= held
        return write(run, part, samples)

    monkeypatch.setattr(shards, "write_part", looking)
    manifest, _ = go(recipe("part_size=1"), tmp_path / "run")
    assert manifest.parts == 12


# Datasets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["datasets", "datasets/sft", "datasets/sft/state.json"])
def test_datasets_that_are_gone_are_said_to_be_and_written_again(
    recipe: Load, run_folder: Path, gone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run_folder)
    path = run_folder / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    commands.status(run_folder)
    shown = capsys.readouterr().out
    assert f"{run_folder}/datasets/sft: missing or changed; " in shown
    assert "sft: 24 rows" not in shown
    _, engine = go(recipe("part_size=4"), run_folder)
    assert engine.seen == []
    assert contents(run_folder) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dataset_info.json", ""),
        ("dataset_info.json", '{"features": {}}'),
        ("dataset_info.json", "[]"),
        ("dataset_info.json", "int64"),  # another type of a column
        ("README.md", ""),
    ],
)
def test_a_dataset_whose_description_is_damaged_is_written_again(
    recipe: Load, run_folder: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run_folder)
    path = run_folder / "datasets" / "sft" / name
    path.write_text(path.read_text().replace("string", text) if text == "int64" else text)
    commands.status(run_folder)
    assert "sft: missing or changed" in capsys.readouterr().out
    _, engine = go(recipe("part_size=4"), run_folder)
    assert engine.seen == []
    assert contents(run_folder) == before
    commands.status(run_folder)
    assert "missing or changed" not in capsys.readouterr().out


def killed_between_the_renames(run: Path) -> None:
    (run / "datasets" / "sft").rename(run / "datasets" / ".sft.old")
    shutil.copytree(run / "datasets" / ".sft.old", run / "datasets" / ".sft.tmp")


@pytest.mark.parametrize("command", ["status", "export", "run"])
def test_a_kill_between_the_renames_of_a_dataset_is_made_good_by_any_command(
    recipe: Load, run_folder: Path, command: str
) -> None:
    before = contents(run_folder)
    killed_between_the_renames(run_folder)
    if command == "run":
        go(recipe("part_size=4"), run_folder)
    else:
        getattr(commands, command)(run_folder)
    names = [path.name for path in (run_folder / "datasets").iterdir()]
    assert sorted(names) == ["preference", "sft"]
    assert contents(run_folder).keys() == before.keys()


def test_a_dataset_with_a_users_file_in_it_is_not_replaced(recipe: Load, run_folder: Path) -> None:
    (run_folder / "datasets" / "sft" / "notes.txt").write_text("mine")
    with pytest.raises(FactoryError, match=r"sft is not replaced: .*notes.txt"):
        commands.export(run_folder)
    assert (run_folder / "datasets" / "sft" / "notes.txt").read_text() == "mine"


def test_export_waits_for_nobody_and_disturbs_nobody(run_folder: Path) -> None:
    with alone_in(run_folder), pytest.raises(FactoryError, match="another factory process"):
        commands.export(run_folder)


def test_exports_and_runs_at_once_leave_whole_datasets(
    recipe: Load, project: Path, run_folder: Path
) -> None:
    """Real processes, started at once: each ends well or says that another one works there."""
    (project / "recipe.yaml").write_text(
        yaml.safe_dump({**yaml.safe_load((project / "recipe.yaml").read_text()), "part_size": 4})
    )
    before = contents(run_folder)
    export = [sys.executable, "-m", "factory", "export", run_folder]
    program = "import sys; from tests.kill_target import run; run(*sys.argv[1:])"
    extended = [sys.executable, "-c", program, project / "recipe.yaml", run_folder, "0"]
    started = [
        subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        for command in (export, extended, export)
    ]
    ended = [(process.communicate()[1], process.returncode) for process in started]
    assert any(code == 0 for _, code in ended)
    assert all(code == 0 or "another factory process is working in" in said for said, code in ended)
    commands.status(run_folder)
    go(recipe(), run_folder)
    after = contents(run_folder)
    different = {name for name in after if after[name] != before.get(name)}
    assert all(name.endswith("README.md") for name in different)  # paths in the recipe shown there
    assert after.keys() == before.keys()


# Folders that are somebody's ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ["recipe.yaml"],
        ["constitution.yaml", "notes.txt"],
        ["traces/part-00000.parquet"],
        ["datasets/sft/state.json"],
        ["quarantine.jsonl"],
        ["logs/mine.log"],
        ["ledger.sqlite"],
        [".lock", "score.json", "ledger.sqlite"],
    ],
)
def test_a_folder_that_no_run_made_is_refused_and_left_as_it_is(
    recipe: Load, tmp_path: Path, names: list[str]
) -> None:
    out = tmp_path / "mine"
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
    writers: list[Callable[[], Any]] = [
        lambda: go(recipe(), out),
        lambda: run_with_trainings(recipe(), out),
        lambda: answer_some(recipe(), out),
        lambda: create(out),
    ]
    for write in writers:
        with pytest.raises(RecipeError, match="mine"):
            write()
    assert all((out / name).read_text() == "mine" for name in names)
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == set(names)


@pytest.mark.parametrize(
    "held",
    [
        {"manifest.json": '{"name": "My app", "icons": []}'},
        {"manifest.json": "[1]", ".lock": "", "quarantine.jsonl": "", "ledger.sqlite": ""},
        {".lock": "", "quarantine.jsonl": "mine", "recipe.yaml": "mine"},
    ],
)
def test_a_folder_that_looks_like_a_run_is_refused_before_anything_is_touched(
    recipe: Load, tmp_path: Path, held: dict[str, str]
) -> None:
    out = tmp_path / "mine"
    held = {**held, "a.half": "mine", "datasets/.x.tmp/a": "mine", "datasets/.y.old/a": "mine"}
    for name, text in held.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    with pytest.raises(RecipeError, match="files that no run has made"):
        go(recipe(), out)
    with pytest.raises(FactoryError):
        commands.status(out)
    with pytest.raises(FactoryError):
        commands.export(out)
    assert {
        p.relative_to(out).as_posix(): p.read_text() for p in out.rglob("*") if p.is_file()
    } == held


def test_a_cut_manifest_is_told_of_before_anything_is_touched(
    recipe: Load, run_folder: Path
) -> None:
    path = run_folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    (run_folder / "a.half").touch()
    for command in (commands.status, commands.export, lambda out: go(recipe("part_size=4"), out)):
        with pytest.raises(FactoryError, match=r"manifest.json cannot be read .*move it away"):
            command(run_folder)
    assert (run_folder / "a.half").exists()
    before = contents(run_folder)
    path.unlink()  # as the message advises
    _, engine = go(recipe("part_size=4"), run_folder)
    assert engine.seen == []
    assert contents(run_folder) == before


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"parts": 5}, "12 rows in 5 parts of 4"),
        ({"parts": -1}, "parts: -1"),
        ({"quarantine_bytes": -3}, "quarantine_bytes: -3"),
        ({"quarantine_bytes": 3}, "0 quarantined, in 3 bytes"),
        ({"part_size": 0}, "part_size: 0"),
        ({"samples": 11}, "12 rows, but 11 samples and 0 quarantined"),
        ({"trace_parts": [{"samples": 12, "sha256": ""}]}, "3 parts, but trace_parts lists 1"),
        ({"trace_parts": [{"samples": 5, "sha256": ""}] * 3}, "12 samples, but 15 in trace_parts"),
        ({"views": [{"rows": 3, "drops": {}}]}, r"views\[0\] lacks 'view'"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_one_clear_error(
    recipe: Load, run_folder: Path, edit: dict[str, Any], words: str
) -> None:
    path = run_folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    for command in (commands.status, commands.export, lambda out: go(recipe("part_size=4"), out)):
        with pytest.raises(FactoryError, match=rf"contradicts itself \({words}.*move it away"):
            command(run_folder)


@pytest.mark.parametrize("command", ["run", "export"])
def test_a_run_without_checksums_gains_them(recipe: Load, run_folder: Path, command: str) -> None:
    path = run_folder / "manifest.json"
    new = path.read_bytes()
    path.write_text(json.dumps({**json.loads(new), "trace_parts": []}))
    if command == "run":
        _, engine = go(recipe("part_size=4"), run_folder)
        assert engine.seen == []
        assert path.read_bytes() == new
    else:
        commands.export(run_folder)
    assert json.loads(path.read_text())["trace_parts"] == json.loads(new)["trace_parts"]


def test_a_pipe_in_a_parts_place_holds_nothing_up(recipe: Load, run_folder: Path) -> None:
    before = contents(run_folder)
    part_path(run_folder, 1).unlink()
    os.mkfifo(part_path(run_folder, 1))
    with pytest.raises(FactoryError, match=r"part-00001.parquet is no file"):
        commands.status(run_folder)
    go(recipe("part_size=4"), run_folder)
    assert contents(run_folder) == before


def test_align_refuses_a_folder_that_it_did_not_make(tmp_path: Path) -> None:
    recipe = load(ROOT / "pipelines" / "self-rewarding.yaml")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "align.txt").write_text("mine")
    with pytest.raises(RecipeError, match=r"that align has not made \(align.txt\)"):
        align(recipe, tmp_path / "mine", 1)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["align.txt"]


def test_a_report_replaces_reports_only(tmp_path: Path) -> None:
    mine, report = tmp_path / "mine.json", tmp_path / "report.json"
    mine.write_text('{"rows": 3}')
    report.write_text('{"kind": "judge", "data": "x", "rows": 3, "report": {}}')
    assert _report_path(str(report)) == report
    assert _report_path(str(tmp_path / "new.json")) == tmp_path / "new.json"
    with pytest.raises(RecipeError, match=r"mine.json exists and is not the report"):
        _report_path(str(mine))


def test_an_init_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copytree = shutil.copytree

    def full(source: Path, target: Path) -> None:
        if source.name == "pipelines":
            target.mkdir(parents=True)
            raise OSError(28, "No space left on device")
        copytree(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", full)
        with pytest.raises(FactoryError, match=r"No space left.*fix the cause and run again"):
            create(tmp_path / "mine")
    (tmp_path / "mine" / "constitutions" / "mine.yaml").write_text("an edit")
    create(tmp_path / "mine")
    assert (tmp_path / "mine" / "constitutions" / "mine.yaml").exists()
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == ["constitutions", "pipelines"]


# Failures that can be fixed -----------------------------------------------------------------------


@pytest.mark.parametrize("part_size", [3, 19, 20])
def test_a_fixed_cause_lets_a_run_of_any_part_size_go_on(
    recipe: Load, project: Path, tmp_path: Path, part_size: int
) -> None:
    with (project / "prompts.jsonl").open("w") as file:
        for i in range(24):
            file.write(json.dumps({"id": f"p{i}", "prompt": f"Tell me about {i} cats."}) + "\n")
    with pytest.raises(TooManyFailures):
        go(recipe(f"part_size={part_size}"), tmp_path / "run", FakeEngine(fails_on="cats"))
    manifest, _ = go(recipe(f"part_size={part_size}"), tmp_path / "run")
    assert (manifest.state, manifest.samples, manifest.quarantined) == ("finished", 24, 0)


@pytest.mark.parametrize(
    ("state", "harm"),
    [
        ("finished", "deleted"),
        ("finished", "zeros"),
        ("finished", "garbled"),
        ("finished", "twice"),
        ("running", "deleted"),
        ("running", "cut"),
        ("running", "garbled"),
    ],
)
def test_a_quarantine_that_lost_lines_is_written_again(
    recipe: Load,
    project: Path,
    tmp_path: Path,
    state: str,
    harm: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = (project / "prompts.jsonl").read_bytes().splitlines()
    good[1:3] = [b"{not json", b"{}"]
    (project / "prompts.jsonl").write_bytes(b"\n".join(good))
    out, path = tmp_path / "run", tmp_path / "run" / "quarantine.jsonl"
    if state == "running":
        with pytest.raises(EngineError):
            go(recipe("part_size=4"), out, DyingEngine(100))
    else:
        go(recipe("part_size=4"), out)
    before = path.read_bytes()
    assert before.count(b"\n") == 2
    first = before.splitlines(keepends=True)[0]
    harmed = {
        "deleted": b"",
        "cut": before[:-9],
        "zeros": b"\0" * len(before),
        "garbled": before.replace(b"index", b"\xffndex"),  # as long, and as many lines
        "twice": (first * 2)[: len(before)],
    }
    path.write_bytes(harmed[harm])
    commands.status(out)
    assert "quarantine.jsonl was changed or is incomplete" in capsys.readouterr().out
    if harm == "deleted":
        path.unlink()
    manifest, _ = go(recipe("part_size=4"), out)
    assert path.read_bytes() == before
    assert (manifest.state, manifest.quarantined, manifest.samples) == ("finished", 2, 10)


SHOUT = """
from factory.stages.base import Stage
from helper import loud
class Shout(Stage):
    async def __call__(self, sample, models):
        for c in sample.candidates: c.text = loud(c.text)
        return sample
"""
VIEW = """
from factory.export.sft import SftView
import lib.words
class Mine(SftView):
    kind: str = "mine:Mine"
    name: str | None = "mine"
    def rows(self, sample):
        for row in super().rows(sample):
            row["completion"][0]["content"] = lib.words.WORD
            yield row
"""


def test_an_edit_of_a_helper_of_a_users_stage_or_view_is_seen_and_it_goes_along(
    recipe: Load, project: Path, tmp_path: Path
) -> None:
    (project / "shout.py").write_text(SHOUT)
    (project / "helper.py").write_text("from lib.words import WORD\nloud = lambda t: WORD\n")
    (project / "lib").mkdir()
    (project / "lib" / "__init__.py").write_text("")
    (project / "lib" / "words.py").write_text("WORD = 'first'\n")
    (project / "mine.py").write_text(VIEW)
    data = yaml.safe_load((project / "recipe.yaml").read_text())
    data["stages"].insert(1, {"kind": "shout:Shout"})
    data["views"] = [{"kind": "sft", "pick": "all"}, {"kind": "mine:Mine"}]
    (project / "recipe.yaml").write_text(yaml.safe_dump(data))
    out = tmp_path / "run"
    go(recipe(), out)
    assert {s.candidates[0].text for s in read_samples(out)} == {"first"}
    (project / "lib" / "words.py").write_text("WORD = 'second'\n")
    go(recipe(), out)
    assert {s.candidates[0].text for s in read_samples(out)} == {"second"}
    for name in ("shout.py", "helper.py", "mine.py", "lib"):  # the run needs none of them
        path = project / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = contents(out)
    commands.export(out)
    assert contents(out).keys() == before.keys()
    [view] = [view for view in manifests.read(out).views if view["view"] == "mine"]  # type: ignore[union-attr]
    assert view["rows"] == 24


def test_own_code_without_a_helper_is_digested_as_before(recipe: Load, project: Path) -> None:
    text = SHOUT.replace("from helper import loud\n", "import json\nloud = str.upper\n")
    (project / "shout.py").write_text(text)
    data = yaml.safe_load((project / "recipe.yaml").read_text())
    data["stages"].insert(1, {"kind": "shout:Shout"})
    (project / "recipe.yaml").write_text(yaml.safe_dump(data))
    assert recipe()._own_code[recipe().stages[1].kind] == text


# Nothing made --------------------------------------------------------------------------------------


def test_a_run_that_makes_no_sample_fails_with_the_reasons_and_can_be_fixed(
    recipe: Load, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for _ in range(2):
        with pytest.raises(NothingMade, match=r"all 12 rows failed(.|\n)*12 x generate: asked"):
            go(recipe("max_failure_rate=1.0"), out, FakeEngine(fails_on="cats"))
    manifest, _ = go(recipe("max_failure_rate=1.0"), out)
    assert (manifest.state, manifest.samples) == ("finished", 12)
    before = contents(out)
    with pytest.raises(NothingMade):
        go(recipe("max_failure_rate=1.0", "seed=8"), out, FakeEngine(fails_on="cats"))
    assert contents(out) == before


def test_an_empty_source_fails(recipe: Load, project: Path, tmp_path: Path) -> None:
    (project / "prompts.jsonl").write_text("")
    with pytest.raises(FactoryError, match=r"no rows|empty"):
        go(recipe(), tmp_path / "run")


def test_datasets_without_a_row_fail_with_the_most_frequent_reasons(run_folder: Path) -> None:
    views = ["views=[{kind: preference, pairs: revision_vs_initial, min_margin: 0.49}]"]
    with pytest.raises(
        NothingMade, match=r"no dataset has a row(.|\n)* x margin-too-small"
    ) as error:
        commands.export(run_folder, set_=views, allow_empty=True)
    assert error.value.exit_code == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            "http://h:80 refused (HTTP 402: pay 12 dollars)",
            "s: http://h:80 refused (HTTP 402: pay # dollars)",
        ),
        ("no completion (HTTP 503: 7 tries)", "s: no completion (HTTP 503: # tries)"),
        ("[Errno 28] No space left, row 17", "s: [Errno 28] No space left, row #"),
        ("status code: 429 after 3 tries", "s: status code: 429 after # tries"),
        ("error: 3 steps of 7", "s: error: # steps of #"),
        ("killed by signal 9, exit code: 137", "s: killed by signal 9, exit code: 137"),
        ("KeyError: 'x' (mine.py:14)", "s: KeyError: 'x' (mine.py:14)"),
        ("prompt of 512 tokens, answer 3", "s: prompt of # tokens, answer #"),
    ],
)
def test_counted_reasons_keep_the_digits_that_are_the_reason(error: str, reason: str) -> None:
    assert reason_of(Failure(0, None, "x", "s", error, "", False)) == reason


def test_a_manifest_of_the_first_version_is_read(run_folder: Path) -> None:
    path = run_folder / "manifest.json"
    old = json.loads(path.read_text())
    del old["trace_parts"]
    path.write_text(json.dumps(old))
    read = manifests.read(run_folder)
    assert isinstance(read, Manifest)
    assert read.trace_parts == []
