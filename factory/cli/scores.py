"""`factory score` and `factory eval`: score a dataset's answers, and measure a scorer."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.cli import endings, printing
from factory.cli.options import LimitOption, SetOption, path_option
from factory.core.errors import RecipeError
from factory.core.paths import user_path

if TYPE_CHECKING:
    from factory.evaluation.rows import Rows
    from factory.evaluation.scorer import Scorer

eval_app = typer.Typer(help="Measure a scorer on labeled data.", no_args_is_help=True)

DataOption = Annotated[
    str, typer.Option("--data", metavar="DATA", help="A dataset's folder, a file, or a Hub id.")
]
ScorerModelOption = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help="A reward or process reward model.")
]
ScorerRecipeOption = Annotated[
    Path | None,
    path_option("--recipe", metavar="FILE", help="Use the scoring stages of this recipe."),
]
ScoreOption = Annotated[
    str | None,
    typer.Option("--score", metavar="NAME", help="Name of the score: the scorer's or the data's."),
]


def _report_path(text: str | Path) -> Path:
    """The path of a report. Raises `RecipeError`, before anything is measured, if another file is there."""
    path = user_path(text)
    page = path.with_suffix(".html")
    if page == path:
        raise RecipeError(f"--out {path}: name a .json file; the page is written beside it")
    if page.exists() and not path.exists():
        raise RecipeError(f"--out {path}: {page}, where its page goes, exists; name another file")
    if path.exists():
        try:
            there = json.loads(path.read_bytes())
        except (OSError, ValueError):
            there = None
        if not (isinstance(there, dict) and {"kind", "data", "rows", "report"} <= there.keys()):
            raise RecipeError(
                f"--out {path} exists and is not the report of an evaluation; name another file"
            )
    return path


WorkOption = Annotated[
    Path | None,
    path_option("--work", help="Where calls are remembered. Default: runs/eval-<inputs>."),
]
ReportOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="Write the report as JSON, and as a page beside it (.html).",
        parser=_report_path,
    ),
]


def score(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A dataset's folder, a file, or a Hub id.")
    ],
    out: Annotated[Path, path_option("--out", "-o", help="The new dataset's folder.")],
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

    Run it again after a stop: only new calls are made.
    """
    from factory.evaluation.score import score as score_rows

    scorer = _scorer(model, recipe, set_, stage=stage)
    assert scorer is not None
    record = score_rows(_rows(data, limit), scorer, out)
    printing.print_scored(out, record)
    endings.after_score(out, record)


@eval_app.command("reward")
def eval_reward(
    data: DataOption,
    model: ScorerModelOption = None,
    recipe: ScorerRecipeOption = None,
    score: ScoreOption = None,
    subset: Annotated[
        str | None,
        typer.Option("--subset", metavar="COLUMN", help="Also report each value of this column."),
    ] = None,
    out: ReportOption = None,
    work: WorkOption = None,
    limit: LimitOption = None,
    set_: SetOption = None,
) -> None:
    """Measure how often the chosen answer of a pair scores higher than the rejected one.

    With --score and neither --model nor --recipe, the scores are those in the columns chosen_NAME
    and rejected_NAME, and no engine starts.
    """
    from factory.evaluation.eval_reward import evaluate_reward

    scorer = _scorer(model, recipe, set_, score=score)
    rows = _rows(data, limit)
    printing.print_evaluation(evaluate_reward(rows, scorer, work, score=score, subset=subset), out)


@eval_app.command("process")
def eval_process(
    data: DataOption,
    model: ScorerModelOption = None,
    recipe: ScorerRecipeOption = None,
    score: ScoreOption = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="A step with a score below this counts as wrong.")
    ] = 0.5,
    out: ReportOption = None,
    work: WorkOption = None,
    limit: LimitOption = None,
    set_: SetOption = None,
) -> None:
    """Measure how well the wrong steps of solutions are found. Reads PRM800K and ProcessBench too.

    With --score and neither --model nor --recipe, the scores are the lists in the column NAME_steps
    (or NAME), and no engine starts.
    """
    from factory.evaluation.eval_process import evaluate_process

    scorer = _scorer(model, recipe, set_, score=score)
    rows = _rows(data, limit)
    found = evaluate_process(rows, scorer, work, score=score, threshold=threshold)
    printing.print_evaluation(found, out)


@eval_app.command("judge")
def eval_judge(
    data: DataOption,
    recipe: Annotated[
        Path, path_option("--recipe", metavar="FILE", help="Its first pairwise judge is measured.")
    ],
    prompt: Annotated[str | None, typer.Option("--prompt-column", help="Default: prompt.")] = None,
    a: Annotated[str | None, typer.Option("--a-column", help="Default: response_a.")] = None,
    b: Annotated[str | None, typer.Option("--b-column", help="Default: response_b.")] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--label-columns",
            metavar="A,B,...",
            help="One column per person; values 1 or a, 2 or b, 0 or tie. Default: label.",
        ),
    ] = None,
    coding: Annotated[
        str | None,
        typer.Option(
            "--labels", metavar="CODE=a,CODE=b,...", help="Meanings of the codes: 1=a,0=b."
        ),
    ] = None,
    tie_band: Annotated[
        float, typer.Option(min=0, max=0.49, help="P within this distance of 0.5 counts as a tie.")
    ] = 0.0,
    out: ReportOption = None,
    work: WorkOption = None,
    limit: LimitOption = None,
    set_: SetOption = None,
) -> None:
    """Measure how often a judge prefers the answers that people prefer.

    Knows PandaLM's columns, the decisions of `factory review`, and what `export --reviewed` writes.
    """
    from factory.evaluation.eval_judge import evaluate_judge
    from factory.evaluation.people import open_comparisons
    from factory.evaluation.scorer import judge_of
    from factory.sources.benchmarks import parse_labels

    given = {
        "prompt": prompt,
        "a": a,
        "b": b,
        "labels": None if labels is None else tuple(x.strip() for x in labels.split(",") if x),
    }
    columns = {field: value for field, value in given.items() if value is not None}
    scorer, rows = judge_of(recipe, set_ or ()), open_comparisons(data).limited(limit)
    meanings = None if coding is None else parse_labels(coding)
    found = evaluate_judge(rows, scorer, work, columns=columns, labels=meanings, tie_band=tie_band)
    printing.print_evaluation(found, out)


def _rows(data: str, limit: int | None) -> Rows:
    from factory.evaluation.rows import open_rows

    return open_rows(data).limited(limit)


def _scorer(
    model: str | None,
    recipe: Path | None,
    overrides: Sequence[str] | None,
    *,
    stage: str | None = None,
    score: str | None = None,
) -> Scorer | None:
    """The scorer that the options name. None: the scores are in the data."""
    from factory.evaluation.scorer import from_model, from_recipe

    if model is not None and recipe is not None:
        raise RecipeError("--model and --recipe both say what scores; give only one")
    if stage is not None and model is None:
        raise RecipeError(f"--stage {stage} needs --model MODEL")
    if model is not None:
        return from_model(model, stage, overrides or ())
    if recipe is not None:
        scorer = from_recipe(recipe, overrides or ())
        if scorer.skipped:
            print(
                f"stages left out, as they score nothing: {', '.join(scorer.skipped)}",
                file=sys.stderr,
            )
        return scorer
    if score is None:
        raise RecipeError("nothing to score with: give --model MODEL or --recipe FILE")
    if overrides:
        raise RecipeError(
            f"--set {overrides[0]}: there is no scorer to set; give --model or --recipe"
        )
    return None
