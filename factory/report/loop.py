"""Trainings and comparisons beside a run: curves of its logs, win rates of an alignment's rounds.

Files of `factory train` and `factory align` are read as they are; what is missing or cannot be read is
left out of the page.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from markupsafe import Markup

from factory.report.charts import Interval, intervals, line
from factory.training.common.curves import panels_of


class Training(NamedTuple):
    """The curves of one training."""

    name: str
    panels: list[tuple[str, Markup]]


class Alignment(NamedTuple):
    """The rounds of `factory align`."""

    rates: Markup
    best: str


def trainings_beside(run: Path) -> list[Training]:
    """Those inside the run, and those of the alignment's round that it belongs to."""
    found = []
    for models in (run / "models", run.parent / "models"):
        if models is not run / "models" and not (run.parent / "evaluation.json").exists():
            continue
        for folder in sorted(models.glob("*")) if models.is_dir() else []:
            if folder.is_symlink():
                continue
            with contextlib.suppress(OSError, ValueError, KeyError):
                if drawn := list(panels(folder / "log.jsonl")):
                    found.append(Training(folder.name, drawn))
    return found


def panels(log: Path) -> Iterator[tuple[str, Markup]]:
    """(title, curve) of each metric in a training's log."""
    for title, metrics in panels_of(log).items():
        for name, points in metrics.items():
            named = title if len(metrics) == 1 else f"{title}: {name}"
            yield named, line([(float(step), value) for step, value in points], x_unit=" steps")


def alignment_of(run: Path) -> Alignment | None:
    """The alignment whose round made the run. None: it is no part of one."""
    try:
        held: dict[str, Any] = msgspec.json.decode((run.parents[1] / "align.json").read_bytes())
        rates = [
            Interval(f"round {made['number']} against the {other}", *rate)
            for made in held["rounds"]
            for other, found in made["evaluation"]["against"].items()
            if None not in (rate := (found["rate"], found["low"], found["high"]))
        ]
        best = (held.get("best") or {}).get("why", "")
    except (OSError, IndexError, ValueError, KeyError, TypeError, msgspec.MsgspecError):
        return None
    return Alignment(intervals(rates), best) if rates else None
