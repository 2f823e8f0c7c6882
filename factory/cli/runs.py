"""The commands on runs: make one, look at it, make its datasets again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.cli import endings, printing
from factory.cli.options import (
    LedgerOption,
    LimitOption,
    OutOption,
    RecipeArgument,
    RunArgument,
    SetOption,
    load,
    path_option,
)
from factory.core.errors import RecipeError

if TYPE_CHECKING:
    from factory.export.decisions import Decided
    from factory.recipe.recipe import Recipe


def preview(
    recipe: RecipeArgument,
    count: Annotated[int, typer.Option("--samples", "-n", min=1, help="Samples to show.")] = 3,
    out: OutOption = None,
    ledger: LedgerOption = None,
    set_: SetOption = None,
) -> None:
    """Make a few samples and show them: answer, critique, revision as a diff, verdict.

    The run does not make these calls again: they are remembered in its folder.
    """
    from factory.cli.show import show
    from factory.pipeline.preview import answer_some
    from factory.pipeline.trainings import as_far_as_trained

    loaded = load(recipe, set_, count)
    folder = out or _default_out(loaded)
    for result in answer_some(as_far_as_trained(loaded, folder), folder, ledger=ledger):
        show(result)
    endings.after_preview(recipe, out, set_ or ())


def run(
    recipe: RecipeArgument,
    out: OutOption = None,
    limit: LimitOption = None,
    ledger: LedgerOption = None,
    set_: SetOption = None,
) -> None:
    """Make the data: answers, critiques, revisions, verdicts, datasets.

    Run it again after a stop, after an edit, or to extend it: only new calls are made.
    """
    from factory.pipeline.trainings import run_with_trainings

    loaded = load(recipe, set_, limit)
    folder = out or _default_out(loaded)
    manifest = run_with_trainings(loaded, folder, ledger=ledger)
    printing.print_manifest(folder, manifest)
    printing.refuse_no_rows(folder, manifest)
    endings.after_run(folder, manifest, loaded)


def status(run_folder: RunArgument) -> None:
    """Show a run's progress and results, and check that its files are complete."""
    from factory.cli import live
    from factory.core.lock import is_held
    from factory.pipeline import folder, pulse
    from factory.pipeline import manifest as manifests

    manifests.refuse_file(run_folder)
    folder.recover_if_free(run_folder)
    is_going = is_held(run_folder)
    beat = pulse.read(run_folder)
    begun = manifests.read(run_folder)
    if beat is not None and (begun is None or (begun.state == "running" and not begun.rows)):
        live.print_beginning(run_folder, beat, is_going=is_going)
        return
    manifest = manifests.of_run(run_folder)
    damaged = () if is_going else folder.damaged_views(run_folder, manifest)
    printing.print_manifest(run_folder, manifest, damaged)
    if not folder.is_quarantine_whole(run_folder, manifest):
        print(
            f"\n  {run_folder / 'quarantine.jsonl'} was changed or is incomplete: run the recipe again"
        )
    if (beat := pulse.read(run_folder)) is not None:  # again: it may have ended
        live.print_beat(run_folder, beat, is_going=is_going)
    printing.print_next(run_folder, manifest)
    if manifest.state == "finished" and not damaged:
        endings.after_run(run_folder, manifest)
    folder.refuse_if_damaged_at_rest(run_folder, manifest)


def show(
    run_folder: RunArgument,
    count: Annotated[int, typer.Option("--samples", "-n", min=1, help="Samples to show.")] = 3,
    id: Annotated[str | None, typer.Option("--id", help="Show the sample with this id.")] = None,
    is_flipped: Annotated[
        bool, typer.Option("--flipped", help="Only samples whose verdict changed with the order.")
    ] = False,
    dropped: Annotated[
        str | None,
        typer.Option(
            "--dropped",
            metavar="REASON",
            help="Only samples with an answer or row dropped for REASON: truncated, tie, duplicate, ...",
        ),
    ] = None,
) -> None:
    """Print samples of a run: answers, critiques, revisions, verdicts, and why rows were dropped.

    Reads the run's traces, also while it runs. Calls no model.
    """
    from factory.cli.show import Traces
    from factory.cli.show import show as print_sample
    from factory.pipeline.manifest import of_run

    manifest = of_run(run_folder)
    traces = Traces(run_folder, load(run_folder / "recipe.yaml", None, trains=False))
    for sample in traces.chosen(count, id=id, is_flipped=is_flipped, dropped=dropped):
        print_sample(sample, fate=traces.told(sample))
    endings.after_show(run_folder, manifest)


def export(
    run_folder: RunArgument,
    recipe: Annotated[
        Path | None, path_option("--recipe", help="Take the views from this recipe instead.")
    ] = None,
    out: Annotated[
        Path | None,
        path_option(
            "--out",
            "-o",
            help="Write them to this folder and leave the run unchanged. Default: the run's datasets/, "
            "jsonl/ with --format jsonl, reviewed/ with --reviewed.",
        ),
    ] = None,
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="arrow: for datasets.load_from_disk. jsonl, parquet: one file per dataset.",
        ),
    ] = "arrow",
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Let a dataset that has rows become empty.")
    ] = False,
    is_reviewed: Annotated[
        bool,
        typer.Option(
            "--reviewed",
            help="Only datasets of pairs, with the decisions of `factory review` applied.",
        ),
    ] = False,
    set_: SetOption = None,
) -> None:
    """Make the datasets again from a run's traces, with the same or other views. Calls no model."""
    from typing import get_args

    from factory.core.lock import alone_in
    from factory.export.write import FileFormat
    from factory.pipeline import folder
    from factory.pipeline.manifest import of_run
    from factory.pipeline.views import export_again

    if file_format not in (formats := get_args(FileFormat)):
        raise RecipeError(f"--format {file_format}: expected one of {', '.join(formats)}")
    if out is None and (is_reviewed or file_format != "arrow"):
        names = ["reviewed"] * is_reviewed + [file_format] * (file_format != "arrow")
        out = run_folder / "-".join(names)
    of_run(run_folder)  # first: create nothing in a folder that holds no run
    with alone_in(run_folder), folder.writing_in(run_folder):
        folder.recover(run_folder)
        manifest = of_run(run_folder)
        loaded = load(recipe or run_folder / "recipe.yaml", set_, trains=False)
        manifest = export_again(
            *(loaded, run_folder, manifest, out),
            file_format=file_format,  # type: ignore[arg-type]  # checked above
            may_empty=allow_empty,
            reviews=_reviews_of(run_folder) if is_reviewed else None,
        )
    printing.print_views(run_folder, manifest, to=out)
    printing.refuse_no_rows(run_folder, manifest)
    if out is None:
        endings.after_run(run_folder, manifest)


# -- helpers ------------------------------------------------------------------------------------


def _reviews_of(run_folder: Path) -> dict[str, Decided]:
    """The decisions of people on the run's pairs. Raises `RecipeError` if there are none."""
    from factory.export.decisions import read_run

    reviews = {name: decided for name, decided in read_run(run_folder).items() if decided}
    if not reviews:
        again = endings.command("review", run_folder)
        raise RecipeError(f"--reviewed: nobody has decided a pair of {run_folder} yet: {again}")
    return reviews


def _default_out(recipe: Recipe) -> Path:
    return Path("runs") / recipe.name
