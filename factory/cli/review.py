"""`factory review`: people decide pairs of a run, on a local page or elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.cli import endings
from factory.cli.options import RunArgument, load, path_option
from factory.core.errors import FactoryError, RecipeError
from factory.core.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from factory.review.queue import Item
    from factory.review.session import Session

_SHOWN = 20


def review(
    run_folder: RunArgument,
    reviewer: Annotated[
        str | None,
        typer.Option("--reviewer", metavar="NAME", help="Who decides. Default: your login name."),
    ] = None,
    calibration: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of pairs drawn at random, which stand for all. The others come least sure "
            "first.",
        ),
    ] = 0.2,
    principle: Annotated[
        str | None, typer.Option("--principle", metavar="ID", help="Only pairs judged by this.")
    ] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="TAG", help="Only prompts with this tag.")
    ] = None,
    id: Annotated[str | None, typer.Option("--id", help="Only the sample with this id.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 0,
    export: Annotated[
        Path | None,
        path_option(
            "--export",
            metavar="FILE",
            help="Write the pairs, with your decisions, to FILE (JSONL) instead, to decide elsewhere.",
        ),
    ] = None,
    import_: Annotated[
        Path | None,
        path_option("--import", metavar="FILE", help="Take decisions from such a FILE instead."),
    ] = None,
) -> None:
    """Decide pairs yourself: which answer is better, without seeing what the judge chose.

    Serves a page on this machine alone. Each decision is on disk before the next pair shows; stop and
    start it as you like. `factory export RUN --reviewed` applies the decisions.
    """
    from factory.core.screen import Screen
    from factory.pipeline.manifest import of_run
    from factory.review.journal import reviewer_name
    from factory.review.queue import Wanted, in_queue, pairs_of

    if export is not None and import_ is not None:
        raise RecipeError("--export and --import: give one of them")
    name = reviewer_name(reviewer)
    manifest = of_run(run_folder)
    recipe = load(run_folder / "recipe.yaml", None, trains=False)
    with Screen().doing(f"reading the pairs of {run_folder}"):
        wanted = Wanted(id, tag, principle) if import_ is None else Wanted()
        items = in_queue(pairs_of(run_folder, recipe, wanted), calibration)
    if export is not None:
        from factory.review.exchange import export_pairs

        pairs, decided = export_pairs(run_folder, items, name, export)
        print(f"wrote {pairs:,} pairs to {export}, {decided:,} of them with {name}'s decisions")
        print("  fill `label` in: a, b, tie, both_bad or skip; `edit` and `note` if you like")
        return
    if import_ is not None:
        _import(run_folder, items, name, import_)
        return
    from factory.review import server
    from factory.review.journal import opened
    from factory.review.session import Session

    with server.bound(port) as listening, opened(run_folder, name) as journal:
        session = Session(
            *(run_folder, manifest.part_size, items, journal, name, recipe.constitution)
        )
        token = server.new_token()
        at = listening.getsockname()[1]
        _print_progress(session, name)
        print(f"\nopen this address; Ctrl+C ends the review\n  http://{server.HOST}:{at}/{token}/")
        sys.stdout.flush()
        server.serve(session, listening, token)
        print()
        _print_progress(session, name)
        for figure in session.agreement():
            print(f"  {figure.text()}")
    endings.after_review(run_folder)


# -- helpers ------------------------------------------------------------------------------------


def _import(run: Path, items: Sequence[Item], reviewer: str, path: Path) -> None:
    from factory.review.exchange import import_decisions

    found = import_decisions(run, items, path, reviewer)
    for name, count in sorted(found.taken.items()):
        print(f"took {count:,} decisions of {name}")
    if found.known:
        print(f"  {found.known:,} were recorded already")
    if found.undecided:
        print(f"  {found.undecided:,} lines have no decision")
    if left_out := found.left_out:
        shown = "".join(f"\n  {printable(line)}" for line in left_out[:_SHOWN])
        more = f"\n  and {len(left_out) - _SHOWN:,} more" if len(left_out) > _SHOWN else ""
        raise FactoryError(f"left out {len(left_out):,} of the lines of {path}:{shown}{more}")
    endings.after_review(run)


def _print_progress(session: Session, reviewer: str) -> None:
    at = session.progress()
    print(f"{at['pairs']:,} pairs; {reviewer} decided {at['decided']:,}", end="")
    print(f", skipped {at['skipped']:,}" if at["skipped"] else "", end="")
    print(
        f"; {at['elsewhere']:,} more decisions are on pairs that are not among these"
        if at["elsewhere"]
        else ""
    )
