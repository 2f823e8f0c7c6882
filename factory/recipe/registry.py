"""Registries: an entry of a recipe is validated by the class that its `kind` or `engine` names.

The tables `ENGINES`, `STAGES`, `SCORERS`, `VIEWS` and `TRAINERS` are the registries. A stage or view of
another kind is a user's own class, named `module:Class`.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from factory.core import own_code, weights
from factory.core.config import Config
from factory.core.validation import as_member, wrong
from factory.core.yamlfile import YamlFile, describe, nearest
from factory.engines import ENGINES, EngineConfig
from factory.export.export import VIEWS
from factory.export.view import View
from factory.scorers import SCORERS
from factory.scorers.rank import Rank
from factory.scorers.rollout import Rollout
from factory.stages.base import Stage
from factory.stages.corrupt import Corrupt
from factory.stages.critique import Criticize
from factory.stages.filter import Filter
from factory.stages.generate import Generate
from factory.stages.revise import Revise
from factory.training import TRAINERS
from factory.training.config import TrainingConfig

# As `SCORERS`, which it has between those that make answers and those that take what was made; a chain
# lists its last table first.
STAGES: ChainMap[str, type[Stage] | dict[str, type[Stage]]] = ChainMap(
    {"rollout": Rollout, "rank": Rank, "corrupt": Corrupt, "filter": Filter},
    SCORERS,
    {"generate": Generate, "critique": Criticize, "revise": Revise},
)

_OWN = {
    "type": "object",
    "description": "A class of your own, as `my_module:MyClass`.",
    "properties": {"kind": {"type": "string", "pattern": ":"}},
    "required": ["kind"],
}


@dataclass(frozen=True)
class OneOf:
    """The annotation of an entry that is validated by one of several classes, which the entry names.

    The table is read at each validation, so that a class listed later is found.
    """

    known: Callable[[], Mapping[str, Any]]
    """Name -> class, or mode -> class for a kind that has modes; the first mode is the default."""
    by: str = "kind"
    """The field that has the name."""
    default: str | None = None
    """The name where the entry has none. None: it is required."""
    example: str = ""
    """An entry's beginning, for messages. Empty: the first name."""
    own: Callable[[str, Path], type[BaseModel]] | None = None
    """The class that a user's `module:Class` names, given the recipe's folder. Raises `ImportError`."""

    def __get_pydantic_core_schema__(self, *_: Any) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        members = []
        for model in dict.fromkeys(each_class(self.known())):
            schema = model.__pydantic_core_schema__
            if "ref" not in schema:  # defined once, and referred to
                schema = {**schema, "ref": f"{model.__module__}.{model.__name__}:{id(model)}"}
            members.append(handler(schema))
            if self.default is None:
                of_model = handler.resolve_ref_schema(members[-1])
                others = (name for name in of_model.get("required", []) if name != self.by)
                of_model["required"] = [self.by, *others]
        if self.own:
            members.append(_OWN)
        return members[0] if len(members) == 1 else {"anyOf": members}

    def _validate(self, entry: Any, info: ValidationInfo[YamlFile]) -> BaseModel:
        if not isinstance(entry, dict):
            example = self.example or f"{self.by}: {next(iter(self.known()))}"
            raise wrong(((), f"expected a mapping such as {{{example}}}, found {describe(entry)}"))
        return as_member(self._class_of(entry, info.context.path.parent), entry, info.context)

    def _class_of(self, entry: Mapping[str, Any], folder: Path) -> type[BaseModel]:
        name = entry.get(self.by, self.default)
        if self.own and isinstance(name, str) and ":" in name:
            try:
                return self.own(name, folder)
            except ImportError as error:
                raise wrong(((self.by,), str(error))) from error
        found = _named(self.by, name, self.known())
        if isinstance(found, dict):
            found = _named("mode", entry.get("mode", next(iter(found))), found)
        return cast(type[BaseModel], found)


def each_class(known: Mapping[str, Any]) -> Iterator[type[BaseModel]]:
    """Every class of a registry, those of a kind with several modes apart."""
    for found in known.values():
        yield from found.values() if isinstance(found, dict) else (found,)


def _named(field: str, name: Any, known: Mapping[str, Any]) -> Any:
    have = f"(have: {', '.join(known)})"
    if name is None:
        raise wrong(((field,), f"this field is required {have}"))
    if not isinstance(name, str):
        raise wrong(((field,), f"expected a name, found {describe(name)} {have}"))
    if name not in known:
        raise wrong(((field,), f"no {field} '{name}'{nearest(name, known)} {have}"))
    return known[name]


def _own_stage(kind: str, folder: Path) -> type[BaseModel]:
    return _subclass(kind, folder, Stage)


def _own_view(kind: str, folder: Path) -> type[BaseModel]:
    found = _subclass(kind, folder, Config)
    lacks = [field for field in ("kind", "name") if field not in found.model_fields]
    lacks += [m for m in ("rows", "needs", "features") if not callable(getattr(found, m, None))]
    if lacks:
        what = f"'{kind}' is no view (see factory/export/view.py): it lacks {', '.join(lacks)}"
        raise ImportError(what)
    return found


def _subclass(kind: str, folder: Path, base: type[BaseModel]) -> type[BaseModel]:
    found = own_code.imported(kind, folder)
    if not (isinstance(found, type) and issubclass(found, base)):
        what = f"{base.__module__}.{base.__name__}"
        raise ImportError(f"'{kind}' is not a subclass of {what}")
    return found


_embedded = f"model: {weights.EMBEDDED}"
AnyEngine = Annotated[EngineConfig, OneOf(lambda: ENGINES, "engine", "vllm", _embedded)]
AnyStage = Annotated[Stage, OneOf(lambda: STAGES, own=_own_stage)]
AnyView = Annotated[View, OneOf(lambda: VIEWS, own=_own_view)]
AnyTraining = Annotated[TrainingConfig, OneOf(lambda: dict.fromkeys(TRAINERS, TrainingConfig))]
