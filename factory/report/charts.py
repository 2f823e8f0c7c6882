"""Charts as inline SVG. Colors and fonts are in the style sheet, by class; nothing here is a user's text
without being escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

_W, _H = 320.0, 110.0
_FOOT = 16.0  # height of the axis labels
_BINS = 24


class Bins(NamedTuple):
    """A histogram: `counts` of values in equal bins from `low` to `high`."""

    low: float
    high: float
    counts: list[int]


def bins(values: Sequence[float], low: float | None = None, high: float | None = None) -> Bins:
    """Values in up to 24 bins. `low`, `high`: the range; None: that of the values."""
    least = min(values) if low is None else low
    most = max(values) if high is None else high
    if most <= least:
        return Bins(least, least, [len(values)])
    counts = [0] * _BINS
    for value in values:
        place = int((value - least) / (most - least) * _BINS)
        counts[min(max(place, 0), _BINS - 1)] += 1
    return Bins(least, most, counts)


def histogram(held: Bins, *, middle: float | None = None, what: str = "values") -> Markup:
    """Bars of equal width. `middle`: a value to mark, such as the probability of a coin."""
    top = max(held.counts) or 1
    width = _W / len(held.counts)
    room = _H - _FOOT
    step = (held.high - held.low) / len(held.counts)
    bars = []
    for i, count in enumerate(held.counts):
        height = max(1.5, count / top * (room - 4)) if count else 0
        low, high = number(held.low + i * step), number(held.low + (i + 1) * step)
        bars.append(
            f'<rect class="bar" x="{i * width + 0.75:.1f}" y="{room - height:.1f}" '
            f'width="{width - 1.5:.1f}" height="{height:.1f}" rx="1.5">'
            f"<title>{low} to {high}: {count:,} {escape(what)}</title></rect>"
        )
    marks = [_label(0, number(held.low), "start"), _label(_W, number(held.high), "end")]
    if middle is not None and held.low < middle < held.high:
        x = (middle - held.low) / (held.high - held.low) * _W
        marks.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{room}"/>')
        marks.append(_label(x, number(middle), "middle"))
    return _svg([*bars, _floor(room), *marks], f"histogram of {what}")


def line(
    points: Sequence[tuple[float, float]],
    *,
    unit: str = "",
    x_unit: str = "",
    top: float | None = None,
) -> Markup:
    """A curve through points in order of x. `top`: the greatest y shown; None: that of the points."""
    room = _H - _FOOT
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(0.0, *ys), max(ys) if top is None else top
    x_span, y_span = (xs[-1] - xs[0]) or 1.0, (high - low) or 1.0
    placed = [
        ((x - xs[0]) / x_span * _W, room - 3 - (y - low) / y_span * (room - 8)) for x, y in points
    ]
    path = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(placed))
    dots = [
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{2.5 if len(points) < 3 else 5}">'
        f"<title>{number(at)}{escape(x_unit)}: {number(value)}{escape(unit)}</title></circle>"
        for (x, y), (at, value) in zip(placed, points, strict=True)
    ]
    solid = "line" if len(points) > 2 else "line few"
    marks = [
        _label(0, f"{number(xs[0])}{x_unit}", "start"),
        _label(_W, f"{number(xs[-1])}{x_unit}", "end"),
        f'<text class="axis" x="{_W}" y="9" text-anchor="end">{escape(number(max(ys)) + unit)}</text>',
    ]
    return _svg([_floor(room), f'<path class="{solid}" d="{path}"/>', *dots, *marks], "curve")


class Box(NamedTuple):
    """Quartiles of one group, to be drawn as a box."""

    name: str
    low: float
    q1: float
    median: float
    q3: float
    high: float


def boxes(groups: Sequence[Box], unit: str) -> Markup:
    """Box plots on one scale from 0, one below the other."""
    top = max(box.high for box in groups) or 1.0
    row = 36.0
    height = row * len(groups) + _FOOT
    parts = []
    for i, box in enumerate(groups):
        y = i * row + 24

        def x(value: float) -> float:
            return value / top * _W

        parts.append(
            f'<text class="axis" x="0" y="{y - 11}">{escape(box.name)}: median '
            f"{number(box.median)} {escape(unit)}</text>"
            f'<line class="whisker" x1="{x(box.low):.1f}" x2="{x(box.high):.1f}" y1="{y}" y2="{y}"/>'
            f'<rect class="box" x="{x(box.q1):.1f}" y="{y - 5}" rx="2" height="10" '
            f'width="{max(2.0, x(box.q3) - x(box.q1)):.1f}"><title>{number(box.q1)} to '
            f"{number(box.q3)}</title></rect>"
            f'<line class="median" x1="{x(box.median):.1f}" x2="{x(box.median):.1f}" y1="{y - 6}" '
            f'y2="{y + 6}"/>'
        )
    foot = [_label(0, "0", "start", height), _label(_W, f"{number(top)} {unit}", "end", height)]
    return _svg([*parts, *foot], "lengths", height)


class Interval(NamedTuple):
    """A rate with its 95% interval, in [0, 1]."""

    name: str
    value: float
    low: float
    high: float


def intervals(rates: Sequence[Interval]) -> Markup:
    """Rates as dots with their intervals, one below the other, on a scale from 0 to 1."""
    row = 32.0
    height = row * len(rates) + _FOOT
    parts = [f'<line class="mark" x1="{_W / 2}" x2="{_W / 2}" y1="0" y2="{height - _FOOT}"/>']
    for i, rate in enumerate(rates):
        y = i * row + 20
        parts.append(
            f'<text class="axis" x="0" y="{y - 9}">{escape(rate.name)}: {rate.value:.0%} '
            f"({rate.low:.0%} to {rate.high:.0%})</text>"
            f'<line class="whisker" x1="{rate.low * _W:.1f}" x2="{rate.high * _W:.1f}" y1="{y}" '
            f'y2="{y}"/><circle class="point" cx="{rate.value * _W:.1f}" cy="{y}" r="4"/>'
        )
    foot = [
        _label(0, "0%", "start", height),
        _label(_W / 2, "50%", "middle", height),
        _label(_W, "100%", "end", height),
    ]
    return _svg([*parts, *foot], "win rates", height)


def number(value: float) -> str:
    """A number in at most four digits: `12,345`, `1.234`, `0.0012`."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _label(x: float, text: str, anchor: str, height: float = _H) -> str:
    return f'<text class="axis" x="{x:.1f}" y="{height - 4}" text-anchor="{anchor}">{escape(text)}</text>'


def _floor(y: float) -> str:
    return f'<line class="floor" x1="0" x2="{_W}" y1="{y}" y2="{y}"/>'


def _svg(parts: Sequence[str], what: str, height: float = _H) -> Markup:
    inside = "".join(parts)
    return Markup(
        f'<svg viewBox="0 0 {_W:.0f} {height:.0f}" role="img" aria-label="{escape(what)}">{inside}</svg>'
    )
