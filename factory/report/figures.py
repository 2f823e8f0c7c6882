"""The figures of one run, as the page's template takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from factory.core.screen import duration
from factory.export.by_principle import Principle
from factory.export.report import JudgeAgreement, JudgeQuality
from factory.export.view import REASONS
from factory.pipeline.history import Moment
from factory.pipeline.manifest import Manifest
from factory.recipe.recipe import Recipe
from factory.report import charts
from factory.report.entries import quarantine_reason
from factory.report.evidence import Evidence, gathered
from factory.report.loop import Alignment, Training, alignment_of, trainings_beside
from factory.report.pack import Packed
from factory.stats.noise import doubts


class Count(NamedTuple):
    """A count with its share of the greatest one, in percent, and a remark."""

    name: str
    total: int
    percent: float
    remark: str = ""


class Drop(NamedTuple):
    where: str
    reason: str
    meaning: str
    samples: int


class Chart(NamedTuple):
    title: str
    svg: Markup
    remark: str = ""


class Judge(NamedTuple):
    name: str
    quality: JudgeQuality
    first: float | None
    """Mean P(the answer shown first is better)."""


class Run(NamedTuple):
    """One run in the page."""

    letter: str
    """A or B, if two are shown; else empty."""
    recipe: Recipe
    manifest: Manifest
    asked: list[tuple[str, str]]
    made: list[tuple[str, str]]
    doubts: list[str]
    flow: list[Count]
    pace: list[Chart]
    scores: list[Chart]
    verdicts: list[Chart]
    judges: list[Judge]
    agreements: list[JudgeAgreement]
    lengths: list[Chart]
    principles: list[Principle]
    drops: list[Drop]
    stages: list[tuple[str, Any]]
    trainings: list[Training]
    alignment: Alignment | None
    packed: Packed


def run_of(folder: Path, recipe: Recipe, manifest: Manifest, letter: str, budget: int) -> Run:
    evidence, packed = gathered(folder, recipe, manifest, budget)
    statistics = evidence.statistics
    return Run(
        letter=letter,
        recipe=recipe,
        manifest=manifest,
        asked=list(_asked(recipe, manifest)),
        made=list(_made(manifest)),
        doubts=list(dict.fromkeys(line for view in manifest.views for line in doubts(view))),
        flow=_flow(manifest, evidence),
        pace=list(_pace(manifest.history)),
        scores=[
            Chart(name, _histogram(numbers.values(), "answers"), _mean(numbers.mean()))
            for name, numbers in sorted(evidence.scores.items())
        ],
        verdicts=list(_verdicts(evidence)),
        judges=[
            Judge(name, quality, evidence.judged[name].first.mean())
            for name, quality in statistics.judges().items()
        ],
        agreements=statistics.agreements(),
        lengths=list(_lengths(manifest)),
        principles=statistics.principles(),
        drops=_drops(manifest, evidence),
        stages=[(name, n) for name, n in manifest.stages.items() if n.made or n.remembered],
        trainings=trainings_beside(folder),
        alignment=alignment_of(folder),
        packed=packed,
    )


def _asked(recipe: Recipe, manifest: Manifest) -> Iterator[tuple[str, str]]:
    limit = f", the first {manifest.limit:,}" if manifest.limit else ""
    yield "prompts", f"{Path(str(recipe.source.path)).name}{limit}"
    if (made := recipe.constitution) is not None:
        count = len(made.principles)
        yield "constitution", f"{made.name} {made.version}, {count} principle{'s' * (count > 1)}"
    for name, model in recipe.models.items():
        yield f"model {name}", Path(model.model).name or model.model
    yield "stages", " → ".join(recipe.stage_labels())
    yield "datasets", ", ".join(view.name or view.kind for view in recipe.views) or "none"


def _made(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for view in manifest.views:
        yield f"{view['rows']:,}", f"rows of {view['view']}"
    yield f"{manifest.samples:,}", "samples"
    if manifest.quarantined:
        yield f"{manifest.quarantined:,}", "quarantined"
    tokens = manifest.tokens()
    yield _short(tokens["output"]), "tokens written"
    yield duration(manifest.seconds), "running time"


def _flow(manifest: Manifest, evidence: Evidence) -> list[Count]:
    counts = evidence.counts
    answered = counts["answers"] + counts["revisions"]
    stages: list[tuple[str, int, str]] = [
        ("source rows", manifest.rows, _some(manifest.quarantined, "quarantined")),
        ("first answers", counts["answers"], ""),
        ("critiques", counts["critiques"], ""),
        ("revisions", counts["revisions"], ""),
        (
            "answers kept",
            answered - counts["dropped"],
            _some(counts["dropped"], "dropped by filters"),
        ),
        (
            "verdicts read",
            counts["verdicts"] - counts["verdicts unread"],
            _unread(counts, "verdicts"),
        ),
        ("scores read", counts["scores"] - counts["scores unread"], _unread(counts, "scores")),
        ("solutions with labeled steps", counts["step labels"], ""),
        *(
            (f"rows of {view['view']}", view["rows"], _some(sum(view["drops"].values()), "dropped"))
            for view in manifest.views
        ),
    ]
    shown = [each for each in stages if each[1] or each[2] or each[0].startswith("rows")]
    most = max((count for _, count, _ in shown), default=0) or 1
    return [Count(name, count, 100 * count / most, remark) for name, count, remark in shown]


def _unread(counts: Any, what: str) -> str:
    return _some(counts[f"{what} unread"], "unparsed")


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}" if count else ""


def _pace(history: Sequence[Moment]) -> Iterator[Chart]:
    """Throughput and cache between two moments."""
    spaced: list[Moment] = []
    for moment in history:
        if not spaced or moment.seconds - spaced[-1].seconds >= history[-1].seconds / 60:
            spaced.append(moment)
    pairs = [(a, b) for a, b in pairwise(spaced) if b.output_tokens >= a.output_tokens]
    if len(pairs) < 2:
        return
    rates = [
        (b.seconds, (b.output_tokens - a.output_tokens) / (b.seconds - a.seconds)) for a, b in pairs
    ]
    yield Chart("output tokens a second", charts.line(rates, unit="/s", x_unit=" s"))
    cached = [
        (b.seconds, 100 * (b.cached_tokens - a.cached_tokens) / (b.prompt_tokens - a.prompt_tokens))
        for a, b in pairs
        if b.prompt_tokens > a.prompt_tokens
    ]
    if len(cached) > 1:
        chart = charts.line(cached, unit="%", x_unit=" s", top=100)
        yield Chart("prompt tokens from the cache", chart)


def _histogram(values: Sequence[float], what: str) -> Markup:
    return charts.histogram(charts.bins(values), what=what)


def _mean(value: float | None) -> str:
    return "" if value is None else f"mean {charts.number(value)}"


def _verdicts(evidence: Evidence) -> Iterator[Chart]:
    for name, judged in sorted(evidence.judged.items()):
        if values := judged.p.values():
            chart = charts.histogram(charts.bins(values, 0, 1), middle=0.5, what="verdicts")
            won = sum(p > 0.5 for p in values) / len(values)
            yield Chart(f"{name}: P(revision is better)", chart, f"{won:.0%} above one half")
        if values := judged.margins.values():
            chart = charts.histogram(charts.bins(values, 0, 1), what="verdicts")
            yield Chart(f"{name}: margin |2p − 1|", chart, _mean(judged.margins.mean()))


def _lengths(manifest: Manifest) -> Iterator[Chart]:
    for view in manifest.views:
        spreads, length = view.get("spreads") or {}, view.get("length")
        both = [(name, spreads.get(f"{name} words")) for name in ("chosen", "rejected")]
        groups = [
            charts.Box(name, *(spread[key] for key in ("min", "q1", "median", "q3", "max")))
            for name, spread in both
            if spread
        ]
        if length and len(groups) == 2:
            remark = (
                f"the longer answer is chosen in {length['share_longer']:.0%} of "
                f"{length['pairs']:,} pairs; far from 50%, length alone fits them"
            )
            yield Chart(view["view"], charts.boxes(groups, "words"), remark)


def _drops(manifest: Manifest, evidence: Evidence) -> list[Drop]:
    found = [
        Drop(where, reason, REASONS.get(reason, "").replace("`", ""), count)
        for (where, reason), count in evidence.drops.most_common()
    ]
    return found + [
        Drop("quarantine", quarantine_reason(reason), "", count)
        for reason, count in manifest.reasons.items()
    ]


def _short(count: int) -> str:
    """`950`, `12.3k`, `4.56M`."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
