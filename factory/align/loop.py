"""`factory align`: in rounds, make data, train on it, compare the new model with those before.

Each round generates with the last round's model. Its folder holds its results:

    OUT/round-1/run/           a run of the recipe
    OUT/round-1/models/NAME/   the model of each training, which runs in a process of its own
    OUT/round-1/evaluation/    the models' answers to held-out prompts, judged: a run like any other
    OUT/round-1/evaluation.json    the figures
    OUT/align.json             all rounds so far, the best one, and the reason for an early end

A round does the recipe's trainings in order. A training of the weights of `evaluation.model` that makes
a generating model passes its result on to the next one, as in SFT then PPO. `trained:NAME` in a
training's config is the result of an earlier one, such as a reward model. Rounds end early by
`evaluation.stop`. Finished steps are not repeated, so the same command continues after a stop.

The best model is the one with the highest held-out win rate against the first model, among the rounds
within `evaluation.stop`'s limits of length and log-ratio; the earlier one wins a tie. It is the first
model itself if no round's rate is above one half. The highest of several rates is a little too high,
since it was selected on the same prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from factory.align.held_out import FIRST, NEW, PREVIOUS, Evaluation, evaluate, evaluation_recipe
from factory.align.report import Alignment, Best, Round, Trained, rate_text, table
from factory.core.errors import FactoryError, RecipeError
from factory.core.lock import LOCK, alone_in
from factory.core.yamlfile import YamlFile
from factory.engines.vllm import VllmConfig
from factory.pipeline import traces as shards
from factory.pipeline.folder import writing_in
from factory.pipeline.progress import Progress
from factory.pipeline.trainings import model_folder, run_with_trainings, waited_for
from factory.pipeline.views import why_no_rows
from factory.recipe.check import check_held_out, check_training
from factory.recipe.recipe import Recipe, StopRules
from factory.training import TRAINERS
from factory.training.common import references
from factory.training.common.child_process import train_in_child_process
from factory.training.config import TrainingConfig

_OURS = (LOCK, "check", "align.json.half")  # files beside the rounds before the first has ended


def align(recipe: Recipe, out: Path, rounds: int) -> Alignment:
    """Do up to `rounds` rounds. Writes OUT/align.json after each.

    Raises `RecipeError` if the recipe has no training or evaluation, and `FactoryError` if a round
    fails; the rounds before it are then shown.
    """
    name, stop = _check(recipe)
    _refuse_others(out)
    check_training(recipe)
    done = Alignment([])
    progress = Progress()
    with alone_in(out), writing_in(out):
        try:
            _turn(recipe, name, stop, out, rounds, done, progress)
        except FactoryError:
            if done.rounds:
                progress.note(f"so far:\n{table(done)}\n")
            raise
    return done


def _refuse_others(out: Path) -> None:
    """Raise `RecipeError` if the folder holds anything that no alignment has made."""
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    others = sorted(n for n in names if n not in _OURS and not n.startswith("round-"))
    if names and (others or LOCK not in names) and "align.json" not in names:
        raise RecipeError(
            f"--out {out} holds files that align has not made ({(others or sorted(names))[0]}); "
            "name another folder, or empty this one"
        )


def _turn(
    recipe: Recipe,
    name: str,
    stop: StopRules,
    out: Path,
    rounds: int,
    done: Alignment,
    progress: Progress,
) -> None:
    check_held_out(recipe)  # figures on training prompts would show nothing
    first = recipe.absolute_model(name)
    # Check now rather than after an hour of training.
    checked = recipe
    for which in recipe.trained_models():
        checked = checked.with_model(which, first)  # any weights: only names are checked
    evaluation_recipe(checked, {FIRST: first, NEW: first}, out / "check" / "evaluation")
    for number in range(1, rounds + 1):
        folder = out / f"round-{number}"
        progress.note(f"round {number} of {rounds}: making data")
        before = done.rounds[-1].model if done.rounds else first
        current = recipe.with_model(name, before)
        # The data of a training that has begun stays the same: failed samples are not retried.
        retries = not (folder / "models").exists()
        manifest = run_with_trainings(current, folder / "run", progress=progress, retries=retries)
        views = {view["view"]: view for view in manifest.views}
        trained, made = _train(current, name, folder, views, progress)
        model = made[name]
        for which, training in current.trained_models().items():
            current = current.with_model(which, made[training])
        progress.note(f"round {number} of {rounds}: comparing on held-out prompts")
        models = {FIRST: first} | ({PREVIOUS: before} if done.rounds else {}) | {NEW: model}
        # The judge keeps the recipe's own weights, even if it is the model in training.
        judged = current.with_model(name, first)
        evaluation = evaluate(judged, models, folder / "evaluation", progress)
        done.rounds.append(Round(number, model, trained, evaluation))
        done.best = best(done.rounds, first, stop)
        if number < rounds:
            done.stopped = _reason_to_stop(evaluation, stop)
        _save(done, out / "align.json")
        if done.stopped:
            return


def _save(done: Alignment, path: Path) -> None:
    """Write align.json, unless it has more rounds already: finished rounds may be gone through again."""
    try:
        there = msgspec.json.decode(path.read_bytes(), type=Alignment).rounds
    except (OSError, msgspec.MsgspecError):
        there = []
    if len(there) <= len(done.rounds) or there[: len(done.rounds)] != done.rounds:
        shards.write_json(path, done)


def _check(recipe: Recipe) -> tuple[str, StopRules]:
    """The recipe name of the model in training, and the rules for stopping."""
    file = YamlFile(recipe.path)
    if not recipe.training:
        raise file.error(
            ("training",),
            "align needs at least one entry, found none; "
            "add `training: [{kind: dpo, view: preference, model: policy}]`",
        )
    if recipe.evaluation is None:
        raise file.error(
            ("evaluation",),
            "align needs held-out prompts, and a judge or scores; add `evaluation: "
            "{source: {path: prompts/held-out.jsonl}, model: policy, judge: policy}`",
        )
    name = recipe.evaluation.model
    if not any(_trains(training, name) for training in recipe.training):
        writers = sorted(kind for kind, listed in TRAINERS.items() if listed.trains_policy)
        raise file.error(
            ("training",),
            f"none trains '{name}', the model that evaluation compares; "
            f"have: {', '.join(f'{t.kind} of {t.model or name}' for t in recipe.training)}; "
            f"kinds that train a model that writes: {', '.join(writers)}",
        )
    if not isinstance(recipe.models[name], VllmConfig):
        raise file.error(
            ("models", name), "align trains it, so its weights must be here: use engine: vllm"
        )
    for taken in (FIRST, PREVIOUS, NEW):
        if taken in recipe.models:
            what = "is a name that align uses for a model it compares; give it another name"
            raise file.error(("models", taken), f"'{taken}' {what}")
    return name, recipe.evaluation.stop


def _trains(training: TrainingConfig, name: str) -> bool:
    """True if the training makes new weights for the model `name`."""
    return TRAINERS[training.kind].trains_policy and training.model in (None, name)


def _train(
    recipe: Recipe,
    name: str,
    folder: Path,
    views: Mapping[str, Mapping[str, Any]],
    progress: Progress,
) -> tuple[list[Trained], dict[str, str]]:
    """The round's trainings, and the folder of each result. Under `name`: the newest weights."""
    trained: list[Trained] = []
    made = {name: recipe.absolute_model(name)}
    waited = {training.result for training in waited_for(recipe)}
    for training in recipe.training:
        result = training.result
        if result in waited:  # the run has made it already
            where = model_folder(folder / "run", result)
            record = msgspec.json.decode((where / "training.json").read_bytes())
        else:
            view = views[training.view]
            if not view["rows"]:
                run = folder / "run"
                raise FactoryError(
                    f"{run} made no rows for '{training.view}': {why_no_rows(run, view)}; use more "
                    "prompts, or a judge that can tell the answers apart"
                )
            progress.note(f"training {result} on {view['rows']} rows")
            base = training.model or name
            weights_of = made[name] if base == name else recipe.absolute_model(base)
            where = folder / "models" / result
            filled = training.model_copy(
                update={"config": references.filled(training.config, made, recipe.folder)}
            )
            data = folder / "run" / "datasets" / training.view
            record = train_in_child_process(filled, data, weights_of, where)
        made[result] = str(where.absolute())
        if _trains(training, name):
            made[name] = made[result]
        count = record.get("data", {}).get("rows", views.get(training.view, {}).get("rows", 0))
        metrics = dict(record.get("metrics") or {})
        trained.append(Trained(result, training.kind, count, record["steps"], metrics))
    return trained, made


