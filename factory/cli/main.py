"""The command line: each command loads a recipe, calls one function, and prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factory.cli import printing, scores
from factory.cli.options import LimitOption, SetOption
from factory.errors import FactoryError, RecipeError
from factory.paths import user_path
from factory.terminal import printable

if TYPE_CHECKING:
    from factory.recipe import Recipe
    from factory.runner.manifest import Manifest

app = typer.Typer(
    name="factory",
    help="A language model, prompts and a constitution in; preference data and a better model out.\n\n"
    "Start with [bold]factory doctor[/bold], then [bold]factory init my-project[/bold].",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

RecipeArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE", help="A recipe, as pipelines/quickstart.yaml.", parser=user_path
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
_INTERRUPTED = 130  # what typer makes of Ctrl+C


def main() -> None:
    """The entry point: errors of ours become one message and an exit code."""
    try:
        app()
    except FactoryError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"error: {printable(str(error))}; what was done is kept", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code == _INTERRUPTED and sys.argv[1:2] != ["train"]:  # which says it itself
            print("stopped; what was done is kept: the same command goes on", file=sys.stderr)
        raise


@app.callback(invoke_without_command=True)
def _global(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        import factory

        print(f"factory {factory.__version__}")
        raise typer.Exit


@app.command()
def doctor() -> None:
    """Check this machine: Python, packages, GPU, memory, disk, the embedded model."""
    from factory.doctor import examine

    findings = examine()
    for finding in findings:
        print(f"{'ok  ' if finding.is_fine else 'FAIL'}  {finding.what:<16} {finding.found}")
        if finding.remedy:
            print(f"{'':22} {finding.remedy}")
    if not all(finding.is_fine for finding in findings):
        raise typer.Exit(1)


@app.command()
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A new or empty folder.", parser=user_path)
    ] = Path("my-project"),
) -> None:
    """Copy the shipped recipes, prompts and constitutions into FOLDER, for you to edit."""
    from factory.project import create

    create(folder)
    print(f"made {folder}/ with constitutions/ and pipelines/; next:")
    print(f"  edit {folder}/constitutions/helpful-honest-harmless.yaml")
    print(f"  factory preview {folder}/pipelines/quickstart.yaml")
    print(f"  factory run {folder}/pipelines/quickstart.yaml")


@app.command()
def validate(recipe: RecipeArgument, set_: SetOption = None) -> None:
    """Check a recipe and everything it names, without starting an engine."""
    from factory.check import check_held_out, check_training, is_at_hand

    loaded = _load(recipe, set_)
    check_training(loaded)
    sources = [loaded.source, *([loaded.evaluation.source] if loaded.evaluation else [])]
    if all(is_at_hand(source, loaded.folder) for source in sources):
        check_held_out(loaded)
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


@app.command()
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

    loaded = _load(recipe, set_, count)
    folder = out or _default_out(loaded)
    for result in answer_some(as_far_as_trained(loaded, folder), folder):
        show(result)


@app.command()
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

    loaded = _load(recipe, set_, limit)
    folder = out or _default_out(loaded)
    manifest = run_in_phases(loaded, folder)
    printing.print_manifest(folder, manifest)
    printing.refuse_no_rows(folder, manifest)


@app.command()
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


@app.command()
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
        export_again(_load(recipe or run_folder / "recipe.yaml", set_), run_folder, manifest)
    printing.print_views(run_folder, manifest)
    printing.refuse_no_rows(run_folder, manifest)


def _print_presets(is_asked: bool) -> None:
    from factory.training.grpo_presets import describe

    if is_asked:
        print(describe())
        raise typer.Exit


@app.command()
def train(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="sft, dpo, kto, reward, prm, grpo, rloo or ppo.")
    ],
    data: Annotated[
        str, typer.Option(help="RUN/datasets/preference, a JSON(L) or Parquet file, or a Hub id.")
    ],
    model: Annotated[str, typer.Option(help="smollm2-135m-instruct, a folder or a Hub id.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where the trained model goes.", parser=user_path)
    ],
    config: Annotated[
        Path | None, typer.Option("--config", help="A YAML file of such fields.", parser=user_path)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="FIELD=VALUE",
            help="A field of the trainer's config, as max_steps=20.",
        ),
    ] = None,
    lora: Annotated[
        str | None,
        typer.Option(
            "--lora", metavar="R", help="Train a LoRA: its rank, or peft's fields as YAML."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")
    ] = False,
    presets: Annotated[
        bool,
        typer.Option(
            "--presets",
            is_eager=True,
            callback=_print_presets,
            help="Print what grpo's presets maximise and set, and exit.",
        ),
    ] = False,
) -> None:
    """Train a model on a dataset. KIND is the trainer; its options are the library's, passed through.

    sft, dpo, kto train on answers and pairs; grpo, rloo, ppo on prompts and rewards; reward and prm
    make models that score.
    """
    from factory.override import override
    from factory.training import TRAINERS
    from factory.yamlfile import YamlFile, nearest

    if kind not in TRAINERS:
        raise RecipeError(
            f"factory train: no trainer '{kind}'{nearest(kind, list(TRAINERS))} "
            f"(have: {', '.join(TRAINERS)})"
        )
    options: dict[str, Any] = YamlFile(config).data if config else {}
    for text in set_ or []:
        override(options, text)
    result = TRAINERS[kind].train(data, model, out, lora=_lora(lora), config=options, resume=resume)
    if os.environ.get("RANK", "0") != "0":  # one of several that `accelerate launch` started
        return
    print(f"trained {model} for {result['steps']} steps: {out}")
    kinds = {"reward": "SequenceClassification", "prm": "TokenClassification"}
    print(f"load it with AutoModelFor{kinds.get(kind, 'CausalLM')}.from_pretrained('{out}')")


@app.command()
def align(
    recipe: RecipeArgument,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Turns of the crank.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The rounds' folder. Default: runs/<recipe's name>-align.",
            parser=user_path,
        ),
    ] = None,
    limit: LimitOption = None,
    set_: SetOption = None,
) -> None:
    """Close the loop: make data, train on it, compare the new model with the old, and again."""
    from factory.align import align as turn
    from factory.align import table

    loaded = _load(recipe, set_, limit)
    folder = out or Path("runs") / f"{loaded.name}-align"
    print(table(turn(loaded, folder, rounds)))


app.command()(scores.score)
app.add_typer(scores.eval_app, name="eval")


def _lora(text: str | None) -> dict[str, Any] | None:
    """`16` or `{r: 16, lora_alpha: 32}`."""
    import yaml

    from factory.yamlfile import parse

    if text is None:
        return None
    try:
        value = parse(text)
    except yaml.YAMLError:
        value = None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return {"r": value}
    if isinstance(value, dict):
        return value
    raise RecipeError(f"--lora {text}: expected a rank, as 16, or a mapping, as '{{r: 16}}'")


# -- helpers ------------------------------------------------------------------------------------


def _load(path: Path, overrides: Sequence[str] | None, limit: int | None = None) -> Recipe:
    from factory.recipe import load

    return load(path, overrides or (), limit=limit)


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
