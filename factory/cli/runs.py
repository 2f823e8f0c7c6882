"""The commands on runs: make one, look at it, make its datasets again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.cli import endings, page, printing
from factory.cli.options import (
    LedgerOption,
    LimitOption,
    NoReportOption,
    OutOption,
    RecipeArgument,
    RunArgument,
    SetOption,
    load,
    path_option,
)
from factory.core.errors import RecipeError
from factory.core.paths import user_path

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
    no_report: NoReportOption = False,
) -> None:
    """Make the data: answers, critiques, revisions, verdicts, datasets, and a report of it.

    Run it again after a stop, after an edit, or to extend it: only new calls are made.
    """
    from factory.pipeline.trainings import run_with_trainings

    loaded = load(recipe, set_, limit)
    folder = out or _default_out(loaded)
    manifest = run_with_trainings(loaded, folder, ledger=ledger)
    printing.print_manifest(folder, manifest)
    made = None if no_report else page.written(folder)
    try:
        printing.refuse_no_rows(folder, manifest)
        endings.after_run(folder, manifest, loaded)
    finally:
        page.print_path(made)


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
    is_worst: Annotated[
        bool,
        typer.Option(
            "--worst",
            help="The revisions that lost most clearly to their first answers; without such verdicts, "
            "the lowest scores.",
        ),
    ] = False,
) -> None:
    """Print samples of a run: answers, critiques, revisions, verdicts, and why rows were dropped.

    Reads the run's traces, also while it runs. Calls no model.
    """
    from factory.cli.choice import Choice
    from factory.cli.show import show as print_sample
    from factory.pipeline.manifest import of_run

    manifest = of_run(run_folder)
    choice = Choice(run_folder, load(run_folder / "recipe.yaml", None, trains=False))
    conditions = {"is_flipped": is_flipped, "is_worst": is_worst}
    for sample in choice.samples(count, id=id, dropped=dropped, **conditions):
        print_sample(sample, fate=choice.told(sample))
    endings.after_show(run_folder, manifest)


def report(
    run_folder: RunArgument,
    other: Annotated[
        Path | None,
        typer.Argument(metavar="RUN2", help="Another run, shown beside it.", parser=user_path),
    ] = None,
    out: Annotated[
        Path | None,
        path_option(
            "--out",
            "-o",
            help="The file to write. Default: report.html in RUN's folder; of two runs, "
            "report-with-RUN2.html.",
        ),
    ] = None,
) -> None:
    """Write a run, or two side by side, as one HTML page with all figures and samples; or a training.

    The page needs no network. Calls no model.
    """
    from factory.pipeline.manifest import of_run
    from factory.report.page import NAME
    from factory.report.report import write_report
    from factory.report.training import RECORD, write_training_report

    if (run_folder / RECORD).exists():
        if other is not None:
            raise RecipeError(f"{run_folder} is a training's folder; two runs stand side by side")
        made = write_training_report(run_folder, out or run_folder / NAME)
        print(f"the page, for a browser:\n{made}")
        return
    runs = [_alignments_run(each) for each in (run_folder, *([other] if other else []))]
    for each in runs:
        of_run(each)
    beside = f"report-with-{runs[1].resolve().name}.html" if other else NAME
    out = out or runs[0] / beside
    if out.is_dir():
        raise RecipeError(f"--out {out} is a folder; name a file")
    write_report([(each, load(each / "recipe.yaml", None, trains=False)) for each in runs], out)
    print(f"the page, for a browser:\n{out}")


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


def _alignments_run(folder: Path) -> Path:
    """The run of an alignment's last round, or the folder itself if it is no alignment's."""
    if (folder / "manifest.json").exists() or not (folder / "align.json").exists():
        return folder
    rounds = {
        int(number): made
        for made in folder.glob("round-*/run")
        if (number := made.parent.name.removeprefix("round-")).isdecimal()
    }
    return rounds[max(rounds)] if rounds else folder
