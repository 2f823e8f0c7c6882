"""The curves of a training, from its log: `curves.png` to look at, `curves.svg` to put in a report.

A panel for each group of metrics in the log, over the steps. The same log gives the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Title of a panel -> what it can show, by the names in log.jsonl.
_PANELS: dict[str, tuple[str, ...]] = {
    "loss": ("loss", "loss/policy", "loss/value"),
    "reward": ("reward", "objective/rlhf_reward", "objective/scores", "mean_reward"),
    "margin of chosen over rejected": ("rewards/margins", "margin"),
    "accuracy": ("rewards/accuracies", "accuracy", "balanced_accuracy"),
    "KL to the reference": ("kl", "objective/kl"),
    "entropy": ("entropy", "policy/entropy"),
    "explained variance of the value": ("val/explained_variance",),
    "tokens an answer": ("completions/mean_length",),
    "gradient norm": ("grad_norm",),
}


def panels_of(log: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Title of a panel -> metric -> its (step, value) points. Only what the log has."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {
        title: found
        for title, names in _PANELS.items()
        if (found := {n: points for n in names if (points := _points(lines, n))})
    }


def draw(log: Path, out: Path) -> list[Path]:
    """Draw the log's curves into the folder `out`. Returns the files made; none if the log is empty."""
    panels = panels_of(log)
    if not panels:
        return []
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with mpl.rc_context({"svg.hashsalt": "factory", "font.size": 9}):
        figure = Figure(figsize=(4.2 * columns, 2.8 * rows), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axis, (title, found) in zip(axes, panels.items(), strict=False):
            for name, points in found.items():
                axis.plot(*zip(*points, strict=True), label=name, linewidth=1.4, marker=".")
            axis.set_title(title)
            axis.set_xlabel("step")
            axis.grid(alpha=0.3)
            if len(found) > 1:
                axis.legend(frameon=False, fontsize=8)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        png, svg = out / "curves.png", out / "curves.svg"
        figure.savefig(png, dpi=120, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]


def _points(lines: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(line["step"], line[name]) for line in lines if line.get(name) is not None]
