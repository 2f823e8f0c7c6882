"""The command line: each command loads a recipe, calls one function, and prints."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from factory.cli import endings, printing, runs, scores, training
from factory.cli.constitution import constitution_app
from factory.cli.options import RecipeArgument, SetOption, load
from factory.cli.review import review
from factory.core.errors import FactoryError, RecipeError, Renamed
from factory.core.paths import user_path
from factory.core.terminal import printable

app = typer.Typer(
    name="factory",
    help="A language model, prompts and a constitution in; preference data and a better model out.\n\n"
    "Start with [bold]factory doctor[/bold], then [bold]factory init my-project[/bold].",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_INTERRUPTED = 130  # what typer makes of Ctrl+C


def main() -> None:
    """The entry point. A `FactoryError` or `OSError` becomes one message and an exit code."""
    warnings.showwarning = _show(warnings.showwarning)
    try:
        app()
    except FactoryError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"error: {printable(str(error))}; finished work is kept", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code == _INTERRUPTED and sys.argv[1:2] != ["train"]:  # `train` says it itself
            print(
                "stopped; finished work is kept: run the same command to continue", file=sys.stderr
            )
        raise


def _show(otherwise: Callable[..., None]) -> Callable[..., None]:
    """Our own warnings as one line; others by `otherwise`."""

    def show(message: Warning | str, category: type[Warning], *where: object) -> None:
        if issubclass(category, Renamed):
            print(f"note: {printable(str(message))}", file=sys.stderr)
        else:
            otherwise(message, category, *where)

    return show


@app.callback(invoke_without_command=True)
def _global(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        from factory.core.version import __version__

        print(f"factory {__version__}")
        raise typer.Exit


@app.command()
def doctor() -> None:
    """Check this machine: Python, packages, GPU, memory, disk, the embedded model."""
    from factory.cli.doctor import examine, in_clone

    findings = examine()
    for finding in findings:
        print(f"{'ok  ' if finding.is_fine else 'FAIL'}  {finding.what:<16} {finding.found}")
        if finding.remedy:
            print(f"{'':22} {finding.remedy}")
    for what, does in in_clone(Path.cwd()):
        print()
        print("\n".join(printing.wrapped(f"{what} {does}", "")))
    if not all(finding.is_fine for finding in findings):
        raise typer.Exit(1)


@app.command()
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A new or empty folder.", parser=user_path)
    ] = Path("my-project"),
) -> None:
    """Copy the shipped recipes, prompts and constitutions into FOLDER, for you to edit."""
    from factory.cli.init import create

    create(folder)
    print(f"made {folder}/ with constitutions/ and pipelines/")
    endings.after_init(folder)


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="recipe or constitution.")],
) -> None:
    """Print the JSON Schema of recipes or constitutions, by which editors complete and check them."""
    import json

    from factory.recipe.schema import KINDS
    from factory.recipe.schema import schema as made

    if kind not in KINDS:
        raise RecipeError(f"factory schema: no schema of '{kind}' (have: {', '.join(KINDS)})")
    print(json.dumps(made(kind), indent=2, ensure_ascii=False))


@app.command()
def validate(recipe: RecipeArgument, set_: SetOption = None) -> None:
    """Check a recipe and everything it names, without starting an engine."""
    from factory.core.screen import Screen

    with Screen().doing(f"checking {recipe}: names, files, prompts, trainings; no engine starts"):
        from factory.recipe.check import check_held_out, check_training, is_at_hand
        from factory.recipe.check_prompts import check_prompts

        loaded = load(recipe, set_)
        check_training(loaded)
        sources = [loaded.source, *([loaded.evaluation.source] if loaded.evaluation else [])]
        if all(is_at_hand(source, loaded.folder) for source in sources):
            check_held_out(loaded)
        remarks = check_prompts(loaded) if is_at_hand(loaded.source, loaded.folder) else []
    print(f"{recipe} is valid")
    print(f"  source        {loaded.source.path}")
    if loaded.evaluation:
        print(f"  held out      {loaded.evaluation.source.path}")
    if loaded.constitution:
        print(f"  constitution  {loaded.describe_constitution()}")
    for name, model in loaded.models.items():
        print(f"  model         {name}: {model.model} ({model.engine})")
    print(f"  stages        {' -> '.join(loaded.stage_labels())}")
    print(f"  views         {', '.join(v.name or v.kind for v in loaded.views) or 'none'}")
    print(f"  training      {', '.join(t.kind for t in loaded.training) or 'none'}")
    for remark in remarks:
        print("\n".join(printing.wrapped(f"note: {remark}", "  ")))
    endings.after_validate(recipe)


for command in (
    runs.preview,
    runs.run,
    runs.status,
    runs.show,
    runs.report,
    runs.export,
    review,
    training.train,
    training.align,
):
    app.command()(command)
app.command()(scores.score)
app.add_typer(scores.eval_app, name="eval")
app.add_typer(constitution_app, name="constitution")
