"""Checks across a recipe before anything runs: every name refers to something, every file exists, and
an earlier stage makes whatever a stage or view needs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from factory.core import weights
from factory.core.errors import RecipeError, SourceError
from factory.core.records import BadRow, Sample
from factory.core.yamlfile import Loc, YamlFile, closest, nearest
from factory.engines import VllmConfig
from factory.engines.base import Sampling
from factory.engines.vllm_names import SAMPLING_PARAMS, unknown_name
from factory.export.view import folder_of
from factory.sources.overlap import shared_prompts
from factory.sources.reasoning_gym import is_problems
from factory.sources.source import SourceConfig, open_source
from factory.stages.base import Stage
from factory.training import TRAINERS
from factory.training.common import references

if TYPE_CHECKING:
    from factory.recipe.pipeline import Pipeline
    from factory.recipe.recipe import Recipe

Problem = tuple[Loc, str]
"""A place in the recipe, and the error there."""

_LOOKED_AT = 1_000
"""Rows of a source that are checked."""
_SHOWN_CHARS = 100
"""Characters of a prompt that a message shows."""

# A fact that a stage or view can need -> its name, and a stage that makes it.
_MAKERS = {
    "candidates": ("candidates", "{kind: generate}"),
    "critiques": ("critiques", "{kind: critique}"),
    "revisions": ("revisions", "{kind: revise}"),
    "verdicts:revision_vs_initial": ("verdicts on revisions", "{kind: judge}"),
    "verdicts:*": ("verdicts", "{kind: judge}"),
    "verdicts:swiss": ("verdicts of a Swiss tournament", "{kind: judge, pairs: swiss}"),
    "verdicts:all_pairs": ("verdicts on all pairs", "{kind: judge, pairs: all_pairs}"),
    "ranking": (
        "a ranking",
        "{kind: reward}, {kind: judge, mode: pointwise} or {kind: judge, pairs: all_pairs}",
    ),
    "score:*": ("a score", "{kind: reward}, {kind: verify} or {kind: judge, mode: pointwise}"),
    "steps:*": ("labeled steps", "{kind: process}, {kind: rollout} or {kind: corrupt}"),
}

# The same for facts that have a name.
_NAMED = {
    "score": (
        "a score",
        "{kind: reward, name: NAME} or {kind: judge, mode: pointwise, name: NAME}",
    ),
    "judge": ("verdicts of a judge", "{kind: judge, name: NAME}"),
}


def problems(recipe: Recipe, *, trains: bool = True) -> Iterator[Problem]:
    """All errors of a recipe whose parts are each valid. `trains`: check its trainings too."""
    of_training = _training(recipe) if trains else ()
    return chain(_sources(recipe), _models(recipe), _stages(recipe), of_training)


def _sources(recipe: Recipe) -> Iterator[Problem]:
    sources: dict[Loc, SourceConfig] = {("source",): recipe.source}
    if recipe.evaluation:
        sources["evaluation", "source"] = recipe.evaluation.source
    for loc, source in sources.items():
        try:
            opened = open_source(source, recipe.folder)
        except SourceError as error:
            yield loc, str(error)
            continue
        if (recipe.folder / source.path).exists():  # others may have to be downloaded first
            seen = list(islice(opened.rows(0), _LOOKED_AT))
            if seen and all(isinstance(row, BadRow) for row in seen):
                first = next(row for row in seen if isinstance(row, BadRow))
                yield loc, f"none of the first {len(seen)} rows is a prompt: {first.error}"


def _models(recipe: Recipe) -> Iterator[Problem]:
    for name, config in recipe.models.items():
        if not isinstance(config, VllmConfig) or config.model == weights.EMBEDDED:
            continue
        loc = ("models", name, "model")
        if config.model.startswith(weights.TRAINED):
            yield from _trained(recipe, loc, config.model.removeprefix(weights.TRAINED))
            continue
        try:
            is_local = weights.local_folder(config.model, recipe.folder) is not None
        except RecipeError as error:
            yield loc, str(error)
            continue
        is_hub_id = "/" in config.model  # not checked before it is needed
        if not is_local and not is_hub_id and closest(config.model, [weights.EMBEDDED]):
            yield loc, f"no model '{config.model}'; did you mean '{weights.EMBEDDED}'?"
    if recipe.evaluation:
        for field in ("model", "judge"):
            if (name := getattr(recipe.evaluation, field)) is not None:
                yield from _no_model(recipe, ("evaluation", field), name)


def _trained(recipe: Recipe, loc: Loc, name: str) -> Iterator[Problem]:
    """Errors of a model that a training makes: no such training, or its data is made too late."""
    results = [training.result for training in recipe.training]
    if name not in results:
        have = f"(have: {', '.join(results) or 'none'})"
        yield loc, f"no training named '{name}'{nearest(name, results)} {have}"
        return
    at = results.index(name)
    training = recipe.training[at]
    if training.model is None:
        yield ("training", at), "a model of the recipe needs its result: name the `model` to train"
    stages = recipe.stages[: first_use(recipe, name)]
    used = [*(m for s in stages for m in s.models_used().values()), training.model]
    trained = recipe.trained_models()
    for other in dict.fromkeys(trained[m] for m in used if m in trained):
        if other in results and other not in results[:at]:
            yield ("training", at), f"it needs '{weights.TRAINED}{other}'; list that training first"
    facts = {f for s in stages for f in s.facts_made()}
    for view in recipe.views:
        if folder_of(view) == training.view and (missing := lacking(view.needs(), facts)):
            yield (
                ("training", at, "view"),
                f"'{training.view}' needs {missing[0]}, which only a stage after the first use of "
                f"'{weights.TRAINED}{name}' makes; move that stage up",
            )


def _sampling(pipeline: Pipeline, stage: Stage) -> Iterator[Problem]:
    """Errors of `extra` in a stage's sampling, which goes to vLLM unchanged if all its models run there."""
    configs = [pipeline.models.get(name) for name in stage.models_used().values()]
    sampling = getattr(stage, "sampling", None)
    if isinstance(sampling, Sampling) and all(isinstance(c, VllmConfig) for c in configs):
        found = unknown_name(sampling.extra, SAMPLING_PARAMS, "SamplingParams")
        if found is not None:
            yield ("sampling", "extra", found[0]), found[1]


