"""`import factory`: the commands as functions, in scripts and in notebooks."""

from __future__ import annotations

import asyncio
import signal
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
from tests.conftest import Scripted
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


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_a_script_needs_no_guard(process_reward: Scripted) -> None:
    """The engine's process must not run the script again; in a running loop too."""
    assert process_reward.ended.returncode == 0, process_reward.ended.stderr[-2000:]
    assert process_reward.ended.stdout == "begin\nmade 6\n"
