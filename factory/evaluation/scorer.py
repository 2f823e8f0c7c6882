"""What scores a dataset: the scoring stages of a recipe, or one stage made for a model.

Its stages need answers and make none. A recipe's other stages are left out, and so are its source,
views and training, which need not even be there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from factory.core import weights
from factory.core.errors import RecipeError
from factory.core.override import override
from factory.core.validation import validate
from factory.core.yamlfile import Given, YamlFile, dump, nearest
from factory.recipe.check import lacking, stage_problems
from factory.recipe.pipeline import Pipeline
from factory.recipe.recipe import Recipe
from factory.scorers.judge_pairwise import PairwiseJudge
from factory.scorers.process_reward import trained_layout
from factory.stages.base import Stage

_HEADS = {
    "ForSequenceClassification": "reward",
    "ForTokenClassification": "process",
    "ForRewardModel": "reward",
    "ForProcessRewardModel": "process",
}
_TASKS = {"reward": "classify", "process": "token_classify"}
MODEL = "scorer"
"""What `--set models.scorer.dtype=float32` calls the model of `--model`."""
_MAKES_ANSWERS = frozenset({"candidates", "critiques", "revisions"})


class Scorer(msgspec.Struct, frozen=True):
    """Stages that score answers that are there."""

    pipeline: Pipeline
    """Its stages are the scoring ones alone, its models those that they use."""
    positions: list[int]
    """Of each stage in the file it comes from, for `--set stages.N`."""
    skipped: list[str]
    """Kinds of the file's other stages."""
    text: str
    """What it was read from as YAML, with the overrides applied."""

    def scores(self) -> dict[str, int]:
        """Name of each score that is made -> position of its stage. Combined scores among them."""
        made: dict[str, int] = {}
        for stage, position in zip(self.pipeline.stages, self.positions, strict=True):
            facts = sorted(stage.facts_made())
            for name in (f.removeprefix("score:") for f in facts if f.startswith("score:")):
                if name in made:
                    raise RecipeError(
                        f"stages {made[name]} and {position} both make a score named '{name}'; "
                        f"give one another name: --set stages.{position}.name=other"
                    )
                made[name] = position
        return made

    def main_score(self, name: str | None) -> str:
        """The score to evaluate: `name`, or the only one, a combined one before its parts."""
        have = self.scores()
        if name is not None:
            if name not in have:
                raise RecipeError(
                    f"--score {name}: the scorer makes no such score{nearest(name, have)} "
                    f"(have: {', '.join(have) or 'none'})"
                )
            return name
        combinations = self.pipeline.combinations()
        combined = {c.name for c in combinations}
        parts = {part for c in combinations for part in c.parts}
        whole = [score for score in have if score in combined or score not in parts]
        if len(whole) != 1:
            raise RecipeError(
                f"the scorer makes {len(whole)} scores ({', '.join(whole) or 'none'}); "
                "name the one to evaluate with --score"
            )
        return whole[0]


def from_model(model: str, stage: str | None = None, overrides: Sequence[str] = ()) -> Scorer:
    """One reward or process stage for a trained scoring model; `overrides` may change its options.

    Raises `RecipeError` if the model's configuration does not say which of the two, or it is none.
    """
    if stage is not None and stage not in _TASKS:
        raise RecipeError(f"--stage {stage}: expected {' or '.join(_TASKS)}")
    folder = weights.resolve(model)
    kind = stage or _stage_for(model, folder)
    options: dict[str, Any] = {"kind": kind, "model": MODEL}
    if kind == "process":
        options |= trained_layout(folder)
    shown = str(folder) if weights.local_folder(model) else model
    data = {"models": {MODEL: {"model": shown, "task": _TASKS[kind]}}, "stages": [options]}
    return _load(Given(f"--model {model} ", data), overrides, f"--model {model}")


def from_recipe(path: Path, overrides: Sequence[str] = ()) -> Scorer:
    """The scoring stages of a recipe. Raises `RecipeError` if there are none, or one is wrong."""
    return _load(YamlFile(path), overrides, str(path))


