"""`import factory`: the commands as functions, in scripts and in notebooks."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import factory
from factory.core.errors import RecipeError
from factory.recipe import pipeline as pipelines
from factory.recipe.recipe import Recipe
from factory.training import TRAINERS
from tests.fakes import FakeEngine

Do = Callable[[Callable[[], Any]], Any]


def at_once(work: Callable[[], Any]) -> Any:
    return work()


def in_a_notebook(work: Callable[[], Any]) -> Any:
    async def cell() -> Any:
        return work()

    return asyncio.run(cell())


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Takes the place of every recipe's engines."""
    made = FakeEngine()
    monkeypatch.setattr(pipelines, "build", lambda models, *_: dict.fromkeys(models, made))
    return made


@pytest.mark.parametrize("do", [at_once, in_a_notebook])
def test_run_and_preview(do: Do, engine: FakeEngine, recipe: Callable[..., Recipe], tmp_path: Path):
    path, out = recipe().path, tmp_path / "run"
    shown = do(lambda: factory.preview(path, 2, out=out, quiet=True))
    assert [len(sample.candidates) for sample in shown] == [4, 4]
    asked = len(engine.seen)
    made = do(
        lambda: factory.run(str(path), out, overrides={"stages.0.n": 3, "name": "mine"}, quiet=True)
    )
    assert (made.folder, made.manifest.samples) == (out, 12)
    assert len(engine.seen) > asked
    assert len(made.dataset("sft")) == made.manifest.views[1]["rows"]
    traces = list(factory.load_traces(out))
    assert [len(sample.candidates) for sample in traces] == [6] * 12
    assert [s.id for s in made.traces()] == [s.id for s in traces]


def test_mistakes_are_told_as_by_the_commands(recipe: Callable[..., Recipe], tmp_path: Path):
    with pytest.raises(RecipeError, match=r"--set stages\.0\.m=2: .*unknown field"):
        in_a_notebook(lambda: factory.run(recipe().path, overrides={"stages.0.m": 2}))
    with pytest.raises(RecipeError, match="no trainer 'dop'; did you mean 'dpo'"):
        factory.train("dop", data="x", model="y", out="z")
    with pytest.raises(RecipeError, match="holds no run"):
        factory.load_traces(tmp_path)


@pytest.mark.parametrize("do", [at_once, in_a_notebook])
def test_train_takes_its_options_to_the_trainer(
    do: Do, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    class Trainer:
        def train(self, *args: Any, **options: Any) -> dict[str, Any]:
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            seen.append((args, options))
            return {"steps": 8}

    seen: list[Any] = []
    monkeypatch.setitem(TRAINERS, "dpo", Trainer())
    job = {"data": "pairs", "model": "m", "out": str(tmp_path), "config": {"beta": 0.2}}
    assert do(lambda: factory.train("dpo", **job, lora={"r": 4})) == {"steps": 8}
    options = {"lora": {"r": 4}, "config": {"beta": 0.2}, "resume": False}
    assert seen == [(("pairs", "m", tmp_path), options)]


def test_ctrl_c_in_a_notebook_reaches_what_works() -> None:
    """The main thread gets it, and waits for the other to end as it would."""
    from factory import api

    ended = threading.Event()

    def work() -> None:
        main = threading.main_thread()
        try:
            interrupt(main)
            while True:
                ended.wait(0.01)
        finally:
            ended.set()

    def interrupt(thread: threading.Thread) -> None:
        assert thread.ident is not None
        signal.pthread_kill(thread.ident, signal.SIGINT)

    # Started in the background by a shell, this process ignores the signal.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            api._in_a_thread(work)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert ended.is_set()


SCRIPT = """
import asyncio, factory
print("begin")
async def cell():
    short = {{"kind": "generate", "model": "policy", "sampling": {{"max_tokens": 4}}}}
    views = [{{"kind": "sft", "truncated": "keep"}}]
    overrides = {{"stages": [short], "views": views, "training": []}}
    return factory.run({path!r}, {out!r}, limit=2, overrides=overrides)
made = asyncio.run(cell())
print("made", made.manifest.samples)
"""


@pytest.mark.engine
def test_a_script_needs_no_guard(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """The engine's process must not run the script again; in a running loop too."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(path=str(recipe().path), out=str(tmp_path / "run")))
    ended = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ
        | {"TORCHDYNAMO_DISABLE": "1"},  # compiling the sampler takes longer than all else
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout == "begin\nmade 2\n"
