from __future__ import annotations

import json
from pathlib import Path

from factory.training.common.curves import draw


def logged(folder: Path, *lines: dict[str, float | None]) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_each_group_of_metrics_has_a_panel(tmp_path: Path) -> None:
    log = logged(
        tmp_path,
        {"step": 1, "loss": 0.7, "accuracy": 0.5, "balanced_accuracy": None, "learning_rate": 1e-5},
        {"step": 2, "loss": None, "accuracy": 0.6, "balanced_accuracy": 0.4},
    )
    png, svg = draw(log, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    assert all(f"<!-- {title} -->" in text for title in ("loss", "accuracy", "balanced_accuracy"))
    assert "learning_rate" not in text


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    log = logged(tmp_path, {"step": 1, "reward": 0.1}, {"step": 5, "reward": 0.4})
    first = [path.read_bytes() for path in draw(log, tmp_path)]
    assert [path.read_bytes() for path in draw(log, tmp_path)] == first


def test_a_log_without_figures_draws_nothing(tmp_path: Path) -> None:
    assert draw(logged(tmp_path), tmp_path) == []
    assert draw(logged(tmp_path, {"step": 1, "loss": None}), tmp_path) == []