def _no_model(pipeline: Pipeline, loc: Loc, name: str) -> Iterator[Problem]:
    if name not in pipeline.models:
        have = f"(have: {', '.join(pipeline.models)})"
        yield loc, f"no model named '{name}'{nearest(name, pipeline.models)} {have}"


def _stages(recipe: Recipe) -> Iterator[Problem]:
    """Errors of stages and views, in the order in which they would run."""
    facts: set[str] = set()
    makers: dict[str, Stage] = {}
    for i, stage in enumerate(recipe.stages):
        for inner, message in stage_problems(recipe, stage):
            yield ("stages", i, *inner), message
        for need in lacking(stage.facts_needed(), facts):
            yield ("stages", i), _lack(need, facts, "earlier stage")
            facts.add(need)  # report it once
        for fact in sorted(stage.facts_made() & facts):
            same = makers.get(fact, stage) == stage  # the same stage again, as after a revision
            if fact.startswith("score:") and not same:
                name = fact.removeprefix("score:")
                yield ("stages", i), f"an earlier stage makes a score '{name}'; give one a `name`"
        makers |= dict.fromkeys(stage.facts_made(), stage)
        facts |= stage.facts_made()
    folders: dict[str, int] = {}
    for i, view in enumerate(recipe.views):
        for need in lacking(view.needs(), facts):
            yield ("views", i), _lack(need, facts, "stage")
        name = folder_of(view)
        if (first := folders.setdefault(name, i)) != i:
            yield ("views", i), f"views[{first}] has the name '{name}' already; give one a `name`"


def stage_problems(pipeline: Pipeline, stage: Stage) -> Iterator[Problem]:
    """Errors of one stage by itself. Places are relative to the stage."""
    yield from _sampling(pipeline, stage)
    for field, model in stage.models_used().items():
        loc = tuple(field.split("."))
        yield from _no_model(pipeline, loc, model)
        served = pipeline.models[model].task if model in pipeline.models else stage.task()
        if served != stage.task():
            yield (
                loc,
                f"'{model}' is served with task: {served}, and {stage.kind} needs task: "
                f"{stage.task()}; set it in models.{model}, or name another model",
            )
    if problem := stage.problem():
        yield problem[:1], problem[1]
    if pipeline.constitution is None:
        if stage.uses_constitution():
            yield (), f"'{stage.kind}' needs principles; add `constitution: FILE` to the recipe"
        return
    few_shot, there = getattr(stage, "few_shot", 0), len(pipeline.constitution.examples)
    if few_shot > there:
        name = pipeline.constitution.name
        yield ("few_shot",), f"expected at most {there}, the examples of '{name}'; found {few_shot}"


