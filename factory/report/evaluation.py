"""The page of an evaluation by `factory eval`: its shares with their intervals, and what was printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from markupsafe import Markup

from factory.report.charts import Interval, intervals
from factory.report.page import Plain, write_page

_NO_SHARES = {
    "gain",
    "brier",
    "kappa",
    "fleiss_kappa",
    "order_gap",
    "length_pooled",
    "length_within",
}
"""Estimates of another kind, which the printed text has."""


def write_evaluation_report(evaluation: Any, text: str, out: Path) -> Path:
    """Write the page of a `factory.evaluation.evaluate.Evaluation` to the file `out`, whole or not at all.
    `text`: what the command printed.

    Raises `FactoryError` if the page cannot be written."""
    held = msgspec.to_builtins(evaluation)
    made = [(f"{held['rows']:,}", "rows"), (f"{held['calls']:,}", "calls made")]
    if bad := sum(held["bad_rows"].values()):
        made.append((f"{bad:,}", "rows with something wrong"))
    facts = [("data", held["data"])]
    facts += [(name, _shown(value)) for name, value in held["scorer"].items()]
    facts += [("rows left out", f"{n:,}: {reason}") for reason, n in held["bad_rows"].items()]
    groups: dict[str, list[Interval]] = {}
    for place, share in _shares(held["report"]):
        groups.setdefault(" ".join(place[:-1]) or "overall", []).append(share)
    charts: list[tuple[str, Markup]] = [(name, intervals(of)) for name, of in groups.items()]
    page = Plain(
        "evaluation",
        f"{held['kind']} on {Path(held['data']).name or held['data']}",
        "factory eval",
        made,
        facts,
        "Shares, with 95% intervals",
        charts,
        text=text,
    )
    return write_page("plain.html.jinja", out, page=page)


def _shares(held: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Interval]]:
    """Every share that has an interval, with its place in the report."""
    if not isinstance(held, dict):
        return
    if {"value", "low", "high"} <= held.keys():
        figures = held["value"], held["low"], held["high"]
        if place[-1] not in _NO_SHARES and None not in figures:
            yield place, Interval(place[-1].replace("_", " "), *figures)
        return
    for name, value in held.items():
        yield from _shares(value, (*place, str(name)))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
