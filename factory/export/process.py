"""Samples -> solutions in labeled steps, for training a process reward model.

Labels come from one scorer: a `rollout` or `process` stage. A row keeps the whole solution. Steps
whose label is unknown, such as those after the first error, have the label null. A solution that was
cut at max_tokens ends in an incomplete step, so it is dropped unless `truncated: keep` is set. Steps
are of the answer; the thought before it has no labels and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from factory.core.config import Config
from factory.core.records import Candidate, Sample, StepLabels
from factory.export.features import Features
from factory.export.schemas import PROCESS
from factory.export.view import Drop, FolderName, Truncated, unfit
from factory.scorers.comparison import is_known


class ProcessView(Config):
    """Prompts, each with a solution in labeled steps."""

    kind: Literal["process"] = "process"
    name: FolderName | None = None
    """Folder of the dataset; None: the kind."""
    steps: str | None = None
    """Name of the stage that labeled the steps. None: the only one there is."""
    truncated: Truncated = "drop"
    """Solutions that were cut at max_tokens: `drop` or `keep`."""
    prm800k: bool = False
    """Write the rows in PRM800K's format too, to `NAME.prm800k.jsonl` beside the dataset."""

    def rows(self, sample: Sample) -> Iterator[dict[str, Any] | Drop]:
        labeled = [x for x in sample.step_labels if self.steps in (None, x.name)]
        if len({labels.name for labels in labeled}) > 1:
            yield Drop("several-scorers")
            return
        of_candidate = {labels.candidate: labels for labels in labeled}
        for candidate in sample.candidates:
            yield self._row(sample, candidate, of_candidate.get(candidate.index))

    def _row(
        self, sample: Sample, candidate: Candidate, labeled: StepLabels | None
    ) -> dict[str, Any] | Drop:
        if (reason := unfit(candidate, self.truncated)) is not None:
            return reason
        if labeled is None:
            return Drop("no-steps")
        if all(label is None for label in labeled.labels):
            return Drop("no-labels")
        return {
            "prompt": sample.prompt,
            "completions": labeled.steps,
            "labels": labeled.labels,
            "scores": [score if is_known(score) else None for score in labeled.scores],
            "prompt_id": sample.id,
        }

    def needs(self) -> frozenset[str]:
        return frozenset({"candidates", f"steps:{self.steps or '*'}"})

    def features(self) -> Features:
        return PROCESS

    def write_beside(self, folder: Path) -> None:
        """Write the PRM800K file, if asked for, beside the dataset in `folder`, once that is in place."""
        if not self.prm800k:
            return
        from datasets import load_from_disk

        from factory.sources import prm800k

        rows = (prm800k.from_view(row) for row in load_from_disk(str(folder)))
        prm800k.write(rows, folder.with_name(f"{folder.name}.prm800k.jsonl"))
