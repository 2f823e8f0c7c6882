"""`factory constitution diff`: what an edit of a constitution, or another judge, changes in a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.cli import endings, printing
from factory.cli.options import path_option
from factory.core.errors import RecipeError
from factory.core.paths import user_path

if TYPE_CHECKING:
    from factory.workbench.rerun import Diff, DryRun, Sides


def diff(
    run: Annotated[
        Path, path_option("--run", "-r", metavar="RUN", help="The folder of a finished run.")
    ],
    constitutions: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[OLD] NEW",
            help="Constitutions. Without OLD: the one that the run was made with.",
            parser=user_path,
        ),
    ] = None,
    judges: Annotated[
        list[str] | None,
        typer.Option(
            "--judge",
            metavar="MODEL",
            help="Compare judges: a name of the recipe's models, or a model in the judge's place. Give "
            "it twice, or once to compare with the run's own judge.",
        ),
    ] = None,
    is_dry: Annotated[
        bool, typer.Option("--dry-run", help="Only count the calls and tokens that it would take.")
    ] = False,
    keeps: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="Remember new calls in the run's own ledger. Default: in the folder RUN.diff.",
        ),
    ] = False,
    count: Annotated[
        int, typer.Option("-n", min=0, help="Examples to show of each kind of change.")
    ] = 3,
    to: Annotated[
        Path | None,
        path_option("--json", metavar="FILE", help="Write everything that differs to FILE."),
    ] = None,
) -> None:
    """Show what another constitution, or another judge, changes in a finished run.

    Asks again only what that touches; the rest is answered from the run's ledger, and the run stays as it is.
    """
    from factory.cli import diff_text
    from factory.workbench import rerun

    sides = _sides(run, constitutions or [], judges or [])
    if is_dry:
        planned = rerun.dry_run(run, sides)
        diff_text.print_dry_run(planned)
        _write(to, planned)
        return
    made = rerun.diff(run, sides, keeps=keeps)
    diff_text.print_diff(made, count)
    _write(to, made)
    if constitutions and not judges and made.difference.touched:
        _print_next(run, constitutions, keeps=keeps)


def _sides(run: Path, constitutions: Sequence[Path], judges: Sequence[str]) -> Sides:
    from factory.workbench import sides
    from factory.workbench.rerun import finished

    finished(run)  # first: what is said of another folder's recipe would mislead
    if judges:
        if len(constitutions) > 1:
            raise RecipeError(
                f"--judge compares judges on one constitution; found {len(constitutions)}: "
                f"{', '.join(map(str, constitutions))}"
            )
        return sides.by_judge(run, judges, constitutions[0] if constitutions else None)
    if not 1 <= len(constitutions) <= 2:
        raise RecipeError(
            "name one constitution, to compare with the run's own; or two, OLD and NEW; or judges with "
            f"--judge (found {len(constitutions)} constitutions)"
        )
    old = constitutions[0] if len(constitutions) == 2 else None
    return sides.by_constitution(run, old, constitutions[-1])


def _write(to: Path | None, made: Diff | DryRun) -> None:
    from factory.pipeline.traces import write_json

    if to is None:
        return
    with printing.writing("--json", to):
        write_json(to, made)
    print(f"\nwrote everything to {to}")


def _print_next(run: Path, constitutions: Sequence[Path], *, keeps: bool) -> None:
    new = constitutions[-1]
    what = "make the run's data with it"
    keep = ["constitution", "diff", *constitutions, "--run", run, "--keep"]
    value = new.absolute() if new.exists() else new
    words = ["run", run / "recipe.yaml", "--set", f"constitution={value}", "--out", run]
    commands = [(what, endings.command(*words))]
    if not keeps:
        first = "keep these calls in the run's ledger, so that the run does not make them again"
        commands.insert(0, (first, endings.command(*keep)))
    endings.print_commands(*commands)
