"""The commands on constitutions."""

from __future__ import annotations

import typer

from factory.cli.diff import diff

constitution_app = typer.Typer(
    help="Edit a constitution with evidence.", no_args_is_help=True, rich_markup_mode="rich"
)
constitution_app.command()(diff)
