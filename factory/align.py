"""`factory align`: close the loop. Make data, train on it, compare the new model with the first.

Each round generates with the last round's model. Its folder holds what it made:

    OUT/round-1/run/           a run of the recipe
    OUT/round-1/model/         what the training made of it, in a process of its own
    OUT/round-1/evaluation/    both models on held-out prompts, judged: a run like any other

Every step knows whether it is finished, so the same command goes on after a stop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from factory.check import check_training
from factory.engines.vllm import VllmConfig
from factory.errors import FactoryError, RecipeError
from factory.evaluation.win_rate import Comparison, WinRate, win_rate
from factory.recipe import Recipe, load
from factory.records import Sample
from factory.runner import shards
from factory.runner.progress import Progress
from factory.runner.run import run
from factory.training.apart import train_apart
from factory.training.base import TrainingConfig
from factory.yamlfile import dump


class Round(msgspec.Struct):
    """What one turn of the crank made, and how the new model compares with the recipe's own."""

    number: int
    model: str
    rows: int
    """Rows of the dataset that was trained on."""
    steps: int
    metrics: dict[str, Any]
    """The training's last figures, by TRL's names."""
    win_rate: WinRate


def align(recipe: Recipe, out: Path, rounds: int) -> list[Round]:
    """Turn the crank `rounds` times. Writes OUT/align.json after each round.

    Raises `RecipeError` if the recipe says nothing of training or evaluation.
    """
    training, name = _check(recipe)
    check_training(recipe)
    progress = Progress()
    done: list[Round] = []
    model: str | None = None
    for number in range(1, rounds + 1):
        folder = out / f"round-{number}"
        progress.note(f"round {number} of {rounds}: making data")
        current = recipe if model is None else recipe.with_model(name, model)
        manifest = run(current, folder / "run", progress=progress)
        rows = next(v["rows"] for v in manifest.views if v["view"] == training.view)
        if not rows:
            raise FactoryError(
                f"{folder / 'run'} made no rows for '{training.view}'; {folder / 'run'}/manifest.json "
                "says why by reason; use more prompts, or a judge that can tell the answers apart"
            )
        progress.note(f"round {number} of {rounds}: training on {rows} rows")
        before = model or recipe.absolute_model(name)
        data = folder / "run" / "datasets" / training.view
        record = train_apart(training, data, before, folder / "model")
        model = str((folder / "model").absolute())
        progress.note(f"round {number} of {rounds}: comparing with the first model")
        rate = _evaluate(recipe, folder, name, model, progress)
        done.append(
            Round(number, model, rows, record["steps"], dict(record.get("metrics") or {}), rate)
        )
        shards.write_json(out / "align.json", done)
    return done


def _check(recipe: Recipe) -> tuple[TrainingConfig, str]:
    if len(recipe.training) != 1:
        raise RecipeError(
            f"{recipe.path} training: align needs exactly one entry, found {len(recipe.training)}; "
            "add `training: [{kind: dpo, view: preference, model: policy}]`"
        )
    if recipe.evaluation is None:
        raise RecipeError(
            f"{recipe.path} evaluation: align needs held-out prompts and a judge; add `evaluation: "
            "{source: {path: prompts/held-out.jsonl}, model: policy, judge: policy}`"
        )
    training = recipe.training[0]
    if training.kind != "dpo":
        raise RecipeError(
            f"{recipe.path} training[0].kind: '{training.kind}' trains a model that scores; align "
            "needs one that trains the model that writes: dpo"
        )
    name = training.model or recipe.evaluation.model
    if not isinstance(recipe.models[name], VllmConfig):
        raise RecipeError(
            f"{recipe.path} models.{name}: align trains it, so its weights must be here: use "
            "engine: vllm"
        )
    return training, name


def _evaluate(recipe: Recipe, folder: Path, name: str, model: str, progress: Progress) -> WinRate:
    """Both models answer held-out prompts, the recipe's judge compares them in both orders."""
    written = folder / "evaluation.yaml"
    text = dump(_evaluation_recipe(recipe, name, model))
    written.write_text(text, encoding="utf-8")
    run(load(written), folder / "evaluation", progress=progress)
    comparisons = [c for s in shards.read_samples(folder / "evaluation") for c in _compare(s)]
    return win_rate(comparisons, seed=recipe.seed)


def _evaluation_recipe(recipe: Recipe, name: str, model: str) -> dict[str, Any]:
    evaluation = recipe.evaluation
    assert evaluation is not None
    source = evaluation.source.model_dump(mode="json", exclude_defaults=True)
    if (recipe.folder / source["path"]).exists():
        source["path"] = str((recipe.folder / source["path"]).resolve())

    def of(which: str) -> dict[str, Any]:
        config = recipe.models[which]
        dumped = config.model_dump(mode="json", exclude_defaults=True)
        return {"engine": config.engine, **dumped, "model": recipe.absolute_model(which)}

    sampling = evaluation.sampling.changed
    judge = {"mode": "pairwise", "pairs": "all_pairs", "principles": evaluation.principles}
    data: dict[str, Any] = {
        "name": f"{recipe.name}-evaluation",
        "seed": recipe.seed,
        "source": source,
        "models": {
            "before": of(name),
            "after": {**of(name), "model": model},
            "judge": of(evaluation.judge),
        },
        "stages": [
            {"kind": "generate", "model": "before", "sampling": sampling},
            {"kind": "generate", "model": "after", "sampling": sampling},
            {"kind": "judge", "model": "judge", **judge},
        ],
    }
    if recipe.constitution_path:
        data["constitution"] = str(recipe.constitution_path.resolve())
    return data


def _compare(sample: Sample) -> list[Comparison]:
    """Candidate 0 is the old model's answer, candidate 1 the new one's."""
    old, new = (len(c.text.split()) for c in sample.candidates)
    return [
        Comparison(
            prompt_id=sample.id,
            p=None if v.p is None else 1 - v.p,
            is_consistent=v.is_consistent if v.readings else None,
            words_new=new,
            words_old=old,
        )
        for v in sample.verdicts
    ]


def table(rounds: list[Round]) -> str:
    """The rounds as text: how often the new model's answers are preferred to the first model's."""
    lines = [
        "",
        f"{'round':>5} {'rows':>6} {'steps':>6}  {'win rate against the first model':<34}"
        f"{'words, old -> new':<19}{'longer wins':>11} {'flips':>6}",
    ]
    for r in rounds:
        w = r.win_rate
        rate = "nothing could be read"
        if w.rate is not None and w.low is not None and w.high is not None:
            rate = f"{w.rate:.0%}  (95%: {w.low:.0%} to {w.high:.0%}, {w.prompts} prompts)"
        words = f"{w.words_old or 0:.0f} -> {w.words_new or 0:.0f}"
        lines.append(
            f"{r.number:>5} {r.rows:>6} {r.steps:>6}  {rate:<34}{words:<19}"
            f"{_share(w.longer_wins):>11} {_share(w.flip_rate):>6}"
        )
    lines += ["", f"the last model: {rounds[-1].model}"]
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
