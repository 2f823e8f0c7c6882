"""The command line: each command loads a recipe, calls one function, and prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factory.errors import FactoryError, RecipeError

if TYPE_CHECKING:
    from factory.evaluation.evaluate import Evaluation
    from factory.recipe import Recipe
    from factory.runner.manifest import Manifest
    from factory.scoring.rows import Rows
    from factory.scoring.score import Record
    from factory.scoring.scorer import Scorer

app = typer.Typer(
    name="factory",
    help="A language model, prompts and a constitution in; preference data and a better model out.\n\n"
    "Start with [bold]factory doctor[/bold], then [bold]factory init my-project[/bold].",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

eval_app = typer.Typer(help="Measure a scorer against data that is known.", no_args_is_help=True)
app.add_typer(eval_app, name="eval")

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe, as pipelines/quickstart.yaml.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="FIELD=VALUE", help="Override a field, as stages.0.n=4. Repeatable."
    ),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, help="Use only the first N source rows.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The run's folder. Default: runs/<recipe's name>."),
]
DataOption = Annotated[
    str, typer.Option("--data", metavar="DATA", help="A dataset's folder, a file, or a Hub id.")
]
ScorerModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="A reward or process reward model."),
]
ScorerRecipeOption = Annotated[
    Path | None,
    typer.Option("--recipe", metavar="FILE", help="Use the scoring stages of this recipe."),
]
ScoreOption = Annotated[
    str | None,
    typer.Option("--score", metavar="NAME", help="The score, of the scorer or in the data."),
]
WorkOption = Annotated[
    Path | None,
    typer.Option("--work", help="Where calls are remembered. Default: runs/eval-<inputs>."),
]
ReportOption = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the report as JSON.")
]

_INTERRUPTED = 130  # what typer makes of Ctrl+C


def main() -> None:
    """The entry point: errors of ours become one message and an exit code."""
    try:
        app()
    except FactoryError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
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
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new or empty folder.")] = Path(
        "my-project"
    ),
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
    from factory.check import check_training

    loaded = _load(recipe, set_)
    check_training(loaded)
    print(f"{recipe} is valid")
    print(f"  source        {loaded.source.path}")
    if loaded.constitution:
        c = loaded.constitution
        print(f"  constitution  {c.name} {c.version}, {len(c.principles)} principles")
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
    _print_manifest(folder, run_in_phases(loaded, folder))


@app.command()
def status(
    run_folder: RunArgument,
) -> None:
    """Show what a run has made so far."""
    _print_manifest(run_folder, _manifest_of(run_folder))


@app.command()
def export(
    run_folder: RunArgument,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Take the views from this recipe instead.")
    ] = None,
    set_: SetOption = None,
) -> None:
    """Make the datasets again from a run's traces, with other views if you like. Calls no model."""
    from factory.runner.run import export_views

    manifest = _manifest_of(run_folder)
    if manifest.state == "running":
        raise FactoryError(f"{run_folder} is not finished: run its recipe again first")
    export_views(_load(recipe or run_folder / "recipe.yaml", set_), run_folder, manifest)
    _print_views(run_folder, manifest)


