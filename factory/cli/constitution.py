"""The commands on constitutions."""

from __future__ import annotations

import typer

from factory.cli.diff import diff
from factory.cli.principles import import_, lint, run_tests, show

constitution_app = typer.Typer(
    help="Edit a constitution with evidence.", no_args_is_help=True, rich_markup_mode="rich"
)
constitution_app.command()(show)
constitution_app.command()(lint)
constitution_app.command("test")(run_tests)
constitution_app.command()(diff)
constitution_app.command("import")(import_)
