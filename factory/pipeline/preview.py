"""`factory preview`: make a few samples."""

from __future__ import annotations

import contextlib
from pathlib import Path

from factory.core.lock import alone_in
from factory.core.records import Failure, Sample
from factory.pipeline import folder
from factory.pipeline.calls import Calls
from factory.pipeline.ledger import Ledger
from factory.pipeline.outcomes import outcomes
from factory.pipeline.progress import Progress
from factory.pipeline.run import in_loop
from factory.recipe.recipe import Recipe
from factory.sources.source import open_source


def answer_some(
    recipe: Recipe, out: Path, *, ledger: Path | None = None, progress: Progress | None = None
) -> list[Sample | Failure]:
    """Take the recipe's rows through its stages (limit them by `source.limit`). Only the calls are kept,
    in `ledger` or else in the ledger of the run in `out`."""
    folder.refuse_others(out)
    folder.prepare_ledger(out, ledger)
    progress = progress or Progress()
    with (
        alone_in(out),
        folder.writing_in(out),
        progress.doing("checking what is there"),
        Ledger(ledger or folder.ledger_of(out)) as opened,
    ):
        source = open_source(recipe.source, recipe.folder)

        async def collect() -> list[Sample | Failure]:
            async with recipe.opened(out / "logs") as engines:
                try:
                    calls = Calls(opened, engines)
                    with progress.following(
                        "making samples", recipe, engines, rows=source.count()
                    ) as forecast:
                        work = outcomes(recipe, source.rows(), calls, forecast)
                        async with contextlib.aclosing(work) as ended:
                            return [outcome.result async for outcome in ended]
                finally:
                    progress.now("stopping the engines")

        return in_loop(collect())
