"""What commands say last: commands that can be copied, and doubts where there is reason for them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from factory.align.held_out import Change, Evaluation
from factory.align.report import Alignment, Best, Round
from factory.cli import endings
from factory.cli.main import app
from factory.pipeline.manifest import Manifest
from factory.stats.bootstrap import Estimate
from tests.test_cli import Call, call, run_folder  # noqa: F401  # fixtures


def commands_in(text: str) -> list[list[str]]:
    """The commands under `next:`, without the program's name."""
    lines = text.partition("\nnext:\n")[2].splitlines()
    shown = [
        shlex.split(line) for line in lines if line.startswith("  ") and "  # " not in line[:4]
    ]
    return [words[words.index("factory") + 1 :] if "factory" in words else words for words in shown]


@pytest.mark.parametrize("arguments", [("status",), ("export",), ("show",), ("show", "--flipped")])
def test_what_is_named_next_is_a_command_that_takes_it(
    call: Call,  # noqa: F811
    run_folder: Path,  # noqa: F811
    arguments: tuple[str, ...],
) -> None:
    named = commands_in(call(arguments[0], run_folder, *arguments[1:]).out)
    assert named
    for words in named:
        parsed = app_parses(words)
        assert parsed, words


def app_parses(words: list[str]) -> bool:
    """It is a command with these options; nothing of it runs."""
    import typer.main

    group = typer.main.get_command(app)
    context = group.make_context("factory", list(words), resilient_parsing=True)
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    inner = command.make_context(words[0], list(words[1:]), parent=context)
    return inner.command is command


def test_an_end_names_the_training_that_fits_the_dataset(
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = Manifest(digest="", source_digest="", part_size=1, state="finished")
    manifest.models = {"policy": {"model": "my model"}}
    manifest.views = [
        {"view": "none", "kind": "preference", "rows": 0},
        {"view": "steps", "kind": "process", "rows": 3},
    ]
    endings.after_run(Path("runs/a b"), manifest)
    [words] = commands_in(capsys.readouterr().out)
    assert words[:4] == ["train", "prm", "--data", "runs/a b/datasets/steps"]
    assert words[words.index("--model") + 1] == "my model"


def test_after_an_alignment(capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = Evaluation({}, {}, Change(Estimate(None), {}), None, False, 0)
    done = Alignment([Round(1, "m", [], evaluation)], Best(1, "m", "it is better"))
    endings.after_align(
        Path("r.yaml"), Path("runs/x"), done, 1, Path("my-principles.yaml").absolute()
    )
    out = capsys.readouterr().out
    named = commands_in(out)
    assert ["show", "runs/x/round-1/run"] in named
    assert ["align", "r.yaml", "--out", "runs/x", "--rounds", "2"] in named
    assert ["align", "r.yaml", "--out", "runs/x-2"] in named
    assert "# edit my-principles.yaml, and see what that changes" in out
    assert f"{Path('runs/x/round-1/run/datasets')}: what it was trained on" in out


@pytest.mark.parametrize(
    ("started", "shown"),
    [
        ("/nowhere/bin/factory", "/nowhere/bin/factory status x"),
        (f"{Path.cwd()}/.venv/bin/factory", ".venv/bin/factory status x"),
    ],
)
def test_commands_are_written_as_they_can_be_typed_here(
    monkeypatch: pytest.MonkeyPatch, started: str, shown: str
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    monkeypatch.setenv("PATH", "")
    assert endings.command("status", "x") == shown
    assert endings.command("run", "my recipe.yaml").endswith(" run 'my recipe.yaml'")


def test_noise_is_said_in_the_terminal(call: Call, run_folder: Path) -> None:  # noqa: F811
    """The fake engine's judge is a coin, and 24 rows are few."""
    out = call("status", run_folder).out
    assert "24 rows, fewer than 50" in out
    assert "judge judge: 24 verdicts, " in out
    assert "read by log-probabilities" in out
