"""JSON Schema of recipes and constitutions, from the models that check them: editors complete by it.

`factory schema recipe|constitution` prints it. A recipe that the schema takes may still be refused
for what holds across fields, as a stage that names a model the recipe does not have.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from factory.core.constitution import Constitution
from factory.engines import ENGINES
from factory.export.export import VIEWS
from factory.recipe.recipe import PlainFields
from factory.recipe.registry import STAGES
from factory.stages.base import Stage
from factory.training import TRAINERS
from factory.training.config import TrainingConfig

DRAFT = "https://json-schema.org/draft/2020-12/schema"
KINDS = ("recipe", "constitution")
Schema = dict[str, Any]

_OWN: Schema = {
    "type": "object",
    "description": "A class of your own, as `my_module:MyClass`.",
    "properties": {"kind": {"type": "string", "pattern": ":"}},
    "required": ["kind"],
}


def schema(kind: str) -> Schema:
    """Of `recipe` or `constitution`."""
    return recipe_schema() if kind == "recipe" else _of_one(Constitution, "A constitution")


def recipe_schema() -> Schema:
    """One object: `models` by their engine, `stages`, `views` and `training` by their kind."""
    engines, stages, views = [*ENGINES.values()], stage_classes(), [*VIEWS.values()]
    refs, defs = _defined([PlainFields, TrainingConfig, *engines, *stages, *views])
    for model in (*stages, *views, TrainingConfig):
        _named(refs[model], defs)["required"] = ["kind", *_required(refs[model], defs, "kind")]
    _named(refs[TrainingConfig], defs)["properties"]["kind"]["enum"] = list(TRAINERS)
    made = defs.pop(refs[PlainFields]["$ref"].rpartition("/")[2])
    own = made["properties"]
    stage = {"anyOf": [*(refs[model] for model in stages), _OWN]}
    own["models"]["additionalProperties"] = {"anyOf": [refs[model] for model in engines]}
    own["stages"]["items"] = stage
    own["views"]["items"] = {"anyOf": [*(refs[model] for model in views), _OWN]}
    own["training"]["items"] = refs[TrainingConfig]
    defs["EvaluationConfig"]["properties"]["scores"]["items"] = stage
    return {"$schema": DRAFT, **made, "title": "A recipe", "$defs": defs}


def stage_classes() -> list[type[Stage]]:
    """Every stage of the registry, those of a kind with several modes apart."""
    return [
        model
        for found in STAGES.values()
        for model in (found.values() if isinstance(found, dict) else [found])
    ]


def _of_one(model: type[BaseModel], title: str) -> Schema:
    return {"$schema": DRAFT, **model.model_json_schema(), "title": title}


def _defined(models: Iterable[type[BaseModel]]) -> tuple[dict[Any, Schema], Schema]:
    """Of each model where it is defined, and the definitions."""
    refs, whole = models_json_schema([(model, "validation") for model in models])
    return {model: ref for (model, _), ref in refs.items()}, whole["$defs"]


def _named(ref: Schema, defs: Schema) -> Schema:
    found: Schema = defs[ref["$ref"].rpartition("/")[2]]
    return found


def _required(ref: Schema, defs: Schema, but: str) -> list[str]:
    return [name for name in _named(ref, defs).get("required", []) if name != but]
