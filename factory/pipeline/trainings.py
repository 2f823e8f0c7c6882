"""Runs in phases: a recipe that trains a model which its own later stages use. Example: a process
reward model trained on the run's labels, which then scores the run's answers.

    models:    {prm: {model: trained:prm, task: token_classify}}
    stages:    [..., {kind: rollout}, {kind: process, model: prm}]
    training:  [{kind: prm, view: process, model: policy}]

For each such training, in the recipe's order: (1) the stages before the first that needs its result
run into RUN/before-NAME/; (2) the model is trained on the training's view of that run; (3) the link
RUN/models/NAME leads to the model. Then the whole recipe runs with it. All phases share the run's
ledger, so no call is made twice. A finished phase is not repeated.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Unpack

import msgspec

from factory.core import weights
from factory.core.errors import FactoryError
from factory.core.lock import alone_in
from factory.core.yamlfile import parse
from factory.pipeline import folder, pulse
from factory.pipeline import manifest as manifests
from factory.pipeline.manifest import Manifest
from factory.pipeline.progress import Progress
from factory.pipeline.run import RunOptions, run
from factory.pipeline.views import why_no_rows
from factory.recipe import check
from factory.recipe.recipe import Recipe
from factory.training.common.child_process import train_in_child_process
from factory.training.config import TrainingConfig


def run_with_trainings(recipe: Recipe, out: Path, **options: Unpack[RunOptions]) -> Manifest:
    """`pipeline.run.run`, preceded by the trainings whose results the recipe's stages use."""
    options["progress"] = options.get("progress") or Progress()
    folder.refuse_others(out)
    waited = waited_for(recipe)
    if waited:
        check.check_training(recipe)
    for training in waited:
        with alone_in(out), folder.writing_in(out):
            recipe = _train(recipe, training, out, options)
    return run(recipe, out, **options)


def waited_for(recipe: Recipe) -> list[TrainingConfig]:
    """The trainings whose result a stage uses, in the recipe's order."""
    names = set(recipe.trained_models().values())
    return [training for training in recipe.training if training.result in names]


def as_far_as_trained(recipe: Recipe, out: Path) -> Recipe:
    """The recipe with the models trained in `out`, without the stages that need one not trained yet."""
    for model, training in recipe.trained_models().items():
        made = model_folder(out, training)
        if not (made / "training.json").exists():
            return before(recipe, training)
        recipe = recipe.with_model(model, str(made.absolute()))
    return recipe


def before(recipe: Recipe, training: str) -> Recipe:
    """The part of the recipe that comes before the first stage that uses a training's result: its
    stages, the models they use, and the views that they make possible."""
    stages = recipe.stages[: check.first_use(recipe, training)]
    used = {model for stage in stages for model in stage.models_used().values()}
    facts = {fact for stage in stages for fact in stage.facts_made()}
    kept = [i for i, view in enumerate(recipe.views) if not check.lacking(view.needs(), facts)]
    data = parse(recipe.text)
    data["stages"] = data["stages"][: len(stages)]
    data["models"] = {name: data["models"][name] for name in recipe.models if name in used}
    data["views"] = [data["views"][i] for i in kept]
    data.pop("training", None)
    data.pop("evaluation", None)
    return recipe.replaced(
        data,
        stages=stages,
        models={name: recipe.models[name] for name in data["models"]},
        views=[recipe.views[i] for i in kept],
        training=[],
        evaluation=None,
    )


def _train(recipe: Recipe, training: TrainingConfig, out: Path, options: RunOptions) -> Recipe:
    """Make a training's data, train, and return the recipe with the model in its place."""
    name = training.result
    ledger, progress = options.get("ledger"), options.get("progress") or Progress()
    progress.note(f"making data to train {name} on")
    made_in = out / f"before-{name}"
    part = before(recipe, name)
    if ledger is None:  # the run's; the phase's, if a kill came before the run had one
        known = out if manifests.read(out) else made_in
        ledger = folder.ledger_of(known) if manifests.read(known) else out / folder.LEDGER
    with progress.mirrored(out, str(recipe.path)):
        phase: RunOptions = {**options, "ledger": ledger}
        manifest = run(part, made_in, **phase)
    view = next(view for view in manifest.views if view["view"] == training.view)
    rows = view["rows"]
    if not rows:
        raise FactoryError(
            f"{made_in} made no rows for '{training.view}' to train {name} on: "
            f"{why_no_rows(made_in, view)}; use more prompts, easier ones, or a stronger model"
        )
    progress.note(f"training {name} on {rows} rows")
    assert training.model is not None  # the recipe's check sees to it
    base = recipe.absolute_model(training.model)
    data = made_in / "datasets" / training.view
    # Other data, options or weights make another model, in a folder of its own.
    job = [view["fingerprint"], weights.fingerprint(weights.resolve(base)), training.config]
    content = msgspec.json.encode([*job, training.lora])
    made = out / "models" / f"{name}-{hashlib.blake2b(content, digest_size=4).hexdigest()}"
    with pulse.shown(out, str(recipe.path), f"training {name} in {made}"):
        train_in_child_process(training, data, base, made)
    _point(model_folder(out, name), made)
    for model, result in recipe.trained_models().items():
        if result == name:
            recipe = recipe.with_model(model, str(made.absolute()))
    return recipe


def model_folder(out: Path, name: str) -> Path:
    """The link in a run's folder to the newest model that the training `name` made."""
    return out / "models" / name


def _point(link: Path, target: Path) -> None:
    if link.is_dir() and not link.is_symlink():
        raise FactoryError(
            f"{link} should be a link but is a folder, as copying a run can make it; delete it"
        )
    half = link.with_name(f".{link.name}")
    half.unlink(missing_ok=True)
    half.symlink_to(target.name)
    half.replace(link)
