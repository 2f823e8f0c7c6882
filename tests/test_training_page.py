"""The page of a training, from the files that `factory train` leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from factory.cli.main import app
from factory.core.errors import FactoryError
from factory.report.training import write_training_report

RECORD = {
    "kind": "dpo",
    "data": {
        "path": "runs/<mine>/datasets/preference",
        "rows": 1_200,
        "rows_used": 1_150,
        "rows_cut": 7,
        "rows_left_out": {"over 1024 tokens": 50},
    },
    "base_model": {"name": "small", "fingerprint": "f"},
    "lora": {"r": 16},
    "config": {"learning_rate": 5e-7, "loss_type": ["sigmoid"]},
    "seed": 42,
    "steps": 144,
    "resumed_at_step": 72,
    "metrics": {"loss": 0.5},
    "seconds": 61.4,
    "versions": {"factory": "0.1.0"},
}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    folder = tmp_path / "dpo"
    folder.mkdir()
    (folder / "training.json").write_text(json.dumps(RECORD))
    lines = [{"step": 72, "loss": 0.7}, {"step": 144, "loss": 0.5}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_page_says_what_was_trained_and_how(trained: Path, tmp_path: Path) -> None:
    text = write_training_report(trained, tmp_path / "page.html").read_text()
    for part in (
        "<h1>dpo</h1>",
        "<b>144</b><span>steps</span>",
        "<b>1,150</b><span>of 1,200 rows used</span>",
        "<b>0.5</b><span>last loss</span>",
        "<dd>50: over 1024 tokens</dd>",
        "<dd>runs/&lt;mine&gt;/datasets/preference</dd>",
        "<dd>72</dd>",
        "<td>learning_rate</td><td>5e-07</td>",
        "<title>72 steps: 0.7</title>",
    ):
        assert part in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_a_training_without_a_log_has_a_page(trained: Path, tmp_path: Path) -> None:
    (trained / "log.jsonl").unlink()
    text = write_training_report(trained, tmp_path / "page.html").read_text()
    assert "<svg" not in text
    assert "<h1>dpo</h1>" in text


def test_report_of_a_trainings_folder(trained: Path) -> None:
    ended = CliRunner().invoke(app, ["report", str(trained)])
    assert (ended.exit_code, ended.output.splitlines()[-1]) == (0, str(trained / "report.html"))
    (trained / "training.json").write_text("{}")
    with pytest.raises(FactoryError, match="no record of a finished training"):
        write_training_report(trained, trained / "report.html")
