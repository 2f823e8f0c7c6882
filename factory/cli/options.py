"""Arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.core.paths import user_path

if TYPE_CHECKING:
    from factory.recipe.recipe import Recipe

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
    Path | None,
    typer.Option(
        "--out", "-o", help="The run's folder. Default: runs/<recipe's name>.", parser=user_path
    ),
]
LedgerOption = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        metavar="FILE",
        help="Remember calls in FILE. Several runs may share it. Default: the file the run began "
        "with, else ledger.sqlite in its folder.",
        parser=user_path,
    ),
]
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