@app.command()
def train(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="sft, dpo, kto, reward, prm, grpo, rloo or ppo.")
    ],
    data: Annotated[str, typer.Option(help="A dataset folder, as RUN/datasets/preference.")],
    model: Annotated[str, typer.Option(help="smollm2-135m-instruct, a folder or a Hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the trained model goes.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="A YAML file of such fields.")
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
    print(f"trained {model} for {result['steps']} steps: {out}")
    kinds = {"reward": "SequenceClassification", "prm": "TokenClassification"}
    print(f"load it with AutoModelFor{kinds.get(kind, 'CausalLM')}.from_pretrained('{out}')")


@app.command()
def align(
    recipe: RecipeArgument,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Turns of the crank.")] = 1,
    out: OutOption = None,
    limit: LimitOption = None,
    set_: SetOption = None,
) -> None:
    """Close the loop: make data, train on it, compare the new model with the old, and again."""
    from factory.align import align as turn
    from factory.align import table

    loaded = _load(recipe, set_, limit)
    folder = out or Path("runs") / f"{loaded.name}-align"
    print(table(*turn(loaded, folder, rounds)))


@app.command()
def score(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A dataset's folder, a file, or a Hub id.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new dataset's folder.")],
    model: ScorerModelOption = None,
    stage: Annotated[
        str | None,
        typer.Option("--stage", metavar="KIND", help="What --model is: reward or process."),
    ] = None,
    recipe: ScorerRecipeOption = None,
    limit: LimitOption = None,
    set_: SetOption = None,
) -> None:
    """Score the answers of a dataset, and write it again with the scores as columns.

    Run it again to go on after a stop: only calls that were never made are made.
    """
    from factory.scoring.rows import open_rows
    from factory.scoring.score import score as score_rows

    scorer = _scorer(model, recipe, set_, stage=stage)
    assert scorer is not None
    _print_scored(out, score_rows(open_rows(data).limited(limit), scorer, out))


@eval_app.command("reward")
def eval_reward(
    data: DataOption,
    model: ScorerModelOption = None,
    recipe: ScorerRecipeOption = None,
    score: ScoreOption = None,
    subset: Annotated[
        str | None,
        typer.Option("--subset", metavar="COLUMN", help="Report each of its values by itself."),
    ] = None,
    out: ReportOption = None,
    work: WorkOption = None,
    limit: LimitOption = None,
    set_: SetOption = None,
) -> None:
    """How often does the chosen answer of a pair score higher than the rejected one?

    With --score and neither --model nor --recipe, the scores are those in the columns chosen_NAME
    and rejected_NAME, and no engine starts.
    """
    from factory.evaluation.eval_reward import evaluate_reward

    scorer = _scorer(model, recipe, set_, score=score)
    rows = _rows(data, limit)
    _print_evaluation(evaluate_reward(rows, scorer, work, score=score, subset=subset), out)


@eval_app.command("process")
def eval_process(
    data: DataOption,
    model: ScorerModelOption = None,
    recipe: ScorerRecipeOption = None,
    score: ScoreOption = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="A step scored below it is taken to be wrong.")
    ] = 0.5,
    out: ReportOption = None,
    work: WorkOption = None,
    limit: LimitOption = None,
    set_: SetOption = None,
) -> None:
    """How well are the wrong steps of solutions found? Reads PRM800K and ProcessBench too.

    With --score and neither --model nor --recipe, the scores are the lists in the column NAME_steps
    (or NAME), and no engine starts.
    """
    from factory.evaluation.eval_process import evaluate_process

    scorer = _scorer(model, recipe, set_, score=score)
    rows = _rows(data, limit)
    found = evaluate_process(rows, scorer, work, score=score, threshold=threshold)
    _print_evaluation(found, out)


@eval_app.command("judge")
def eval_judge(
    data: DataOption,
    recipe: Annotated[
        Path, typer.Option("--recipe", metavar="FILE", help="Its first pairwise judge is measured.")
    ],
    prompt: Annotated[str | None, typer.Option("--prompt-column", help="Default: prompt.")] = None,
    a: Annotated[str | None, typer.Option("--a-column", help="Default: response_a.")] = None,
    b: Annotated[str | None, typer.Option("--b-column", help="Default: response_b.")] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--label-columns",
            metavar="A,B,...",
            help="One a person; 1 or a, 2 or b, 0 or tie. Default: label.",
        ),
    ] = None,
    tie_band: Annotated[
        float,
        typer.Option(min=0, max=0.49, help="A tie, where P is no further than this from 0.5."),
    ] = 0.0,
    out: ReportOption = None,
    work: WorkOption = None,
    limit: LimitOption = None,
    set_: SetOption = None,
) -> None:
    """Does a judge prefer the answers that people prefer? Knows PandaLM's columns by their names."""
    from factory.evaluation.eval_judge import evaluate_judge
    from factory.scoring.scorer import judge_of

    given = {
        "prompt": prompt,
        "a": a,
        "b": b,
        "labels": None if labels is None else tuple(x.strip() for x in labels.split(",") if x),
    }
    columns = {field: value for field, value in given.items() if value is not None}
    scorer, rows = judge_of(recipe, set_ or ()), _rows(data, limit)
    found = evaluate_judge(rows, scorer, work, columns=columns, tie_band=tie_band)
    _print_evaluation(found, out)


def _lora(text: str | None) -> dict[str, Any] | None:
    """`16` or `{r: 16, lora_alpha: 32}`."""
    import yaml

    if text is None:
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if isinstance(value, int) and value > 0:
        return {"r": value}
    if isinstance(value, dict):
        return value
    raise RecipeError(f"--lora {text}: expected a rank, as 16, or a mapping, as '{{r: 16}}'")


