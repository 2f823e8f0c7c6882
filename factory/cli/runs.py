"""The commands on runs: make one, look at it, make its datasets again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.cli import printing
from factory.cli.options import LimitOption, OutOption, RecipeArgument, RunArgument, SetOption, load
from factory.errors import RecipeError
from factory.paths import user_path

if TYPE_CHECKING:
    from factory.recipe import Recipe
    from factory.runner.manifest import Manifest


def preview(
    recipe: RecipeArgument,
    count: Annotated[int, typer.Option("--samples", "-n", min=1, help="Samples to show.")] = 3,
    out: OutOption = None,
    set_: SetOption = None,
) -> None:
    """Make a few samples and show them: answer, critique, revision as a diff, verdict.

    Their calls are remembered in the run's folder: the run itself does not make them again.
    """
    from factory.phases import as_far_as_trained
    from factory.preview import answer_some, show

    loaded = load(recipe, set_, count)
    folder = out or _default_out(loaded)
    for result in answer_some(as_far_as_trained(loaded, folder), folder):
        show(result)


def run(
    recipe: RecipeArgument,
    out: OutOption = None,
    limit: LimitOption = None,
    set_: SetOption = None,
) -> None:
    """Make the data: answers, critiques, revisions, verdicts, datasets.

    Run it again to go on after a stop, to extend it, or after an edit: only calls that were never
    made are made.
    """
    from factory.phases import run_in_phases

    loaded = load(recipe, set_, limit)
    folder = out or _default_out(loaded)
    manifest = run_in_phases(loaded, folder)
    printing.print_manifest(folder, manifest)
    printing.refuse_no_rows(folder, manifest)


def status(
    run_folder: RunArgument,
) -> None:
    """Show what a run has made so far, and whether it is all there."""
    from factory.alone import is_held
    from factory.runner import folder

    folder.recover_if_free(run_folder)
    manifest = _manifest_of(run_folder)
    damaged = () if is_held(run_folder) else folder.damaged_views(run_folder, manifest)
    printing.print_manifest(run_folder, manifest, damaged)
    if not folder.is_quarantine_whole(run_folder, manifest):
        print(
            f"\n  {run_folder / 'quarantine.jsonl'} is not as it was written: run the recipe again"
        )
    printing.print_next(run_folder, manifest)
    folder.refuse_if_damaged_at_rest(run_folder, manifest)


def export(
    run_folder: RunArgument,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", help="Take the views from this recipe instead.", parser=user_path),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Make the datasets again from a run's traces, with other views if you like. Calls no model."""
    from factory.alone import alone_in
    from factory.runner import folder
    from factory.runner.run import export_again

    _manifest_of(run_folder)  # before anything is made in what is no run's folder
    with alone_in(run_folder), folder.writing_in(run_folder):
        folder.recover(run_folder)
        manifest = _manifest_of(run_folder)
        export_again(load(recipe or run_folder / "recipe.yaml", set_), run_folder, manifest)
    printing.print_views(run_folder, manifest)
    printing.refuse_no_rows(run_folder, manifest)


# -- helpers ------------------------------------------------------------------------------------


def _default_out(recipe: Recipe) -> Path:
    return Path("runs") / recipe.name


def _manifest_of(run_folder: Path) -> Manifest:
    from factory.runner.manifest import read

    if run_folder.exists() and not run_folder.is_dir():
        raise RecipeError(f"{run_folder} is a file; name a run's folder, as runs/quickstart")
    manifest = read(run_folder)
    if manifest is None:
        inside = sorted(str(path.parent) for path in run_folder.glob("*/manifest.json"))
        hint = f"; did you mean {inside[0]}?" if inside else ""
        raise RecipeError(f"{run_folder} holds no run: there is no manifest.json in it{hint}")
    return manifest
