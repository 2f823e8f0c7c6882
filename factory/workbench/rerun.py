"""A finished run taken through its recipe again with a change: `diff` compares, `dry_run` counts calls.

The run's own samples, bare again, go through both sides' recipes. Calls that the change does not touch
are answered from the run's ledger. New ones are remembered in a ledger beside the run, so that a second
diff makes none. No engine starts unless a call is missing.

Nothing in the run's folder changes, unless `keeps` is set: new calls are then remembered in the run's
own ledger, and a run of the changed recipe in that folder does not make them again.

A stage of the user's own that changes prompts or tags finds them changed already.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec

from factory.core.errors import FactoryError, RecipeError
from factory.core.lock import alone_in, undisturbed
from factory.core.paths import near
from factory.engines.base import Engine
from factory.pipeline import folder
from factory.pipeline import manifest as manifests
from factory.pipeline.calls import Calls, Memory
from factory.pipeline.ledger import Ledger
from factory.pipeline.manifest import Manifest
from factory.pipeline.progress import Progress
from factory.pipeline.run import in_loop
from factory.scorers.judging import Judges
from factory.workbench.diff import compare
from factory.workbench.difference import Difference
from factory.workbench.edits import Edit, edits
from factory.workbench.ledgers import Layered, Scratch
from factory.workbench.replay import Cost, Replay, replay
from factory.workbench.sides import Side, engines_of
from factory.workbench.spool import Spool
from factory.workbench.unasked import Unasked, UnaskedJudges

Sides = tuple[Side, Side]


class Diff(msgspec.Struct):
    """Two sides compared, and the calls it took."""

    run: str
    names: tuple[str, str]
    """The files or the judges."""
    edits: list[Edit]
    costs: tuple[Cost, Cost]
    difference: Difference


class DryRun(msgspec.Struct):
    """The calls that a diff would make."""

    run: str
    names: tuple[str, str]
    edits: list[Edit]
    samples: int
    costs: tuple[Cost, Cost]
    """Tokens are the run's own means for a call of the stage."""
    is_exact: bool
    """False: some calls depend on texts that are not written yet, such as the verdict on a new revision."""


def beside(run: Path) -> Path:
    """The folder for a diff's calls and logs."""
    whole = run.absolute()
    return whole.with_name(f"{whole.name}.diff")


def diff(
    run: Path,
    sides: Sides,
    *,
    keeps: bool = False,
    progress: Progress | None = None,
    engines: Mapping[str, Engine] | None = None,
) -> Diff:
    """Compare both sides. `engines`: take the place of the recipes' own, and stay open.

    Raises `FactoryError`, also if the run is not finished or another process works in it.
    """
    progress, out = progress or Progress(), beside(run)
    folder.refuse_others(out)
    with ExitStack() as opened:
        enter = opened.enter_context
        enter(alone_in(run) if keeps else undisturbed(run))
        manifest = finished(run)
        enter(alone_in(out))
        enter(folder.writing_in(out))
        enter(progress.doing("opening the ledger"))
        own, new = enter(_ledger_of(run)), enter(Ledger(out / folder.LEDGER))
        ledger = Layered(own, new, copies=True) if keeps else Layered(new, own)
        spools = [enter(Spool()) for _ in sides]

        async def made() -> list[Replay]:
            async with engines_of(run, sides, out / "logs", engines) as asked:
                try:
                    calls = Calls(ledger, asked)
                    return [
                        await replay(run, manifest, side.recipe, calls, spool, progress)
                        for side, spool in zip(sides, spools, strict=True)
                    ]
                finally:
                    progress.now("stopping the engines")

        before, after = in_loop(made())
        progress.now("comparing")
        recipe = sides[1].recipe
        found = compare(before.samples, after.samples, recipe.views, recipe.combinations())
    return Diff(*_what(run, sides), (before.cost, after.cost), found)


def dry_run(
    run: Path,
    sides: Sides,
    *,
    progress: Progress | None = None,
    engines: Mapping[str, Engine] | None = None,
) -> DryRun:
    """Count the calls that `diff` would make. Asks no model and writes nothing."""
    progress, out = progress or Progress(), beside(run)
    with ExitStack() as opened:
        enter = opened.enter_context
        enter(undisturbed(run))
        manifest = finished(run)
        enter(progress.doing("opening the ledger"))
        known: list[Memory] = [enter(_ledger_of(run))]
        if (out / folder.LEDGER).is_file():
            known.append(enter(Ledger(out / folder.LEDGER)))
        ledger = Layered(Scratch(), *known)
        spools = [enter(Spool()) for _ in sides]

        async def counted() -> tuple[list[Cost], bool]:
            async with engines_of(run, sides, None, engines) as real:
                asked = {name: Unasked(engine) for name, engine in real.items()}
                calls = Calls(ledger, asked, UnaskedJudges(Judges(real, ledger)))
                costs = [
                    (await replay(run, manifest, side.recipe, calls, spool, progress)).cost
                    for side, spool in zip(sides, spools, strict=True)
                ]
                return costs, not any(engine.texts for engine in asked.values())

        costs, is_exact = in_loop(counted())
    for cost in costs:
        cost.prompt_tokens, cost.output_tokens = _tokens(manifest, cost)
    return DryRun(*_what(run, sides), manifest.samples, (costs[0], costs[1]), is_exact)


def finished(run: Path) -> Manifest:
    """The manifest of a run with all its traces. Raises `FactoryError` if they are not all there."""
    manifest = manifests.read(run)
    if manifest is None:
        raise RecipeError(f"--run {run} holds no run: there is no manifest.json in it")
    if manifest.state == "running":
        raise FactoryError(f"--run {run} is not finished: run its recipe again first")
    folder.refuse_damaged(run, manifest)
    return manifest


def _ledger_of(run: Path) -> Ledger:
    path = folder.ledger_of(run)
    if not path.is_file():
        raise FactoryError(
            f"{run} remembers its calls in {path}, which does not exist: without it every call would be "
            "made again, and nothing could be compared; put it back"
        )
    return Ledger(path)


def _what(run: Path, sides: Sides) -> tuple[str, tuple[str, str], list[Edit]]:
    old, new = sides
    changed = edits(old.recipe.constitution, new.recipe.constitution)
    return near(run), (old.name, new.name), changed


def _tokens(manifest: Manifest, cost: Cost) -> tuple[int, int]:
    """Expected prompt and output tokens of the calls."""
    prompt = output = 0.0
    for stage, calls in cost.calls.items():
        if (count := manifest.stages.get(stage)) is not None and count.calls:
            prompt += calls * count.prompt_tokens / count.calls
            output += calls * count.output_tokens / count.calls
    return round(prompt), round(output)
