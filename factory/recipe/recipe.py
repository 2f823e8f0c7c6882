"""The recipe: the description of a run, checked as a whole before any engine starts.

`load` reads the YAML, applies `--set` overrides and returns a `Recipe`, or raises one `RecipeError`
that lists all errors: file, line, field, what was found and what was expected.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import Field, PrivateAttr, model_validator

from factory.core import weights
from factory.core.config import Config
from factory.core.paths import near, user_path
from factory.core.yamlfile import YamlFile, dump, parse
from factory.engines import VllmConfig
from factory.engines.base import Sampling
from factory.recipe.pipeline import Pipeline, code_of
from factory.recipe.registry import AnyStage, AnyTraining, AnyView
from factory.sources.source import SourceConfig


class StopRules(Config):
    """Rules by which `factory align` stops before its last round.

    A rule stops the rounds only if the held-out prompts show it to hold: the whole 95% interval is
    past the limit. An interval that contains the limit shows nothing (as is likely with few prompts),
    and the rounds continue; the best round is chosen at the end. To stop where a gain is too small to
    be worth a round, raise `win_rate`.
    """

    win_rate: float = Field(0.5, ge=0, le=1)
    """Stop for lack of gain: the interval of the win rate against the round before ends at or below
    this. At 0.5 or more, also if all comparisons are ties. 0: never."""
    length_ratio: float | None = Field(2.0, gt=0)
    """Stop for longer answers: the interval of words per answer, as a multiple of the first model's,
    begins above this. Such a round's model is not named the best. None: never."""
    kl: float | None = Field(None, gt=0)
    """Stop for divergence: the interval of the log-ratio to the first model, in nats per answer, begins
    above this. Such a round's model is not named the best. None: never."""


class EvaluationConfig(Config):
    """Options of the comparison that `factory align` makes between a trained model and those before."""

    source: SourceConfig
    """Held-out prompts. `factory align` refuses prompts that are in the recipe's `source` too."""
    model: str
    """Recipe name of the model that is trained."""
    judge: str | None = None
    """Recipe name of the judge. Its weights stay those of the recipe in every round. None: the answer
    with the higher score wins, by the first of `scores`."""
    principles: Annotated[int, Field(ge=1)] | Literal["all"] = 1
    """Number of principles that each comparison is judged by, each in both orders."""
    sampling: Sampling = Sampling(temperature=0.0)
    """Sampling of the models' answers. At temperature 1 the log-ratio to the first model estimates the
    KL divergence."""
    scores: list[AnyStage] = []
    """Scoring stages, such as `{kind: verify}`. Their means are reported for each model."""
    stop: StopRules = StopRules()

    @model_validator(mode="after")
    def _compares_by_something(self) -> Self:
        if self.judge is None and not self.scores:
            raise ValueError(
                "judge: name one of the models, or give `scores` to compare answers by: "
                "`scores: [{kind: verify}]`"
            )
        return self


class Recipe(Pipeline):
    """A recipe's file. Entries of `models`, `stages`, `views` and `training` have fields by their engine or
    kind. `load` also checks that every name in it refers to something."""

    name: str = Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run: letters, digits, dots, hyphens and underscores."""
    source: SourceConfig
    max_failure_rate: float = Field(0.1, ge=0, le=1)
    """Stop the run if more than this share of samples fails in a stage, once 20 have ended."""
    part_size: int = Field(512, ge=1)
    """Source rows in a trace file, the unit of resuming."""
    evaluation: EvaluationConfig | None = None
    views: list[AnyView] = []
    """Datasets to write: fields by their `kind`."""
    training: list[AnyTraining] = []
    """Models to train on the datasets, in this order."""
    _path: Path = PrivateAttr()
    _text: str = PrivateAttr()

    def model_post_init(self, context: YamlFile | None) -> None:
        super().model_post_init(context)
        if context is not None:
            self._path = context.path.absolute()
            self._text = dump(context.data)

    @property
    def path(self) -> Path:
        return self._path

    @property
    def text(self) -> str:
        """The recipe as YAML, with the overrides applied and paths as the user wrote them."""
        return self._text

    def replaced(self, data: dict[str, Any], **fields: Any) -> Recipe:
        """The recipe with other values of some fields. `data`: what its text is then."""
        made = self.model_copy(update=fields)
        made._text = dump(data)
        return made

    def with_model(self, name: str, model: str) -> Recipe:
        """The recipe with other weights for the model `name`."""
        data = parse(self.text)
        data["models"][name]["model"] = model
        models = {**self.models, name: self.models[name].model_copy(update={"model": model})}
        return self.replaced(data, models=models)

    def absolute_model(self, name: str) -> str:
        """A model's name that is valid in any folder: an absolute path, a Hub id or the embedded model."""
        model = self.models[name].model
        if model == weights.EMBEDDED:
            return model
        return str(weights.local_folder(model, self.folder) or model)

    def trained_models(self) -> dict[str, str]:
        """Recipe name of each model that the recipe trains -> the training's name."""
        return {
            name: config.model.removeprefix(weights.TRAINED)
            for name, config in self.models.items()
            if config.model.startswith(weights.TRAINED)
        }

    def movable(self) -> dict[str, Any]:
        """The recipe's data with absolute paths, so that it can be loaded from any folder."""
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
        if self.constitution and self.constitution.path:
            data["constitution"] = str(self.constitution.path.resolve())
        return data

    def describe_constitution(self) -> str:
        """The constitution's name, version, number of principles and file."""
        made = self.constitution
        if made is None or made.path is None:
            return "none"
        count = len(made.principles)
        return (
            f"{made.name} {made.version}, {count} principle{'s' * (count > 1)}, {near(made.path)}"
        )

    def views_digest(self) -> str:
        content: list[Any] = [view.model_dump(mode="json") for view in self.views]
        if any(own := [code_of(view, self.folder) for view in self.views]):
            content.append(own)
        return hashlib.blake2b(msgspec.json.encode(content), digest_size=16).hexdigest()
