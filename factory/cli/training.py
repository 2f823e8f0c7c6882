"""The commands that train: `factory train`, `factory align`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from factory.cli import endings, page
from factory.cli.options import (
    LimitOption,
    NoReportOption,
    RecipeArgument,
    SetOption,
    load,
    path_option,
)
from factory.core.errors import RecipeError


def _print_presets(is_asked: bool) -> None:
    from factory.training.online.grpo_presets import describe

    if is_asked:
        print(describe())
        raise typer.Exit


def train(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="sft, dpo, kto, reward, prm, grpo, rloo or ppo.")
    ],
    data: Annotated[
        str, typer.Option(help="A dataset's folder, a JSON(L) or Parquet file, or a Hub id.")
    ],
    model: Annotated[
        str, typer.Option(help="The model to train: smollm2-135m-instruct, a folder or a Hub id.")
    ],
    out: Annotated[Path, path_option("--out", "-o", help="The trained model's folder.")],
    config: Annotated[
        Path | None, path_option("--config", help="A YAML file of fields of the trainer's config.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="FIELD=VALUE",
            help="A field of the trainer's config: max_steps=20. Repeatable.",
        ),
    ] = None,
    lora: Annotated[
        str | None,
        typer.Option(
            "--lora", metavar="R", help="Train a LoRA of this rank, or with peft's fields as YAML."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint in --out.")
    ] = False,
    presets: Annotated[
        bool,
        typer.Option(
            "--presets",
            is_eager=True,
            callback=_print_presets,
            help="Print what each preset of grpo maximizes and sets, and exit.",
        ),
    ] = False,
    no_report: NoReportOption = False,
) -> None:
    """Train a model on a dataset. KIND is the trainer; its options are the library's, passed through.

    sft, dpo and kto train on answers and pairs. grpo, rloo and ppo train on prompts and rewards.
    reward and prm make models that score.
    """
    from factory.core.override import override
    from factory.core.yamlfile import YamlFile
    from factory.training import listed

    trainer = listed(kind)
    options: dict[str, Any] = YamlFile(config).data if config else {}
    for text in set_ or []:
        override(options, text)
    result = trainer.train(data, model, out, lora=_lora(lora), config=options, resume=resume)
    if os.environ.get("RANK", "0") != "0":  # one of several that `accelerate launch` started
        return
    made = None if no_report else page.written(out)
    print(f"trained {model} for {result['steps']} steps: {out}")
    endings.after_training(kind, out)
    page.print_path(made)


def align(
    recipe: RecipeArgument,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Number of rounds.")] = 1,
    out: Annotated[
        Path | None,
        path_option("--out", "-o", help="The rounds' folder. Default: runs/<recipe's name>-align."),
    ] = None,
    limit: LimitOption = None,
    set_: SetOption = None,
    no_report: NoReportOption = False,
) -> None:
    """Make data, train on it, compare the new model with the old; repeat for each round."""
    from factory.align.loop import align as turn
    from factory.align.report import examples, table
    from factory.core.terminal import printable

    loaded = load(recipe, set_, limit)
    folder = out or Path("runs") / f"{loaded.name}-align"
    done = turn(loaded, folder, rounds)
    print(printable(examples(done.rounds[-1].evaluation)))
    print(table(done))
    made = None if no_report else page.written(folder / f"round-{done.rounds[-1].number}" / "run")
    constitution = loaded.constitution.path if loaded.constitution else None
    endings.after_align(recipe, folder, done, rounds, constitution)
    page.print_path(made)


# -- helpers ------------------------------------------------------------------------------------


def _lora(text: str | None) -> dict[str, Any] | None:
    """The value of --lora as peft's fields: `16` or `{r: 16, lora_alpha: 32}`. Raises `RecipeError`."""
    import yaml

    from factory.core.yamlfile import parse

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