# -- helpers ------------------------------------------------------------------------------------


def _load(path: Path, overrides: Sequence[str] | None, limit: int | None = None) -> Recipe:
    from factory.recipe import load

    return load(path, overrides or (), limit=limit)


def _rows(data: str, limit: int | None) -> Rows:
    from factory.scoring.rows import open_rows

    return open_rows(data).limited(limit)


def _scorer(
    model: str | None,
    recipe: Path | None,
    overrides: Sequence[str] | None,
    *,
    stage: str | None = None,
    score: str | None = None,
) -> Scorer | None:
    """None: there is a score in the data, and nothing to make it with."""
    from factory.scoring.scorer import from_model, from_recipe

    if model is not None and recipe is not None:
        raise RecipeError("--model and --recipe both say what scores; give one of them")
    if stage is not None and model is None:
        raise RecipeError(f"--stage {stage} says what --model is; give a --model")
    if model is not None:
        return from_model(model, stage, overrides or ())
    if recipe is not None:
        scorer = from_recipe(recipe, overrides or ())
        if scorer.skipped:
            print(f"not used, as they score nothing: {', '.join(scorer.skipped)}", file=sys.stderr)
        return scorer
    if score is None:
        raise RecipeError("nothing to score with: give --model MODEL or --recipe FILE")
    if overrides:
        raise RecipeError(f"--set {overrides[0]}: there is no scorer to set it of; give --model")
    return None


def _default_out(recipe: Recipe) -> Path:
    return Path("runs") / recipe.name


def _manifest_of(run_folder: Path) -> Manifest:
    from factory.runner.manifest import read

    manifest = read(run_folder)
    if manifest is None:
        inside = sorted(str(path.parent) for path in run_folder.glob("*/manifest.json"))
        hint = f"; did you mean {inside[0]}?" if inside else ""
        raise RecipeError(f"{run_folder} holds no run: there is no manifest.json in it{hint}")
    return manifest


def _print_manifest(folder: Path, manifest: Manifest) -> None:
    tokens = manifest.tokens()
    print(f"\n{folder}: {manifest.state}, {manifest.samples} samples", end="")
    print(f", {manifest.quarantined} quarantined" if manifest.quarantined else "")
    print(f"\n  {'stage':<14}{'calls made':>12}{'remembered':>12}{'output tokens':>15}")
    for label, count in manifest.stages.items():
        print(f"  {label:<14}{count.made:>12,}{count.remembered:>12,}{count.output_tokens:>15,}")
    made = sum(s.made for s in manifest.stages.values())
    remembered = sum(s.remembered for s in manifest.stages.values())
    print(f"  {'all':<14}{made:>12,}{remembered:>12,}{tokens['output']:>15,}")
    print(
        f"\n  {tokens['prompt']:,} prompt tokens, {manifest.cached_share():.0%} of them from the "
        f"prefix cache; {manifest.seconds:.0f} s"
    )
    if manifest.restarts:
        print(f"  the engine died and was restarted {manifest.restarts} times")
    for reason, times in list(manifest.reasons.items())[:3]:
        print(f"  quarantined: {times} x {reason}")
    if manifest.quarantined:
        print(f"  all of them: {folder / 'quarantine.jsonl'}")
    _print_views(folder, manifest)


def _print_views(folder: Path, manifest: Manifest) -> None:
    for view in manifest.views:
        print(f"\n  {folder / 'datasets' / view['view']}: {view['rows']:,} rows")
        for reason, count in sorted(view["drops"].items(), key=lambda item: -item[1]):
            print(f"    no row, {reason:<24}{count:>8,}")


def _print_scored(out: Path, record: Record) -> None:
    print(f"\n{out}: {record.rows:,} rows, with {', '.join(record.columns)}")
    print(f"  {record.calls:,} calls made")
    for reason, times in record.left_out.items():
        print(f"  left out: {times:,} x {reason}")
    for reason, times in list(record.reasons.items())[:3]:
        print(f"  not scored: {times:,} x {reason}")
    if record.failed:
        print(f"  all of them: {out / 'quarantine.jsonl'}")


def _print_evaluation(found: Evaluation, out: Path | None) -> None:
    from factory.runner.shards import write_json

    print(found.text())
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, found)
        except OSError as error:
            raise FactoryError(f"--out {out} cannot be written: {error.strerror}") from error