def judge_of(path: Path, overrides: Sequence[str] = ()) -> Scorer:
    """The first pairwise judge of a recipe, set to compare all answers there are."""
    file = YamlFile(path)
    read = _read(file, overrides)
    for position, stage in enumerate(read.stages):
        if isinstance(stage, PairwiseJudge):
            principles = 1 if stage.principles == "same" else stage.principles  # no revisions here
            changed = {"pairs": "all_pairs", "rounds": None, "principles": principles}
            return _scorer(file, read, {position: stage.model_copy(update=changed)}, [])
    raise RecipeError(f"{path} has no pairwise judge; add {{kind: judge, model: NAME}}")


def _stage_for(model: str, folder: Path) -> str:
    try:
        names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(
            f"--model {model}: {folder}/config.json cannot be read: {error}"
        ) from error
    for head, stage in _HEADS.items():
        if any(name.endswith(head) for name in names or ()):
            return stage
    raise RecipeError(
        f"--model {model} ({', '.join(names or ['no architecture'])}) is neither a reward model "
        "(...ForSequenceClassification) nor a process reward model (...ForTokenClassification); "
        "to judge with a model that writes, give --recipe FILE with a judge stage"
    )


# From the file -----------------------------------------------------------------------------------


def _read(file: YamlFile, overrides: Sequence[str]) -> Pipeline:
    for text in overrides:
        file.overridden(override(file.data, text), text)
    known = Recipe.model_fields
    for field in file.data:
        if field not in known:
            have = f"(known: {', '.join(known)})"
            raise file.error((field,), f"unknown field{nearest(str(field), known)} {have}")
    parts = {field: file.data[field] for field in Pipeline.model_fields if field in file.data}
    return validate(Pipeline, file, parts)


def _load(file: YamlFile, overrides: Sequence[str], what: str) -> Scorer:
    read = _read(file, overrides)
    scoring: dict[int, Stage] = {}
    skipped: list[str] = []
    for position, stage in enumerate(read.stages):
        made = stage.facts_made()
        is_scoring = any(fact.startswith(("score:", "verdicts:")) for fact in made)
        if is_scoring and not made & _MAKES_ANSWERS:
            scoring[position] = stage
        else:
            skipped.append(stage.kind)
    if not scoring:
        raise RecipeError(
            f"{what} has no stage that scores answers (it has: {', '.join(skipped) or 'none'}); add "
            "{kind: reward, model: NAME} or {kind: judge, mode: pointwise, model: NAME}"
        )
    return _scorer(file, read, scoring, skipped)


def _scorer(file: YamlFile, read: Pipeline, stages: dict[int, Stage], skipped: list[str]) -> Scorer:
    used = {name for stage in stages.values() for name in stage.models_used().values()}
    models = {name: config for name, config in read.models.items() if name in used}
    pipeline = read.model_copy(update={"models": models, "stages": list(stages.values())})
    wrong: list[str] = []
    for name, config in models.items():
        if config.model.startswith(weights.TRAINED):
            what = f"'{config.model}' is made by a training of the recipe's runs; name its folder"
            wrong.append(str(file.error(("models", name, "model"), what)))
    facts = {"candidates"}
    for position, stage in stages.items():
        for loc, message in stage_problems(pipeline, stage):
            wrong.append(str(file.error(("stages", position, *loc), message)))
        for need in lacking(stage.facts_needed(), facts):
            wrong.append(str(file.error(("stages", position), _lack(stage, need, position))))
        facts |= stage.facts_made()
    if wrong:
        raise RecipeError("\n".join(wrong))
    return Scorer(pipeline, list(stages), skipped, dump(file.data))


def _lack(stage: Stage, need: str, position: int) -> str:
    remedy = "leave the stage out"
    if isinstance(stage, PairwiseJudge):
        remedy = f"--set stages.{position}.pairs=all_pairs compares the answers of a row"
    return f"needs {need}, which a dataset does not have; {remedy}"
