"""Export: traces -> datasets. READ FIRST in this package.

One pass over the samples fills all views at once. Where scores are to be combined, an earlier pass
measures them. Views are pure, so a changed or added view is made from the traces without a model
call. Nothing is replaced before every view has been written in full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from factory.core.config import Config
from factory.core.errors import FactoryError, RecipeError
from factory.core.records import Combination, Sample
from factory.engines.thought_form import Form
from factory.export.grpo import GrpoView
from factory.export.kto import KtoView
from factory.export.preference import PreferenceView
from factory.export.process import ProcessView
from factory.export.report import ViewReport
from factory.export.reward import RewardView
from factory.export.schemas import ANSWERS, with_extra, with_thoughts
from factory.export.sft import SftView
from factory.export.statistics import EvidenceStatistics, RowStatistics
from factory.export.view import (
    REASONING,
    AppliesDecisions,
    Chooses,
    Drop,
    Note,
    View,
    WritesBeside,
    folder_of,
)
from factory.export.write import DatasetWriter, FileFormat, rows_in
from factory.scorers.combine import Measured, measure, with_combined

_LOOKED_AT = 1000
"""First samples that are searched for `extra`; if one has it, the dataset gets that column."""

VIEWS: dict[str, type[Config]] = {
    "preference": PreferenceView,
    "sft": SftView,
    "kto": KtoView,
    "reward": RewardView,
    "process": ProcessView,
    "grpo": GrpoView,
}
"""Every kind of view a recipe can name."""


def export(
    views: Sequence[View],
    samples: Callable[[], Iterator[Sample]],
    out: Path,
    facts: Mapping[str, Any],
    combinations: Sequence[Combination] = (),
    form: Form | None = None,
    *,
    file_format: FileFormat = "arrow",
    may_empty: bool = True,
) -> list[ViewReport]:
    """Write a dataset for each view into `out`, with rows in the order of `samples()`.

    `combinations`: scores that the views see beside those in the samples. `form`: the form of thoughts
    in the answers of views that keep them; None: between marks. `may_empty`: a dataset that has rows
    may be replaced by one that has none; if False, that raises `FactoryError` and nothing is replaced.

    `facts`: the data's origin, for the cards. Each may be missing: run_name,
    factory_version, constitution {name, version, digest}, models {name: {model, fingerprint}},
    reproducible (the engine was seeded), tokens {prompt, output}, counts {samples, quarantined}, cut
    {stage: [cut answers, answers]}, thoughts_for (the model whose template wants it), recipe (YAML).
    """
    folders = [folder_of(view) for view in views]
    for folder in folders:
        if folders.count(folder) > 1:
            raise RecipeError(
                f"views: {folders.count(folder)} views would write {out / folder}; "
                "give each its own `name`"
            )
    if not views:
        return []
    measured = measure(combinations, samples() if combinations else ())
    evidence = EvidenceStatistics()
    exports: list[_Export] = []
    try:
        for view in views:
            exports.append(_Export(view, out / folder_of(view), form or Form(), file_format))
        if any(sample.extra is not None for sample in islice(samples(), _LOOKED_AT)):
            facts = {**facts, "carries": True}
            for each in exports:
                each.carry()
        for raw in samples():
            sample = with_combined(raw, measured)
            evidence.add(sample)
            for each in exports:
                each.add(sample)
        reports = [each.finish(evidence, measured) for each in exports]
        if not may_empty:
            for each, report in zip(exports, reports, strict=True):
                each.refuse_to_empty(report)
        for each, report in zip(exports, reports, strict=True):
            each.publish(report, facts)
        return reports
    finally:
        for each in exports:
            each.abandon()


class _Export:
    """The writing of one view to disk."""

    def __init__(self, view: View, folder: Path, form: Form, file_format: FileFormat) -> None:
        features = view.features()
        self._view = view
        self._form = form if getattr(view, "reasoning", "drop") == "keep" else None
        if self._form and self._form.key:
            features = with_thoughts(features, self._form.key)
        self._features = features
        self._carries = False
        self._file_format = file_format
        self._writer = DatasetWriter(folder, features, file_format)
        self._statistics = RowStatistics(features)

    def carry(self) -> None:
        """Add a column `extra`, which holds the source's other columns."""
        if "extra" not in self._features:
            self._carries = True
            self._writer.widen(with_extra(self._features))

    def add(self, sample: Sample) -> None:
        rows_before = self._statistics.rows
        for row in self._view.rows(sample):
            if isinstance(row, Drop):
                self._statistics.drops[row.reason] += 1
            elif isinstance(row, Note):
                self._statistics.notes[row.reason] += 1
            else:
                self._statistics.add(row)
                formed = self._formed(row)
                self._writer.add({**formed, "extra": sample.extra} if self._carries else formed)
        if self._statistics.rows == rows_before:
            return
        self._statistics.prompts += 1
        if isinstance(self._view, Chooses) and (n := self._view.chosen_among(sample)):
            self._statistics.choose(n)

    def _formed(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with thoughts in the form that the model's template trains."""
        if self._form is None:
            return row
        formed = {
            name: [self._form.message(m["content"], m[REASONING]) for m in row[name]]
            for name in ANSWERS
            if name in row and all(REASONING in m for m in row[name])
        }
        return {**row, **formed}

    def finish(self, evidence: EvidenceStatistics, measured: list[Measured]) -> ViewReport:
        needs = self._view.needs()
        by_verdicts = any(need == "ranking" or need.startswith("verdicts:") for need in needs)
        by_scores = any(need == "ranking" or need.startswith("score:") for need in needs)
        statistics = self._statistics
        return ViewReport(
            view=folder_of(self._view),
            kind=self._view.kind,
            rows=statistics.rows,
            prompts=statistics.prompts,
            drops=dict(sorted(statistics.drops.items())),
            notes=dict(sorted(statistics.notes.items())),
            fingerprint=self._writer.finish(),
            spreads=statistics.spreads(),
            shares=statistics.shares(),
            length=statistics.length(),
            judges=evidence.judges() if by_verdicts else {},
            agreements=evidence.agreements() if by_verdicts else [],
            scores=evidence.scores() if by_scores else {},
            combinations=measured if by_scores else [],
            best_of_n=statistics.best_of_n(),
            thinking=evidence.thinking() if needs else {},
            people=self._view.people() if isinstance(self._view, AppliesDecisions) else None,
            principles=evidence.principles() if needs else [],
        )

    def refuse_to_empty(self, report: ViewReport) -> None:
        """Raise `FactoryError` if a dataset that has rows would become empty."""
        before = 0 if report.rows else rows_in(self._writer.folder)
        if before:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.drops.items())
            raise FactoryError(
                f"{self._writer.folder} has {before:,} rows and would become empty "
                f"({reasons or 'no sample has what the view needs'}); nothing was replaced. Give the "
                "view another name, or use --allow-empty"
            )

    def publish(self, report: ViewReport, facts: Mapping[str, Any]) -> None:
        from factory.export.card import card

        facts = {**facts, "thoughts": self._form, "file_format": self._file_format}
        self._writer.publish(card(self._view, report, facts))
        if isinstance(self._view, WritesBeside):
            self._view.write_beside(self._writer.folder)

    def abandon(self) -> None:
        self._writer.abandon()
