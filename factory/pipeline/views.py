"""A run's traces -> its datasets. No model is called."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from factory.core.errors import FactoryError
from factory.core.version import __version__
from factory.export.decisions import Decided
from factory.export.export import export
from factory.export.reviewed import with_decisions
from factory.export.write import FileFormat
from factory.pipeline import folder
from factory.pipeline import traces as shards
from factory.pipeline.manifest import Manifest
from factory.pipeline.template import thoughts_of
from factory.recipe.recipe import Recipe

DATASETS = "datasets"
"""Name of the datasets' folder in a run's folder."""


def export_views(recipe: Recipe, out: Path, manifest: Manifest, *, may_empty: bool = True) -> None:
    """Make the datasets from the traces in `out`, and mark the run finished. `may_empty`: see `export`."""
    manifest.views = write_views(recipe, out, manifest, out / DATASETS, may_empty=may_empty)
    manifest.views_digest = recipe.views_digest()
    manifest.state = "finished"
    manifest.save(out)


def export_again(
    recipe: Recipe,
    out: Path,
    manifest: Manifest,
    to: Path | None = None,
    *,
    file_format: FileFormat = "arrow",
    may_empty: bool = False,
    reviews: Mapping[str, Decided] | None = None,
) -> Manifest:
    """Make the datasets of a finished run again, in its folder, or in the folder `to`, which leaves the
    run unchanged. `reviews`: make only datasets of pairs, in `to`, with these decisions of people
    applied. The caller must hold the folder's lock. Returns the manifest with the new datasets. Raises
    `FactoryError` if the run is not finished."""
    if manifest.state == "running":
        raise FactoryError(f"{out} is not finished: run its recipe again first")
    folder.refuse_damaged(out, manifest)
    if to is not None:
        with folder.writing_in(to):
            views = write_views(
                *(recipe, out, manifest, to),
                file_format=file_format,
                may_empty=may_empty,
                reviews=reviews,
            )
        return msgspec.structs.replace(manifest, views=views)
    with folder.writing_in(out):
        manifest.trace_parts = folder.with_checksums(out, manifest)
        export_views(recipe, out, manifest, may_empty=may_empty)
    return manifest


def why_no_rows(out: Path, view: Mapping[str, Any]) -> str:
    """The cause of a dataset without rows, in words: answers that filters dropped, scores that were
    unparsed or all equal, and rows that the view dropped. Example:
    `12 of 12 answers were filtered (12 truncated)`."""
    answers, filtered = 0, Counter[str]()
    scores: defaultdict[str, list[float | None]] = defaultdict(list)
    for sample in shards.read_samples(out):
        answers += len(sample.candidates)
        filtered.update(c.drop_reason for c in sample.candidates if c.drop_reason)
        for score in sample.scores:
            scores[score.name].append(score.value)
    parts = []
    if filtered:
        why = ", ".join(f"{count:,} {reason}" for reason, count in filtered.most_common())
        parts.append(f"{filtered.total():,} of {answers:,} answers were filtered ({why})")
    for name, values in scores.items():
        known = {value for value in values if value is not None}
        if not known:
            parts.append(f"none of {len(values):,} values of '{name}' could be read")
        elif len(known) == 1:
            parts.append(f"all {len(values):,} values of '{name}' are {known.pop():g}")
    if view["drops"]:
        why = ", ".join(f"{count:,} {reason}" for reason, count in view["drops"].items())
        parts.append(f"rows not made: {why}")
    return "; ".join(parts) or "no sample holds what the view needs"


def write_views(
    recipe: Recipe,
    out: Path,
    manifest: Manifest,
    to: Path,
    *,
    file_format: FileFormat = "arrow",
    may_empty: bool = True,
    reviews: Mapping[str, Decided] | None = None,
) -> list[dict[str, Any]]:
    """Make the recipe's datasets from the traces in `out`, in the folder `to`. Returns the reports.
    `reviews`: see `export_again`."""
    facts = {
        "run_name": recipe.name,
        "factory_version": __version__,
        "constitution": manifest.constitution,
        "reproducible": manifest.reproducible,
        "models": manifest.models,
        "tokens": manifest.tokens(),
        "counts": {"samples": manifest.samples, "quarantined": manifest.quarantined},
        "cut": {stage: [count.cut, count.answers] for stage, count in manifest.stages.items()},
        "recipe": recipe.text,
    }
    written_for = thoughts_of(recipe)
    facts["thoughts_for"] = written_for.model
    reports = export(
        recipe.views if reviews is None else with_decisions(recipe.views, reviews),
        lambda: shards.read_samples(out),
        to,
        facts,
        recipe.combinations(),
        written_for.form,
        file_format=file_format,
        may_empty=may_empty,
    )
    return [msgspec.to_builtins(report) for report in reports]
