"""The pipeline: stages, and all that they need to take a sample. A recipe is one, with a source before
it and views behind; what scores a dataset is one by itself."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from pydantic import Field, PrivateAttr

from factory.core import own_code
from factory.core.config import Config
from factory.core.records import Combination
from factory.core.yamlfile import YamlFile
from factory.engines import build
from factory.engines.base import Engine
from factory.export.view import View
from factory.recipe.named_constitution import NamedConstitution
from factory.recipe.registry import AnyEngine, AnyStage
from factory.stages.base import Stage


class Pipeline(Config):
    """Stages in their order, and what they name. It is validated with its `YamlFile` as the context."""

    seed: int = Field(0, ge=0)
    """Seed of the run. Every random choice derives from it and a sample's id."""
    reproducible: bool = False
    """Seed the engine with each call's draw, so that the same engine gives a call the same answer
    whenever it is made. This slows the engine down (docs/recipes.md, Reproducibility). Calls are
    remembered either way."""
    constitution: NamedConstitution = None
    """A file, relative to the recipe; or the name of a constitution in the recipe's folder, in
    `constitutions/` there or beside it, or else of a shipped one."""
    models: dict[str, AnyEngine] = {}
    """Name -> where its tokens come from: fields by its `engine`."""
    stages: list[AnyStage] = []
    """What is done with each sample, in this order: fields by its `kind`."""
    _folder: Path = PrivateAttr()
    _own_code: dict[str, str] = PrivateAttr()

    def model_post_init(self, context: YamlFile | None) -> None:
        if context is not None:
            self._read_from(context.path.parent)

    @classmethod
    def of(cls, folder: Path, **fields: Any) -> Pipeline:
        """A pipeline of parts made in code, which are not checked again."""
        made = cls.model_construct(**fields)
        made._read_from(folder)
        return made

    def _read_from(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._own_code = {stage.kind: code_of(stage, self._folder) for stage in self.stages}

    @property
    def folder(self) -> Path:
        """Relative paths start here."""
        return self._folder

    def stage_labels(self) -> list[str]:
        """A short name for each stage, unique within the pipeline: `generate`, `judge`, `judge-2`."""
        labels: list[str] = []
        for stage in self.stages:
            kind = stage.kind.rpartition(":")[2].lower()
            same = sum(label.split("-")[0] == kind for label in labels)
            labels.append(f"{kind}-{same + 1}" if same else kind)
        return labels

    def digest(self, fingerprints: Mapping[str, str]) -> str:
        """Hash of all that decides what a sample's trace holds, given its source row."""
        content = [
            self.seed,
            [stage.model_dump(mode="json") for stage in self.stages],
            [self._own_code[stage.kind] for stage in self.stages],
            self.constitution.digest() if self.constitution else None,
            sorted(fingerprints.items()),
        ]
        return hashlib.blake2b(msgspec.json.encode(content), digest_size=16).hexdigest()

    def judges(self) -> frozenset[str]:
        """Names of the models that some stage asks for labels."""
        return frozenset().union(*(stage.judges() for stage in self.stages))

    def combinations(self) -> list[Combination]:
        return [combined for stage in self.stages for combined in stage.combinations()]

    @contextlib.asynccontextmanager
    async def opened(
        self, logs: Path, given: Mapping[str, Engine] | None = None
    ) -> AsyncGenerator[Mapping[str, Engine]]:
        """An engine for each model, none started yet, closed at the end; or those given, left open."""
        ours = {} if given else build(self.models, self.folder, logs, self.judges())
        try:
            yield given or ours
        finally:
            for engine in set(ours.values()):
                await engine.close()


def code_of(config: Stage | View, folder: Path) -> str:
    """The source of a user's own stage or view, and of what it imports from the recipe's folder:
    editing it makes another result."""
    if type(config).__module__.startswith("factory."):
        return ""
    if code := own_code.source_of(config.kind, folder.absolute()):
        return code
    try:
        return Path(inspect.getfile(type(config))).read_text(encoding="utf-8")
    except (OSError, TypeError):
        return ""