def first_use(recipe: Recipe, training: str) -> int:
    """Position of the first stage that uses a training's result; the number of stages if none does."""
    waiting = {model for model, name in recipe.trained_models().items() if name == training}
    for i, stage in enumerate(recipe.stages):
        if waiting & {*stage.models_used().values()}:
            return i
    return len(recipe.stages)


def lacking(needs: Iterable[str], facts: set[str]) -> list[str]:
    """The needs that are not among the facts. `score:*` is met by any fact with that beginning."""

    def is_there(need: str) -> bool:
        return any(f.startswith(need[:-1]) if need.endswith(":*") else f == need for f in facts)

    return sorted(need for need in needs if not is_there(need))


def _lack(need: str, facts: set[str], maker: str) -> str:
    """The message: `needs critiques, which no earlier stage makes; {kind: critique} does`."""
    if need in _MAKERS:
        what, how = _MAKERS[need]
        return f"needs {what}, which no {maker} makes; {how} does"
    kind, _, name = need.partition(":")
    if kind not in _NAMED:
        return f"needs '{need}', which no {maker} makes"
    what, how = _NAMED[kind]
    have = sorted(fact.partition(":")[2] for fact in facts if fact.startswith(f"{kind}:"))
    hint = f"{nearest(name, have)} (have: {', '.join(have)})"
    return f"needs {what} named '{name}', which no {maker} makes" + (
        hint if have else f"; {how.replace('NAME', name)} does"
    )


def _training(recipe: Recipe) -> Iterator[Problem]:
    views = [folder_of(view) for view in recipe.views]
    results: dict[str, int] = {}
    # Trainings that a stage needs run first.
    made = {*recipe.trained_models().values()}
    for i, training in enumerate(recipe.training):
        if (first := results.setdefault(training.result, i)) != i:
            yield (
                ("training", i),
                f"training[{first}] has the name '{training.result}' already; give one a `name`",
            )
        if training.view not in views:
            have = f"(have: {', '.join(views) or 'none'})"
            hint = nearest(training.view, views)
            yield ("training", i, "view"), f"no view named '{training.view}'{hint} {have}"
        if training.model is not None:
            yield from _no_model(recipe, ("training", i, "model"), training.model)
        if unknown := sorted(references.trainings(training.config) - made):
            hint = (
                f"{nearest(unknown[0], sorted(made))} (have: {', '.join(sorted(made)) or 'none'})"
            )
            yield (
                ("training", i, "config"),
                f"'{weights.TRAINED}{unknown[0]}' is no earlier training{hint}",
            )
        made.add(training.result)


def check_held_out(recipe: Recipe) -> None:
    """Raise `RecipeError` if the source has a held-out prompt. Reads all of both sources."""
    if recipe.evaluation is None:
        return
    training, held_out = recipe.source, recipe.evaluation.source
    opened = [open_source(source, recipe.folder) for source in (training, held_out)]
    if not (shared := shared_prompts(*opened)):
        return
    count = sum(isinstance(row, Sample) for row in opened[1])
    shown = " ".join(shared[0].prompt[-1]["content"].split())
    remedy = "remove them from one of the two"
    if is_problems(held_out.path) and held_out.path == training.path:
        other = {"limit": training.limit, **training.options}
        exclude = ", ".join(
            f"{name}: {value}" for name, value in other.items() if name != "exclude"
        )
        remedy = f"set evaluation.source.options.exclude: {{{exclude}}}"
    raise YamlFile(recipe.path).error(
        ("evaluation", "source"),
        f"{len(shared)} of its {count} prompts are also in the source that is trained on "
        f"(the first, '{shared[0].id}': {shown[:_SHOWN_CHARS]!r}), so they are not held out; {remedy}",
    )


def is_at_hand(source: SourceConfig, folder: Path) -> bool:
    """True if the source can be read without a download."""
    return is_problems(source.path) or (folder / os.path.expanduser(source.path)).exists()


def check_training(recipe: Recipe) -> None:
    """Raise `RecipeError` for options that the trainers do not have. Imports their libraries, which
    takes seconds."""
    for i, training in enumerate(recipe.training):
        try:
            TRAINERS[training.kind].check_options(training.config, training.lora)
        except RecipeError as error:
            raise YamlFile(recipe.path).error(("training", i), str(error)) from error
