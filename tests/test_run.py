"""The run as a whole, with a deterministic engine: resuming, editing, extending, failing."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from factory.core.errors import FactoryError, TooManyFailures
from factory.core.lock import alone_in
from factory.pipeline import manifest as manifests
from factory.pipeline.manifest import Manifest
from factory.pipeline.progress import Progress
from factory.pipeline.run import run_async
from factory.pipeline.traces import read_samples
from factory.recipe.recipe import Recipe
from tests.conftest import ROOT
from tests.fakes import FakeEngine

Load = Callable[..., Recipe]


def go(recipe: Recipe, out: Path, engine: FakeEngine | None = None) -> tuple[Manifest, FakeEngine]:
    engine = engine or FakeEngine()
    quiet = Progress(is_quiet=True)
    manifest = asyncio.run(run_async(recipe, out, engines={"policy": engine}, progress=quiet))
    return manifest, engine


def test_a_run_says_which_constitution_it_took(recipe: Load, tmp_path: Path) -> None:
    class Noting(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    notes: list[str] = []
    engines = {"policy": FakeEngine()}
    work = run_async(recipe(), tmp_path / "run", engines=engines, progress=Noting())
    manifest = asyncio.run(work)
    file = tmp_path.resolve() / "kind.yaml"
    assert notes[0] == f"constitution: kind 1.0.0, 2 principles, {file}"
    assert manifest.stages["generate"].answers == 24
    assert manifest.stages["judge"].answers == 0


def made(manifest: Manifest) -> int:
    return sum(s.made for s in manifest.stages.values())


def remembered(manifest: Manifest) -> int:
    return sum(s.remembered for s in manifest.stages.values())


def contents(out: Path) -> dict[str, str]:
    """Every file of the traces and datasets, by its hash."""
    return {
        str(path.relative_to(out)): hashlib.blake2b(path.read_bytes()).hexdigest()
        for folder in ("traces", "datasets")
        for path in sorted((out / folder).rglob("*"))
        if path.is_file()
    }


def edit_principle(project: Path, **texts: str) -> None:
    """Other texts in the first principle of the constitution."""
    edited = yaml.safe_load((project / "kind.yaml").read_text())
    edited["principles"][0] |= texts
    (project / "kind.yaml").write_text(yaml.safe_dump(edited))


def test_a_run_takes_every_prompt_through_every_stage(recipe: Load, tmp_path: Path) -> None:
    manifest, _ = go(recipe(), tmp_path / "run")
    samples = list(read_samples(tmp_path / "run"))
    assert [s.id for s in samples] == [f"p{i}" for i in range(12)]
    for s in samples:
        assert [(c.origin, c.parent, c.round) for c in s.candidates] == [
            ("generate", None, 0),
            ("generate", None, 0),
            ("revise", 0, 1),
            ("revise", 1, 1),
        ]
        assert [(v.a, v.b, len(v.readings)) for v in s.verdicts] == [(2, 0, 4), (3, 1, 4)]
    # A sample: 2 answers, 2 critiques, 2 revisions, 2 pairs x 2 principles x 2 orders.
    assert {k: s.made for k, s in manifest.stages.items()} == {
        "generate": 24,
        "critique": 24,
        "revise": 24,
        "judge": 96,
    }
    assert (manifest.state, manifest.samples, manifest.quarantined) == ("finished", 12, 0)


def test_every_number_in_a_trace_leads_to_the_call_that_made_it(
    recipe: Load, tmp_path: Path
) -> None:
    from factory.pipeline.ledger import Ledger

    go(recipe(), tmp_path / "run")
    with Ledger(tmp_path / "run" / "ledger.sqlite") as ledger:
        for s in read_samples(tmp_path / "run"):
            calls = [c.call for c in s.candidates] + [c.call for c in s.critiques]
            calls += [r.call for v in s.verdicts for r in v.readings]
            assert all(ledger.get(bytes.fromhex(call)) for call in calls)


def test_two_runs_write_the_same_bytes(recipe: Load, tmp_path: Path) -> None:
    go(recipe("part_size=5"), tmp_path / "one", FakeEngine(slowness=0.01))
    go(recipe("part_size=5"), tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(list((tmp_path / "one" / "traces").iterdir())) == 3


def test_a_finished_run_run_again_does_nothing(recipe: Load, tmp_path: Path) -> None:
    go(recipe(), tmp_path / "run")
    before = contents(tmp_path / "run")
    _, engine = go(recipe(), tmp_path / "run")
    assert engine.seen == []
    assert contents(tmp_path / "run") == before


def test_another_view_is_made_without_a_call(recipe: Load, project: Path, tmp_path: Path) -> None:
    go(recipe(), tmp_path / "run")
    more = yaml.safe_load((project / "recipe.yaml").read_text())
    more["views"].append({"kind": "kto"})
    (project / "recipe.yaml").write_text(yaml.safe_dump(more))
    manifest, engine = go(recipe(), tmp_path / "run")
    assert engine.seen == []
    assert [v["view"] for v in manifest.views] == ["preference", "sft", "kto"]


def test_extending_a_run_makes_only_the_new_calls(recipe: Load, tmp_path: Path) -> None:
    first, _ = go(recipe("source.limit=5"), tmp_path / "run")
    second, engine = go(recipe("source.limit=12"), tmp_path / "run")
    assert (made(first), made(second), remembered(second)) == (5 * 14, 7 * 14, 5 * 14)
    assert len(engine.seen) == 7 * 14
    go(recipe("source.limit=12"), tmp_path / "whole")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_shortening_a_run_makes_no_call_and_leaves_no_row(recipe: Load, tmp_path: Path) -> None:
    go(recipe("part_size=4"), tmp_path / "run")
    _, engine = go(recipe("part_size=4", "source.limit=3"), tmp_path / "run")
    assert engine.seen == []
    assert [s.index for s in read_samples(tmp_path / "run")] == [0, 1, 2]


def test_editing_a_principle_makes_only_the_calls_it_touches(
    recipe: Load, project: Path, tmp_path: Path
) -> None:
    go(recipe(), tmp_path / "run")
    edit_principle(project, compare="Which answer is friendlier?")
    manifest, _ = go(recipe(), tmp_path / "run")
    # Only this principle's comparisons: 12 samples x 2 pairs x 2 orders.
    assert {k: (s.made, s.remembered) for k, s in manifest.stages.items()} == {
        "generate": (0, 24),
        "critique": (0, 24),
        "revise": (0, 24),
        "judge": (48, 48),
    }


def test_editing_a_critique_touches_only_the_samples_that_drew_it(
    recipe: Load, project: Path, tmp_path: Path
) -> None:
    go(recipe(), tmp_path / "run")
    drew = sum(
        c.principle_ids == ["kind-words"]
        for s in read_samples(tmp_path / "run")
        for c in s.critiques
    )
    assert 0 < drew < 24
    edit_principle(project, critique="Say where your answer is not friendly.")
    manifest, _ = go(recipe(), tmp_path / "run")
    counts = {k: (s.made, s.remembered) for k, s in manifest.stages.items()}
    # New critiques give new revisions, and each new revision 2 principles x 2 orders.
    assert counts == {
        "generate": (0, 24),
        "critique": (drew, 24 - drew),
        "revise": (drew, 24 - drew),
        "judge": (4 * drew, 96 - 4 * drew),
    }


def test_a_failing_sample_is_quarantined_and_tried_again(recipe: Load, tmp_path: Path) -> None:
    loose = recipe("max_failure_rate=0.5")
    manifest, _ = go(loose, tmp_path / "run", FakeEngine(fails_on="3 cats"))
    assert (manifest.samples, manifest.quarantined, manifest.retriable) == (11, 1, 1)
    line = json.loads((tmp_path / "run" / "quarantine.jsonl").read_text())
    assert (line["index"], line["id"], line["stage"]) == (3, "p3", "generate")
    assert line["error"] == "asked about 3 cats"
    assert line["raw"] == "what it said"
    again, engine = go(loose, tmp_path / "run")
    assert (again.samples, again.quarantined) == (12, 0)
    assert len(engine.seen) == 14
    assert (tmp_path / "run" / "quarantine.jsonl").read_text() == ""
    go(loose, tmp_path / "whole")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_bad_rows_are_quarantined_with_their_line(
    recipe: Load, project: Path, tmp_path: Path
) -> None:
    good = (project / "prompts.jsonl").read_bytes().splitlines()
    good[2:4] = [b"{not json", b'{"prompt": "\xff"}']
    (project / "prompts.jsonl").write_bytes(b"\n".join(good))
    manifest, _ = go(recipe(), tmp_path / "run")
    lines = [json.loads(x) for x in (tmp_path / "run" / "quarantine.jsonl").open()]
    assert [(x["line"], x["stage"]) for x in lines] == [(3, "source"), (4, "source")]
    assert (manifest.samples, manifest.quarantined, manifest.retriable) == (10, 2, 0)
    _, engine = go(recipe(), tmp_path / "run")
    assert engine.seen == []


def test_too_many_failures_stop_the_run_with_the_most_frequent_reason(
    recipe: Load, project: Path, tmp_path: Path
) -> None:
    with (project / "prompts.jsonl").open("w") as file:
        for i in range(100):
            file.write(json.dumps({"prompt": f"Tell me about {i} cats."}) + "\n")
    with pytest.raises(
        TooManyFailures, match=r"20 of 20 samples failed(.|\n)*20 x generate: asked"
    ):
        go(recipe(), tmp_path / "run", FakeEngine(fails_on="cats"))


def test_an_error_in_a_users_stage_is_that_samples_failure(
    recipe: Load, project: Path, tmp_path: Path
) -> None:
    (project / "my_stage.py").write_text(
        "from factory.stages.base import Stage\n"
        "class Shout(Stage):\n"
        "    async def __call__(self, sample, models):\n"
        "        if sample.index == 4: {}['missing']\n"
        "        for c in sample.candidates: c.text = c.text.upper()\n"
        "        return sample\n"
    )
    data = yaml.safe_load((project / "recipe.yaml").read_text())
    data["stages"].insert(1, {"kind": "my_stage:Shout"})
    (project / "recipe.yaml").write_text(yaml.safe_dump(data))
    manifest, _ = go(recipe("max_failure_rate=1.0"), tmp_path / "run")
    assert dict(manifest.reasons) == {"shout: KeyError: 'missing' (my_stage.py:4)": 1}
    assert all(s.candidates[0].text.isupper() for s in read_samples(tmp_path / "run"))


def test_a_folder_in_use_is_refused(recipe: Load, tmp_path: Path) -> None:
    with (
        alone_in(tmp_path / "run"),
        pytest.raises(FactoryError, match="another factory process"),
        alone_in(tmp_path / "run"),
    ):
        pass


def test_an_unreadable_manifest_is_named_and_kept(recipe: Load, tmp_path: Path) -> None:
    go(recipe(), tmp_path / "run")
    (tmp_path / "run" / "manifest.json").write_text("{")
    with pytest.raises(FactoryError, match=r"manifest.json cannot be read.*move it away"):
        go(recipe(), tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    manifest, engine = go(recipe(), tmp_path / "run")
    assert engine.seen == []
    assert remembered(manifest) == 12 * 14


def test_an_interrupted_run_keeps_its_calls(recipe: Load, tmp_path: Path) -> None:
    class Stop(FakeEngine):
        async def generate(self, request):  # type: ignore[no-untyped-def]
            if len(self.seen) == 60:
                raise KeyboardInterrupt
            return await super().generate(request)

    stopped = Stop()
    with pytest.raises(KeyboardInterrupt):
        go(recipe(), tmp_path / "run", stopped)
    assert stopped.stats().calls > 40
    _, engine = go(recipe(), tmp_path / "run")
    assert len(engine.seen) == 12 * 14 - stopped.stats().calls


def test_kill_9_at_fifty_moments_loses_nothing_and_changes_nothing(
    recipe: Load, project: Path, tmp_path: Path
) -> None:
    """The run's process group is killed at 50 random moments; each time it goes on, until it ends.

    No call that was in the ledger at a kill is made again. How soon one is in it: `test_ledger.py`.
    """
    with (project / "prompts.jsonl").open("w") as file:
        for i in range(200):
            file.write(json.dumps({"id": f"p{i}", "prompt": f"Tell me about {i} cats."}) + "\n")
    data = yaml.safe_load((project / "recipe.yaml").read_text())
    (project / "recipe.yaml").write_text(yaml.safe_dump({**data, "part_size": 8}))
    whole, out = tmp_path / "whole", tmp_path / "run"
    go(recipe(), whole)
    log = tmp_path / "run.calls"
    rng = random.Random(0)
    kills = 0
    kept: set[str] = set()  # in the ledger when the last run was killed
    command = [sys.executable, "-m", "tests.kill_target", project / "recipe.yaml", out, "0.02"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as target:
        assert target.stdin is not None
        assert target.stdout is not None
        while kills < 50:
            log.unlink(missing_ok=True)
            target.stdin.write(b"run\n")
            said, pid = target.stdout.readline().split()
            assert said == b"loaded"
            ended, _, _ = select.select([target.stdout], [], [], rng.random() * 0.4)
            if not ended:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.killpg(int(pid), signal.SIGKILL)
            status = int(target.stdout.readline())
            calls = log.read_text().split() if log.exists() else []
            assert len(calls) == len(set(calls)), "a call was made twice in one run"
            assert kept.isdisjoint(calls), "a call of the ledger was made again"
            if status == -signal.SIGKILL:
                kills += 1
                kept = calls_kept(out, tmp_path / "copy")
            else:
                assert status == 0
                assert contents(out) == contents(whole)
                shutil.rmtree(out)
                kept = set()
        target.stdin.close()
    go(recipe(), out)
    assert contents(out) == contents(whole)
    finished = manifests.read(out)
    assert finished is not None
    assert (finished.samples, finished.quarantined) == (200, 0)


def calls_kept(out: Path, copy: Path) -> set[str]:
    """The keys in the run's ledger. A copy is read: SQLite would tidy up what the kill left."""
    copy.mkdir(exist_ok=True)
    for name in ("ledger.sqlite", "ledger.sqlite-wal"):
        (copy / name).unlink(missing_ok=True)
        if (out / name).exists():
            shutil.copy(out / name, copy)
    with contextlib.closing(sqlite3.connect(copy / "ledger.sqlite")) as ledger:
        has_calls = ledger.execute("SELECT 1 FROM sqlite_master WHERE name = 'calls'").fetchone()
        keys = ledger.execute("SELECT key FROM calls") if has_calls else []
        return {key.hex() for (key,) in keys}
