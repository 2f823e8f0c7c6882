"""The page of a training: its curves, what it was trained on, its options and last figures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from markupsafe import Markup

from factory.core.errors import FactoryError
from factory.report.charts import number
from factory.report.loop import panels
from factory.report.page import Plain, write_page

RECORD = "training.json"


def write_training_report(folder: Path, out: Path) -> Path:
    """Write the page of a finished training to the file `out`, whole or not at all.

    Raises `FactoryError` if the training's record cannot be read or the page cannot be written."""
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes())
        training = _training_of(folder, record)
    except (OSError, KeyError, TypeError, AttributeError, msgspec.MsgspecError) as error:
        what = f"{folder / RECORD} is no record of a finished training ({error})"
        raise FactoryError(f"{what}; train again with --resume") from error
    return write_page("plain.html.jinja", out, page=training)


def _training_of(folder: Path, record: Mapping[str, Any]) -> Plain:
    data, metrics = record["data"], record["metrics"]
    made = [
        (f"{record['steps']:,}", "steps"),
        (f"{data['rows_used']:,}", f"of {data['rows']:,} rows used"),
        (f"{record['seconds']:,.0f} s", "training time"),
    ]
    if isinstance(loss := metrics.get("loss"), int | float):
        made.append((number(loss), "last loss"))
    found: list[tuple[str, Markup]] = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        found = list(panels(folder / "log.jsonl"))
    return Plain(
        "training",
        folder.resolve().name,
        record["kind"],
        made,
        list(_facts(record)),
        "Curves",
        found,
        [
            ("Last figures", "As logged at the last step.", _rows(metrics)),
            (
                "Options",
                "Given, or set by the trainer; all others are the library's defaults.",
                _rows(record["config"]),
            ),
        ],
    )


def _facts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    data = record["data"]
    yield "base model", str(record["base_model"]["name"])
    yield "data", str(data["path"])
    for reason, count in data["rows_left_out"].items():
        yield "rows left out", f"{count:,}: {reason}"
    if data["rows_cut"]:
        yield "rows cut", f"{data['rows_cut']:,}"
    yield (
        "adapter (LoRA)",
        "none: all weights" if record["lora"] is None else _shown(record["lora"]),
    )
    yield "seed", str(record["seed"])
    if record.get("resumed_at_step"):
        yield "resumed at step", f"{record['resumed_at_step']:,}"
    yield "versions", ", ".join(f"{name} {of}" for name, of in record["versions"].items())


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, _shown(value)) for name, value in values.items()]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return format(value, ".6g")
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
