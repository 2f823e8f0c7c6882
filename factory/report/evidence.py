"""One pass over a run's traces: the figures of the page, and the samples packed into it."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import msgspec

from factory.core.records import Failure, Sample, Verdict
from factory.export.statistics import EvidenceStatistics, Numbers
from factory.pipeline import traces as shards
from factory.pipeline.fates import Fates
from factory.pipeline.manifest import Manifest
from factory.recipe.recipe import Recipe
from factory.report import entries
from factory.report.pack import Pack, Packed
from factory.scorers.comparison import is_known


class Judged(NamedTuple):
    """What one judge said."""

    p: Numbers
    """P(a revision is better than its initial answer), in [0, 1]."""
    margins: Numbers
    """|2p - 1| of its other verdicts, in [0, 1]."""
    first: Numbers
    """P(the answer shown first is better) of each reading: 0.5 on average if the order does not matter."""


class Evidence:
    """What is known of all samples. `counts`: of answers, critiques and so on, by name."""

    def __init__(self) -> None:
        self.statistics = EvidenceStatistics()
        self.counts: Counter[str] = Counter()
        self.drops: Counter[tuple[str, str]] = Counter()
        """(filter or dataset, reason) -> samples."""
        self.scores: defaultdict[str, Numbers] = defaultdict(Numbers)
        self.judged: defaultdict[str, Judged] = defaultdict(
            lambda: Judged(Numbers(), Numbers(), Numbers())
        )

    def add(self, sample: Sample, fates: dict[str, list[str]]) -> None:
        self.statistics.add(sample)
        for candidate in sample.candidates:
            is_first = candidate.parent is None
            self.counts["answers" if is_first else "revisions"] += 1
            if candidate.drop_reason:
                self.counts["dropped"] += 1
            self.counts["cut"] += candidate.finish_reason == "length"
        by_filter = {c.drop_reason for c in sample.candidates if c.drop_reason}
        self.drops.update(("filter", reason) for reason in by_filter)
        for view, reasons in fates.items():
            self.drops.update((view, reason) for reason in set(reasons))
        self.counts["critiques"] += len(sample.critiques)
        for verdict in sample.verdicts:
            self.counts["verdicts"] += 1
            self.counts["verdicts unread"] += not is_known(verdict.p)
            self._add_verdict(sample, verdict)
        for score in sample.scores:
            self.counts["scores"] += 1
            if is_known(score.value):
                self.scores[score.name].add(score.value)
            else:
                self.counts["scores unread"] += 1
        self.counts["step labels"] += len(sample.step_labels)

    def _add_verdict(self, sample: Sample, verdict: Verdict) -> None:
        judged = self.judged[verdict.judge]
        for reading in verdict.readings:
            if is_known(reading.p):
                judged.first.add(1 - reading.p if reading.is_swapped else reading.p)
        if not is_known(verdict.p):
            return
        a, b = sample.candidates[verdict.a], sample.candidates[verdict.b]
        if a.index != b.index and sample.root(a).index == b.index:
            judged.p.add(verdict.p)
        elif a.index != b.index and sample.root(b).index == a.index:
            judged.p.add(1 - verdict.p)
        else:
            judged.margins.add(abs(2 * verdict.p - 1))


def gathered(run: Path, recipe: Recipe, manifest: Manifest, budget: int) -> tuple[Evidence, Packed]:
    """Go through the traces once. `budget`: most bytes of the samples in the page."""
    fates, evidence, pack = Fates(run, recipe), Evidence(), Pack(budget)
    for sample in shards.read_samples(run):
        shown, entry = entries.of_sample(sample, fates)
        evidence.add(fates.whole(sample), shown.fates)
        pack.add(shown, entry)
    for failure in _quarantined(run, manifest):
        pack.add(*entries.of_failure(failure))
    return evidence, pack.finish()


def _quarantined(run: Path, manifest: Manifest) -> list[Failure]:
    """The failures that the manifest counts. What cannot be read is left out: `status` says so."""
    try:
        with (run / "quarantine.jsonl").open("rb") as file:
            held = file.read(manifest.quarantine_bytes)
        return [msgspec.json.decode(line, type=Failure) for line in held.splitlines()]
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError):
        return []
