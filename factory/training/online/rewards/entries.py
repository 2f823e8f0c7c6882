"""The entries of `rewards:`, checked. Their kinds are the registry of scorers, and its rules.

An entry has its scorer's own options, and beside them what a recipe says elsewhere or has no use for:
the weight, and where the model comes from. So the class of an entry is put together of two: the
scorer's, as it is in the registry, and one of those here.

There is no pairwise judge among them: a group of G answers would cost G (G - 1) calls an update, and
a verdict is about two answers, where these rewards are about one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from pydantic import Field, ValidationError, create_model

from factory.core import constitution as constitutions
from factory.core import weights
from factory.core.assets import shipped_file
from factory.core.errors import RecipeError
from factory.core.paths import user_path
from factory.core.validation import validate
from factory.core.yamlfile import Given, Loc, describe, nearest
from factory.engines.base import Engine
from factory.engines.endpoint import EndpointEngine
from factory.engines.endpoint_config import EndpointConfig
from factory.scorers import SCORERS
from factory.scorers.judge_pointwise import RUBRIC
from factory.scorers.process_reward import trained_layout
from factory.scorers.rules import RULES, Rule
from factory.stages.base import Stage
from factory.training.online.rewards.local import LocalScorer

_EXAMPLE = "[{kind: verify, how: math}]"


class Entry(Stage):
    """A scorer without a model, as a reward."""

    weight: float = 1.0
    """Its share of the total; negative: a penalty; 0: logged only."""


class InProcess(Entry):
    """One whose model scores, run by transformers in this process."""

    model: str
    """A folder or a Hub id. Of one that `factory train prm` made, separator and tag are read from its
    training.json unless given here."""

    def problem(self) -> tuple[str, str] | None:
        if getattr(self, "steps", None) is not None:
            return "steps", "completions have no step labels; the text is cut by `split`"
        return super().problem()

    def ready(self, folder: Path) -> Self:
        unset = type(self).model_fields.keys() - self.model_fields_set
        layout = trained_layout(weights.resolve(self.model, folder))
        return self.model_copy(update={k: v for k, v in layout.items() if k in unset})

    def engine(self, folder: Path, device: str | None) -> Engine:
        return LocalScorer(self.model, self.task(), folder, device)


class Served(Entry):
    """One whose model writes, behind an endpoint."""

    model: str
    """The name under which the endpoint serves it."""
    endpoint: str | list[str] = Field(min_length=1)
    """As `http://localhost:8000/v1`. Several URLs must serve the same model."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key."""
    constitution: str | None = None
    """A constitution's file, in place of `rubric`: all its principles are the rubric."""
    reproducible: bool = False
    """Seed the judge for each sampled reasoning, by its prompt and completion."""

    def problem(self) -> tuple[str, str] | None:
        if self.constitution is not None and getattr(self, "rubric", None) != RUBRIC:
            return "constitution", "expected `rubric` or `constitution`, found both; leave one out"
        try:
            self._endpoint()
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            return "endpoint", said
        return super().problem()

    def ready(self, folder: Path) -> Self:
        if self.constitution is None:
            return self
        path = folder / user_path(self.constitution)
        shipped = shipped_file(f"constitutions/{self.constitution}.yaml")
        if not path.is_file() and "/" not in self.constitution and shipped:
            path = shipped
        rules = constitutions.load(path).principles
        lines = [f"{i}. {rule.title}" for i, rule in enumerate(rules, start=1)]
        rubric = "The more fully the answer follows these principles, the higher its score:\n"
        return self.model_copy(update={"rubric": rubric + "\n".join(lines), "constitution": None})

    def engine(self, folder: Path, device: str | None) -> Engine:
        return EndpointEngine(self._endpoint())

    def _endpoint(self) -> EndpointConfig:
        return EndpointConfig(
            engine="endpoint",
            model=self.model,
            base_url=self.endpoint,
            api_key_env=self.api_key_env,
        )


class Readable(Entry):
    """One that may find nothing to read in an answer."""

    unparsed: float | None = 0.0
    """Of a completion in which nothing can be read, by the policy's doing. None: it is left out."""


Part = Rule | Entry


def _kinds() -> dict[str, type[Stage]]:
    alone = {k: v["pointwise"] if isinstance(v, dict) else v for k, v in SCORERS.items()}
    alone.pop("rule")  # its rules have their own kinds here
    return {**RULES, **alone}


@functools.cache
def _entry_of(scorer: type[Stage]) -> type[Part]:
    """The class of a scorer's entries."""
    if issubclass(scorer, Rule):
        return scorer
    source: type[Entry] = Entry
    if "model" in scorer.model_fields:
        source = Served if scorer.task() == "generate" else InProcess
    bases: tuple[type[Any], ...] = (source, scorer)
    if scorer.may_be_unparsed:
        bases = (Readable, *bases)
    return cast(type[Entry], create_model(scorer.__name__, __base__=bases))


def parse_rewards(entries: Any) -> dict[str, Part]:
    """The entries by name, in their order. Looks at no file and loads nothing.

    Raises `RecipeError` that names the entry, the field, and the nearest right name.
    """
    kinds = _kinds()
    have = f"(kinds: {', '.join(kinds)})"
    if not isinstance(entries, list) or not entries:
        raise RecipeError(
            f"config.rewards: expected a list such as {_EXAMPLE}, found {describe(entries)} {have}"
        )
    given = Given("config.")
    parts: dict[str, Part] = {}
    for i, entry in enumerate(entries):
        loc: Loc = ("rewards", i)
        if not isinstance(entry, Mapping):
            raise given.error(
                loc, f"expected a mapping with a kind, found {describe(entry)} {have}"
            )
        kind = entry.get("kind")
        if kind not in kinds:
            near = nearest(kind, kinds) if isinstance(kind, str) else ""
            raise given.error((*loc, "kind"), f"no kind {describe(kind)}{near} {have}")
        mode = {"mode": "pointwise"} if "mode" in kinds[kind].model_fields else {}
        part = validate(_entry_of(kinds[kind]), given, {**mode, **entry}, loc)
        if problem := part.problem():
            raise given.error((*loc, problem[0]), problem[1])
        name = getattr(part, "name", None) or kind
        if name in parts:
            raise given.error(
                loc, f"there are two rewards named '{name}'; give one another, as name: {name}2"
            )
        parts[name] = part
    if not any(part.weight for part in parts.values()):
        raise RecipeError("config.rewards: all weights are 0, so nothing is rewarded; raise one")
    return parts
