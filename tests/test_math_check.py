"""The helper processes for algebra: a hard question stops no other, and none outlives its use."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from factory.math import math_check
from factory.math.answers import check, check_aside
from factory.math.math_check import Pool

HARD = "9^{9^{9^x}}"


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool(2, seconds=0.3)
    yield made
    made.close()


def test_a_hard_question_stops_no_other_and_its_helper_is_replaced(pool: Pool) -> None:
    helpers = [pool._start(), pool._start()]
    pool._idle += helpers
    hard: list[bool | None] = []
    thread = threading.Thread(target=lambda: hard.append(pool.ask(HARD, "x+1")))
    thread.start()
    answered = 0
    while thread.is_alive():
        assert pool.ask("\\sqrt{8}", "2\\sqrt{2}") is True
        answered += 1
    thread.join()
    assert hard == [None]
    assert answered > 10
    dead = [helper for helper in helpers if helper.returncode is not None]
    assert len(dead) == 1
    with pytest.raises(ProcessLookupError):  # no zombie either
        os.kill(dead[0].pid, 0)
    assert pool.ask("2x", "x+x") is True


def test_a_killed_helper_is_replaced_and_closing_ends_them(pool: Pool) -> None:
    assert pool.ask("x", "2x") is False
    pool._idle[0].kill()
    pool._idle[0].wait()
    assert pool.ask("x", "2x") is False
    [helper] = pool._idle
    pool.close()
    assert helper.returncode is not None


def test_an_event_loop_goes_on_while_algebra_is_done(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(math_check, "_pool", pool)

    async def both() -> tuple[bool | None, int]:
        checked = asyncio.ensure_future(check_aside(f"${HARD}$", "x+2", "math"))
        turns = 0
        while not checked.done():
            await asyncio.sleep(0)
            turns += 1
        return checked.result()[0], turns

    verdict, turns = asyncio.run(both())
    assert verdict is None
    assert turns > 100


def test_a_script_without_a_main_guard_and_its_fork_both_get_answers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from factory.math.answers import check\n"
        "def told(reference):\n"
        "    print(check('$2\\\\sqrt{2}$', reference, 'math')[0], flush=True)\n"
        "told('\\\\sqrt{8}')\n"
        "child = os.fork()\n"
        "told('\\\\sqrt{9}')\n"
        "if child:\n"
        "    os.waitpid(child, 0)\n"
    )
    (tmp_path / "sympy.py").write_text("raise RuntimeError('not this one')\n")
    root = str(Path(__file__).parent.parent)
    ended = subprocess.run(
        [sys.executable, "-P", str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("True\nFalse\nFalse\n", "")


def test_the_same_question_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Pool, "ask", lambda self, answer, expected: asked.append(answer))
    for _ in range(3):
        assert check("$x^{31}$", "x^{32}", "math") == (None, "")
    assert asked == ["x^{31}"]