def _reason_to_stop(evaluation: Evaluation, stop: StopRules) -> str | None:
    """The reason to stop, by `StopRules`. None: continue."""
    other = PREVIOUS if PREVIOUS in evaluation.against else FIRST
    found = evaluation.against[other]
    if found.rate is None:
        return "no verdict of the judge could be read"
    if not found.wins + found.losses + found.unparsed and stop.win_rate >= 0.5:
        return f"no gain: all {found.ties} comparisons with the model before are ties"
    if found.high is not None and found.high <= stop.win_rate:
        return f"no gain: a win rate of {rate_text(found)} against the model before"
    return _past_limit(evaluation, stop)


def _past_limit(evaluation: Evaluation, stop: StopRules) -> str | None:
    """The figure that shows answers too long, or a model too far from the first. None: within limits."""
    longer = evaluation.change.length_ratio
    if stop.length_ratio is not None and (longer.low or 0.0) > stop.length_ratio:
        return f"answers grew to {longer} times the first model's words"
    moved = evaluation.log_ratio
    if stop.kl is not None and moved is not None and (moved.low or 0.0) > stop.kl:
        return f"the model moved {moved} nats per answer away from the first"
    return None


def best(rounds: Sequence[Round], first: str, stop: StopRules) -> Best:
    """The best model, by the module's rule. `first`: the model before all rounds."""
    past = {r.number: why for r in rounds if (why := _past_limit(r.evaluation, stop))}
    rates = {
        r.number: found
        for r in rounds
        if r.number not in past and (found := r.evaluation.against[FIRST]).rate is not None
    }
    excluded = "".join(f"; not round {number}: {why}" for number, why in past.items())
    if not rates:
        return Best(0, first, f"the first model: no round can be compared with it{excluded}")
    number, found = max(rates.items(), key=lambda item: item[1].rate or 0.0)
    rate = f"round {number}'s win rate against it is {rate_text(found)}"
    most = ", the highest" if len(rates) > 1 else ""
    if (found.rate or 0.0) <= 0.5:
        return Best(0, first, f"the first model: {rate}{most}{excluded}")
    unsure = "" if (found.low or 0.0) > 0.5 else ", which does not show that it is better"
    model = next(r.model for r in rounds if r.number == number)
    why = f"round {number}: a win rate of {rate_text(found)} against the first{most}{unsure}{excluded}"
    return Best(number, model, why)
