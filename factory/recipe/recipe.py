"""The recipe: what a user wants made, checked as a whole before any engine starts.

`load` reads the YAML, applies `--set` overrides and returns a `Recipe`, or raises one `RecipeError`
that lists all that is wrong: file, line, field, what was found and what was expected.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import Field, model_validator

from factory.core import weights
from factory.core.config import Config
from factory.core.paths import near, user_path
from factory.core.yamlfile import dump, parse
from factory.engines import VllmConfig
from factory.engines.base import Sampling
from factory.export.view import View
from factory.recipe.pipeline import Pipeline, code_of
from factory.sources.source import SourceConfig
from factory.training.config import TrainingConfig


class StopRules(Config):
    """When `factory align` stops before its last round.

    Each rule is a claim, and stops the rounds only where the held-out prompts show it: where the
    whole 95% interval is past the limit. An interval that holds the limit has shown nothing, with
    few prompts least of all, and the rounds go on as they were asked for; which of them was best is
    decided at the end. To stop where a gain is too small to be worth a round, raise `win_rate`.
    """

    win_rate: float = Field(0.5, ge=0, le=1)
    """No gain: the interval of the win rate against the round before ends at or below this. At 0.5
    or more also if all comparisons are ties: the round changed nothing. 0: never."""
    length_ratio: float | None = Field(2.0, gt=0)
    """Answers grow: the interval of words an answer, in multiples of the first model's, begins
    above this. Such a round's model is not named the best. None: never."""
    kl: float | None = Field(None, gt=0)
    """The model moves away: the interval of the log-ratio to the first model, in nats an answer,
    begins above this. Such a round's model is not named the best. None: never."""


class EvaluationConfig(Config):
    """How `factory align` compares a trained model with those before."""

    source: SourceConfig
    """Prompts that the training never saw: `factory align` refuses those that are in `source` too."""
    model: str
    """The model in training, by the recipe's name."""
    judge: str | None = None
    """The judge, by the recipe's name; its weights stay those of the recipe in every round. None: the
    answer with the higher score wins, by the first of `scores`."""
    principles: Annotated[int, Field(ge=1)] | Literal["all"] = 1
    """Principles that each comparison is judged by, each in both orders."""
    sampling: Sampling = Sampling(temperature=0.0)
    """Of the models' answers. At temperature 1 the log-ratio to the first model estimates the KL."""
    scores: list[dict[str, Any]] = []
    """More scoring stages, as `{kind: verify}`: their means are reported by model."""
    stop: StopRules = StopRules()

    @model_validator(mode="after")
    def _compares_by_something(self) -> Self:
        if self.judge is None and not self.scores:
            raise ValueError(
                "judge: name one of the models, or give `scores` to compare answers by, as "
                "`scores: [{kind: verify}]`"
            )
        return self


class PlainFields(Config):
    """The fields of a recipe that are not picked from a table."""

    name: str = Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run; letters, digits, dots, hyphens and underscores."""
    seed: int = Field(0, ge=0)
    """Every random choice derives from it and a sample's id."""
    reproducible: bool = False
    """Seed the engine with each call's draw, so that the same engine answers a call alike whenever
    it is made. It slows the engine down (docs/recipes.md, Reproducibility); what was answered once is
    remembered either way."""
    source: SourceConfig
    constitution: str | None = None
    """A file, relative to the recipe, or a name: of a file in the recipe's folder, in
    `constitutions/` there or beside it, or else of a shipped one."""
    max_failure_rate: float = Field(0.1, ge=0, le=1)
    """The share of samples failing in a stage that stops the run, once 20 have ended."""
    part_size: int = Field(512, ge=1)
    """Source rows in a trace file, the unit of resuming."""
    evaluation: EvaluationConfig | None = None
    models: dict[str, Any] = {}
    stages: list[Any] = []
    views: list[Any] = []
    training: list[Any] = []


class Recipe(Pipeline, frozen=True, kw_only=True):
    """A recipe that was checked: every name in it leads somewhere."""

    path: Path
    name: str
    max_failure_rate: float
    part_size: int
    source: SourceConfig
    evaluation: EvaluationConfig | None
    constitution_path: Path | None
    views: list[View]
    training: list[TrainingConfig]
    text: str
    """The recipe as YAML, with the overrides applied and paths as the user wrote them."""

    def with_model(self, name: str, model: str) -> Recipe:
        """The same with other weights under a model's name."""
        data = parse(self.text)
        data["models"][name]["model"] = model
        models = {**self.models, name: self.models[name].model_copy(update={"model": model})}
        return msgspec.structs.replace(self, models=models, text=dump(data))

    def absolute_model(self, name: str) -> str:
        """A model as it is understood from any folder: a path, a Hub id or the embedded one."""
        model = self.models[name].model
        if model == weights.EMBEDDED:
            return model
        return str(weights.local_folder(model, self.folder) or model)

    def trained_models(self) -> dict[str, str]:
        """Name of each model that the recipe itself trains -> the training's name."""
        return {
            name: config.model.removeprefix(weights.TRAINED)
            for name, config in self.models.items()
            if config.model.startswith(weights.TRAINED)
        }

    def movable(self) -> dict[str, Any]:
        """The recipe's data with its paths made absolute: loaded from any folder, it is the same."""
        data: dict[str, Any] = parse(self.text)
        sources = [data["source"], *([data["evaluation"]["source"]] if self.evaluation else [])]
        for source in sources:
            path = self.folder / user_path(source["path"])
            source["path"] = str(path.resolve()) if path.exists() else source["path"]
        for name, config in self.models.items():
            is_named = config.model == weights.EMBEDDED or config.model.startswith(weights.TRAINED)
            if isinstance(config, VllmConfig) and not is_named:
                local = weights.local_folder(config.model, self.folder)
                data["models"][name]["model"] = str(local or config.model)
        if self.constitution_path:
            data["constitution"] = str(self.constitution_path.resolve())
        return data

    def describe_constitution(self) -> str:
        """Which it is, and from which file: a name may stand for one of several."""
        made, path = self.constitution, self.constitution_path
        if made is None or path is None:
            return "none"
        count = len(made.principles)
        return f"{made.name} {made.version}, {count} principle{'s' * (count > 1)}, {near(path)}"

    def views_digest(self) -> str:
        content: list[Any] = [view.model_dump(mode="json") for view in self.views]
        if any(own := [code_of(view, self.folder) for view in self.views]):
            content.append(own)
        return hashlib.blake2b(msgspec.json.encode(content), digest_size=16).hexdigest()
