"""A run and an export, interrupted at every file operation (see `faults.c`), then run again.

    python -m tests.faults FOLDER [--every 7] [--writes 20] [--scenarios fresh edited ...]

This process imports what is slow once, and each try is a fork of it. A scenario
prepares a run's folder; its command is then killed, or has one operation fail with EIO or ENOSPC, at
each `every`-th operation; of small writes in a row to one file every `writes`-th is one. Whatever
happens: the command ends with a message and not a traceback,
every call that a trace names is in the ledger, a run that says it is finished holds all it says, and
after running the recipe again traces and datasets are, byte for byte, those of a run that was left alone.

Prints a JSON object a scenario: its operations, the tries, and what went wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from factory.cli import runs as commands
from factory.core.errors import FactoryError
from factory.pipeline import folder
from factory.pipeline import manifest as manifests
from factory.pipeline.progress import Progress
from factory.pipeline.run import run_async
from factory.pipeline.traces import read_samples
from factory.recipe.load import load
from tests.conftest import CONSTITUTION, RECIPE
from tests.fakes import FakeEngine

ROOT = Path(__file__).parents[1]
ENDS = {0: "done", 3: "refused", -signal.SIGKILL: "killed"}
MODES = {"kill": 0, "EIO": errno.EIO, "ENOSPC": errno.ENOSPC}


def build(where: Path) -> Path:
    """The shared object; `FileNotFoundError` where there is no C compiler."""
    made = where / "faults.so"
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise FileNotFoundError("no C compiler")
    command = [compiler, "-shared", "-fPIC", "-o", made, Path(__file__).with_suffix(".c"), "-ldl"]
    subprocess.run(command, check=True)
    return made


def start(where: Path, *arguments: str) -> Iterator[dict[str, Any]]:
    """Run this module on a new folder, in a process with the shared object preloaded. Gives what it
    prints, as it comes."""
    where.mkdir(parents=True)
    preloaded = {**os.environ, "LD_PRELOAD": str(build(where)), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.faults", str(where), *arguments]
    with subprocess.Popen(command, env=preloaded, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from map(json.loads, process.stdout)
    assert process.returncode == 0, f"tests.faults ended with {process.returncode}"


# What is done ------------------------------------------------------------------------------------


def run(out: Path, name: str = "recipe") -> None:
    recipe = load(out.parent / f"{name}.yaml")
    quiet = Progress(is_quiet=True)
    engines = {"policy": FakeEngine()}
    asyncio.run(run_async(recipe, out, engines=engines, progress=quiet))


def run_edited(out: Path) -> None:
    run(out, "edited")


def export_others(out: Path) -> None:
    commands.export(out, recipe=out.parent / "edited.yaml")


def nothing(out: Path) -> None:
    pass


def lose_files(out: Path) -> None:
    """A part, a dataset and half of another are gone."""
    (out / "traces" / "part-00001.parquet").unlink()
    shutil.rmtree(out / "datasets" / "sft")
    next((out / "datasets" / "preference").glob("data-*")).write_bytes(b"")


def lose_quarantine(out: Path) -> None:
    """All is to be made again, beside what is there."""
    (out / "quarantine.jsonl").unlink()


Step = Callable[[Path], None]
# Name -> (is there a whole run to begin with, what happens to it, the command that is interrupted).
SCENARIOS: dict[str, tuple[bool, Step, Step]] = {
    "fresh": (False, nothing, run),
    "edited": (True, nothing, run_edited),
    "lost": (True, lose_files, run),
    "quarantine": (True, lose_quarantine, run),
    "export": (True, nothing, export_others),
}


def make_project(where: Path) -> None:
    generate, _, _, judge = RECIPE["stages"]
    recipe = {**RECIPE, "part_size": 3, "stages": [generate, {**judge, "pairs": "all_pairs"}]}
    recipe["views"] = [{"kind": "preference", "pairs": "all_pairs"}, {"kind": "sft"}]
    stricter = {"kind": "preference", "pairs": "all_pairs", "min_margin": 0.01}
    edited = {**recipe, "seed": 8, "views": [stricter, {"kind": "sft"}]}
    (where / "kind.yaml").write_text(yaml.safe_dump(CONSTITUTION, sort_keys=False))
    (where / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (where / "edited.yaml").write_text(yaml.safe_dump(edited))
    rows = [json.dumps({"id": f"p{i}", "prompt": f"Tell me about {i} cats."}) for i in range(7)]
    rows[4] = "{no row"
    (where / "prompts.jsonl").write_text("\n".join(rows))


# What must hold ----------------------------------------------------------------------------------


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for name in ("traces", "datasets", "quarantine.jsonl")
        for path in ([out / name] if (out / name).is_file() else sorted((out / name).rglob("*")))
        if path.is_file()
    }


def check_calls(out: Path) -> None:
    """Every call that any trace names is in the ledger."""
    named = set()
    for manifest in out.rglob("manifest.json"):
        for sample in read_samples(manifest.parent):
            named |= {c.call for c in sample.candidates}
            named |= {reading.call for v in sample.verdicts for reading in v.readings}
    if named:
        with contextlib.closing(sqlite3.connect(out / "ledger.sqlite")) as ledger:
            held = {key.hex() for (key,) in ledger.execute("SELECT key FROM calls")}
        assert named <= held, f"{len(named - held)} calls are not in the ledger"


def check_truth(out: Path, wholes: list[dict[str, bytes]]) -> None:
    """`status` fails with a message at most; what it calls finished and whole is one of `wholes`."""
    try:
        commands.status(out)
    except FactoryError:
        return
    manifest = manifests.read(out)
    assert manifest is not None
    if manifest.state == "finished" and not folder.damaged_views(out, manifest):
        there = contents(out)
        traces = [{k: v for k, v in w.items() if k[:4] == "trac"} for w in wholes]
        assert {k: v for k, v in there.items() if k[:4] == "trac"} in traces, "not a whole run"


def check_after(
    out: Path,
    again: Step,
    expected: dict[str, bytes],
    wholes: list[dict[str, bytes]],
    *,
    exports: bool,
) -> None:
    check_calls(out)
    check_truth(out, wholes)
    if exports:  # something between, which has to find its way too
        with contextlib.suppress(FactoryError):
            commands.export(out)
        check_truth(out, wholes)
    again(out)
    found = contents(out)
    different = sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))
    if exports:  # made from the run's own recipe, in which paths are absolute, as the card says
        different = [name for name in different if not name.endswith("README.md")]
    assert not different, f"after running again these differ: {different}"
    check_calls(out)
    ours = (".old", ".tmp", ".half")
    left = [p.name for p in out.rglob("*") if p.name in (".next", ".ready") or p.suffix in ours]
    assert not left, f"left behind: {left}"


# Forks -------------------------------------------------------------------------------------------


def forked(work: Callable[[], None], errors: Path) -> int:
    """Do it in a fork; what it says goes to `errors`. 3: an error with a message."""
    if (child := os.fork()) == 0:
        code = 1
        with errors.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            try:
                work()
                code = 0
            except FactoryError as error:
                print(f"error: {error}", file=file)
                code = 3
            except BaseException:
                traceback.print_exc(file=file)
        sys.stdout.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _last(errors: Path) -> str:
    return " | ".join(line for line in errors.read_text().splitlines()[-8:] if line)


def tries(operations: int, every: int) -> Iterator[tuple[int, str, int]]:
    for i, nth in enumerate(range(1, operations + 1)):
        for j, (mode, error) in enumerate(MODES.items()):
            if (i + j) % every == 0:
                yield nth, mode, error


def examine(where: Path, name: str, every: int, writes: int) -> dict[str, Any]:
    has_run, prepare, command = SCENARIOS[name]
    base, out, errors = where / "base", where / "run", where / "errors.txt"
    counter = ctypes.CDLL(None)

    def fresh() -> None:
        shutil.rmtree(out, ignore_errors=True)
        if has_run:
            shutil.copytree(base, out)
        prepare(out)

    def counting() -> None:
        counter.arm(str(out).encode(), 0, 0, writes)
        command(out)
        (where / "operations").write_text(str(counter.operations()))

    for _ in range(2):  # the second has imported and cached what the first had to
        fresh()
        assert forked(counting, errors) == 0, errors.read_text()
    operations = int((where / "operations").read_text())
    expected = contents(out)
    wholes = [expected, contents(base)] if has_run else [expected]
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    for nth, mode, error in tries(operations, every):
        fresh()

        def interrupted(nth: int = nth, error: int = error) -> None:
            counter.arm(str(out).encode(), nth, error, writes)
            command(out)

        what = f"{name}: {mode} at operation {nth}"
        code = forked(interrupted, errors)
        ends[f"{mode}: {ENDS.get(code, 'traceback')}"] += 1
        if code not in ENDS:
            wrong.append(f"{what}: {_last(errors)}")

        def after(nth: int = nth) -> None:
            check_after(out, command, expected, wholes, exports=nth % 2 == 0)

        if forked(after, errors):
            wrong.append(f"{what}, and then: {_last(errors)}")
    return {"scenario": name, "operations": operations, "ends": dict(ends), "wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--writes", type=int, default=20)
    parser.add_argument("--scenarios", nargs="*", default=list(SCENARIOS))
    given = parser.parse_args()
    where = given.folder.resolve()
    import datasets  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import uvloop  # noqa: F401

    make_project(where)
    assert forked(lambda: run(where / "base"), where / "errors.txt") == 0
    for name in given.scenarios:
        print(json.dumps(examine(where, name, given.every, given.writes)), flush=True)


if __name__ == "__main__":
    main()
