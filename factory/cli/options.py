"""Arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factory.core.paths import user_path

if TYPE_CHECKING:
    from factory.recipe.recipe import Recipe


def path_option(*names: str, help: str, metavar: str | None = None) -> Any:
    """An option whose value is a path as users write it."""
    return typer.Option(*names, help=help, metavar=metavar, parser=user_path)


RecipeArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE", help="A recipe, e.g. pipelines/quickstart.yaml.", parser=user_path
    ),
]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's folder.", parser=user_path)
]
OutOption = Annotated[
    Path | None, path_option("--out", "-o", help="The run's folder. Default: runs/<recipe's name>.")
]
LedgerOption = Annotated[
    Path | None,
    path_option(
        "--ledger",
        metavar="FILE",
        help="Remember calls in FILE. Several runs may share it. Default: the file the run began "
        "with, else ledger.sqlite in its folder.",
    ),
]
NoReportOption = Annotated[bool, typer.Option("--no-report", help="Write no report.html.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="FIELD=VALUE", help="Override a field: stages.0.n=4. Repeatable."
    ),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, help="Use only the first N source rows.")
]


def load(
    path: Path, overrides: Sequence[str] | None, limit: int | None = None, *, trains: bool = True
) -> Recipe:
    """The recipe, checked. Raises `RecipeError`. `trains`: see `factory.recipe.load`."""
    from factory.recipe import load as reading

    return reading.load(path, overrides or (), limit=limit, trains=trains)
