"""The recipe: what a user wants made, checked as a whole before any engine starts.

`load` reads the YAML, applies `--set` overrides and returns a `Recipe`, or raises a `RecipeError`
that names file, line, field, what was found and what was expected. The tables `ENGINES`, `STAGES`,
`VIEWS` and `TRAINERS` are the registries; an entry of another kind is a user's own class, named
`module:Class` and looked for beside the recipe too.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml
from pydantic import Field

from factory import constitution as constitutions
from factory import weights
from factory.config import Config
from factory.constitution import Constitution
from factory.engines import ENGINES, EngineConfig, VllmConfig
from factory.engines.base import Sampling
from factory.errors import RecipeError, SourceError
from factory.export.export import VIEWS
from factory.export.view import View, folder_of
from factory.runner.source import SourceConfig, open_source
from factory.stages import STAGES
from factory.stages.base import Stage
from factory.training import TRAINERS
from factory.training.base import TrainingConfig
from factory.yamlfile import Loc, YamlFile, missing_file, nearest, validate


class EvaluationConfig(Config):
    """How `factory align` compares a trained model with the one before."""

    source: SourceConfig
    """Prompts that the training never saw."""
    model: str
    """The model in training, by the recipe's name."""
    judge: str
    """The judge, by the recipe's name; its weights stay those of the recipe in every round."""
    principles: int | Literal["all"] = 1
    """Principles that each comparison is judged by, each in both orders."""
    sampling: Sampling = Sampling(temperature=0.0)
    """Of the two models' answers."""


class _Plain(Config):
    """The fields of a recipe that are not picked from a table."""

    name: str = Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run; letters, digits, dots, hyphens and underscores."""
    seed: int = Field(0, ge=0)
    """Every random choice derives from it and a sample's id."""
    source: SourceConfig
    constitution: str | None = None
    """A file, relative to the recipe, or the name of a shipped constitution."""
    max_failure_rate: float = Field(0.1, ge=0, le=1)
    """The share of samples failing in a stage that stops the run, once 20 have ended."""
    part_size: int = Field(512, ge=1)
    """Source rows in a trace file, the unit of resuming."""
    evaluation: EvaluationConfig | None = None
    models: dict[str, Any] = Field(min_length=1)
    stages: list[Any] = Field(min_length=1)
    views: list[Any] = []
    training: list[Any] = []


class Recipe(msgspec.Struct, frozen=True):
    """A recipe that was checked: every name in it leads somewhere."""

    path: Path
    name: str
    seed: int
    max_failure_rate: float
    part_size: int
    source: SourceConfig
    evaluation: EvaluationConfig | None
    constitution: Constitution | None
    constitution_path: Path | None
    models: dict[str, EngineConfig]
    stages: list[Stage]
    views: list[View]
    training: list[TrainingConfig]
    text: str
    """The recipe as YAML, with the overrides applied and paths as the user wrote them."""

    @property
    def folder(self) -> Path:
        """Relative paths in the recipe start here."""
        return self.path.parent

    def stage_labels(self) -> list[str]:
        """A short name for each stage, unique within the recipe: `generate`, `judge`, `judge-2`."""
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
            [_dump(stage) for stage in self.stages],
            [_code_of(stage) for stage in self.stages],
            self.constitution.digest() if self.constitution else None,
            sorted(fingerprints.items()),
        ]
        return hashlib.blake2b(msgspec.json.encode(content), digest_size=16).hexdigest()

    def views_digest(self) -> str:
        content = [_dump(view) for view in self.views]
        return hashlib.blake2b(msgspec.json.encode(content), digest_size=16).hexdigest()


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe. `overrides` are `--set` texts, as `stages.0.n=4`."""
    file = YamlFile(path)
    for text in overrides:
        override(file.data, text)
    plain = validate(_Plain, file, file.data)
    problems = _Problems()
    models = {
        name: problems.gather(_pick_engine, file, name, entry)
        for name, entry in plain.models.items()
    }
    stages = [problems.gather(_pick_stage, file, i, entry) for i, entry in enumerate(plain.stages)]
    views = [
        problems.gather(_pick, VIEWS, file, ("views", i), entry)
        for i, entry in enumerate(plain.views)
    ]
    training = [
        problems.gather(_pick_training, file, i, entry) for i, entry in enumerate(plain.training)
    ]
    constitution_path = constitution = None
    if plain.constitution is not None:
        constitution_path = problems.gather(_find_constitution, file, plain.constitution)
        if constitution_path:
            constitution = problems.gather(constitutions.load, constitution_path)
    problems.raise_any()
    recipe = Recipe(
        path=path.absolute(),
        name=plain.name,
        seed=plain.seed,
        max_failure_rate=plain.max_failure_rate,
        part_size=plain.part_size,
        source=plain.source,
        evaluation=plain.evaluation,
        constitution=constitution,
        constitution_path=constitution_path,
        models=models,
        stages=stages,
        views=views,
        training=training,
        text=yaml.safe_dump(file.data, sort_keys=False, allow_unicode=True, width=100),
    )
    _check(recipe, file, problems)
    problems.raise_any()
    return recipe


class _Problems:
    """Collects errors, so that a user sees all that is wrong at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def gather(self, function: Any, *args: Any) -> Any:
        try:
            return function(*args)
        except (RecipeError, SourceError) as error:
            self.found.append(str(error))
            return None

    def add(self, error: RecipeError) -> None:
        self.found.append(str(error))

    def raise_any(self) -> None:
        if self.found:
            raise RecipeError("\n".join(dict.fromkeys(self.found)))


# -- from YAML to classes -----------------------------------------------------------------------


def override(data: dict[str, Any], text: str) -> None:
    """Apply `a.b.0.c=value` to the recipe's data; the value is read as YAML."""
    where, equals, value_text = text.partition("=")
    if not equals or not where:
        raise RecipeError(f"--set {text}: expected field=value, as stages.0.n=4")
    try:
        value = yaml.safe_load(value_text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {text}: '{value_text}' is not a YAML value: {error}") from error
    if isinstance(value, str):
        value = _number(value)
    *parents, last = where.split(".")
    node: Any = data
    for i, part in enumerate(parents):
        node = _child(node, part, f"--set {text}: {'.'.join(parents[: i + 1])}", make=True)
    if isinstance(node, list):
        index = _index(node, last, f"--set {text}: {where}", may_append=True)
        node[index : index + 1] = [value]
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(f"--set {text}: {'.'.join(parents)} is a single value, not a mapping")


def _number(text: str) -> Any:
    """YAML 1.1 reads 1e-5 as a string; nobody who writes it means one."""
    try:
        return float(text) if "e" in text.lower() else text
    except ValueError:
        return text


def _child(node: Any, part: str, what: str, *, make: bool) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, what)]
    if isinstance(node, dict):
        if part not in node and make:
            node[part] = {}
        return node[part]
    raise RecipeError(f"{what}: its parent is a single value, not a mapping or a list")


def _index(node: list[Any], part: str, what: str, *, may_append: bool = False) -> int:
    last = len(node) - (0 if may_append else 1)
    if not part.isdigit() or int(part) > last:
        raise RecipeError(f"{what}: expected a position from 0 to {last} in the list")
    return int(part)


def _pick_engine(file: YamlFile, name: str, entry: Any) -> Any:
    loc: Loc = ("models", name)
    if not isinstance(entry, dict):
        raise file.error(loc, f"expected a mapping such as {{model: {weights.EMBEDDED}}}")
    kind = entry.get("engine", "vllm")
    if kind not in ENGINES:
        raise _unknown(file, (*loc, "engine"), "engine", kind, list(ENGINES))
    return validate(ENGINES[kind], file, entry, loc)


def _pick_stage(file: YamlFile, index: int, entry: Any) -> Any:
    loc: Loc = ("stages", index)
    if isinstance(entry, dict) and isinstance(STAGES.get(str(entry.get("kind"))), dict):
        modes: Any = STAGES[entry["kind"]]
        mode = entry.get("mode", next(iter(modes)))
        if mode not in modes:
            raise _unknown(file, (*loc, "mode"), "mode", mode, list(modes))
        return validate(modes[mode], file, entry, loc)
    return _pick(STAGES, file, loc, entry, own=Stage)


def _pick_training(file: YamlFile, index: int, entry: Any) -> Any:
    loc: Loc = ("training", index)
    if isinstance(entry, dict) and "kind" in entry and entry["kind"] not in TRAINERS:
        raise _unknown(file, (*loc, "kind"), "kind", entry["kind"], list(TRAINERS))
    return validate(TrainingConfig, file, entry, loc)


def _pick(table: Mapping[str, Any], file: YamlFile, loc: Loc, entry: Any, own: Any = None) -> Any:
    """The class that `kind` names, filled in from the entry."""
    if not isinstance(entry, dict):
        raise file.error(loc, f"expected a mapping such as {{kind: {next(iter(table))}}}")
    kind = entry.get("kind")
    if kind is None:
        raise file.error(loc, f"the field kind is required (one of: {', '.join(table)})")
    if isinstance(kind, str) and ":" in kind:
        return validate(_import(kind, file, loc, own), file, entry, loc)
    if kind not in table:
        raise _unknown(file, (*loc, "kind"), "kind", kind, list(table))
    return validate(table[kind], file, entry, loc)


def _unknown(file: YamlFile, loc: Loc, field: str, found: Any, known: list[str]) -> RecipeError:
    hint = nearest(str(found), known)
    return file.error(loc, f"no {field} '{found}'{hint} (have: {', '.join(known)})")


def _import(path: str, file: YamlFile, loc: Loc, base: Any) -> Any:
    """A user's own class. Its module is looked for beside the recipe, then where Python looks."""
    module_name, _, name = path.partition(":")
    beside = str(file.path.parent.absolute())
    if beside not in sys.path:
        sys.path.insert(0, beside)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise file.error((*loc, "kind"), f"cannot import '{path}': {error}") from error
    except Exception as error:  # the user's module may fail in any way while it is imported
        kind = type(error).__name__
        raise file.error((*loc, "kind"), f"importing '{path}' raised {kind}: {error}") from error
    if base and not (isinstance(found, type) and issubclass(found, base)):
        raise file.error(
            (*loc, "kind"), f"'{path}' is not a subclass of {base.__module__}.{base.__name__}"
        )
    return found


def _find_constitution(file: YamlFile, name: str) -> Path:
    path = file.path.parent / Path(name).expanduser()
    shipped = shipped_file(f"constitutions/{name.removesuffix('.yaml')}.yaml")
    if path.is_file():
        return path
    if "/" not in name and shipped:
        return shipped
    raise file.error(("constitution",), missing_file(path))


def shipped_file(name: str) -> Path | None:
    """A file that comes with the package (`constitutions/harmless.yaml`), installed or in a clone."""
    package = Path(__file__).parent
    for base in (package / "shipped", package.parent):
        if (base / name).exists():
            return base / name
    return None


# -- checks across the whole recipe -------------------------------------------------------------


def _check(recipe: Recipe, file: YamlFile, problems: _Problems) -> None:
    problems.gather(open_source, recipe.source, recipe.folder)
    for name, config in recipe.models.items():
        if isinstance(config, VllmConfig) and config.model != weights.EMBEDDED:
            try:
                weights.local_folder(config.model, recipe.folder)
            except RecipeError as error:
                problems.add(file.error(("models", name, "model"), str(error)))
    if recipe.evaluation:
        problems.gather(open_source, recipe.evaluation.source, recipe.folder)
        for field in ("model", "judge"):
            name = getattr(recipe.evaluation, field)
            if name not in recipe.models:
                problems.add(_no_model(file, ("evaluation", field), name, recipe))
    facts: set[str] = set()
    for i, stage in enumerate(recipe.stages):
        for problem in _stage_problems(recipe, file, i, stage, facts):
            problems.add(problem)
        facts |= stage.facts_made()
    folders: dict[str, int] = {}
    for i, view in enumerate(recipe.views):
        missing = sorted(need for need in view.needs() if not _has(facts, need))
        if missing:
            problems.add(file.error(("views", i), f"needs {_made_by(missing)}; no stage makes it"))
        if (first := folders.setdefault(folder_of(view), i)) != i:
            message = f"views[{first}] has the name '{folder_of(view)}' already; give one a `name`"
            problems.add(file.error(("views", i), message))
    for i, training in enumerate(recipe.training):
        if training.view not in folders:
            have = ", ".join(folders) or "none"
            message = f"no view named '{training.view}' (have: {have})"
            problems.add(file.error(("training", i, "view"), message))
        if training.model is not None and training.model not in recipe.models:
            problems.add(_no_model(file, ("training", i, "model"), training.model, recipe))


def _stage_problems(
    recipe: Recipe, file: YamlFile, i: int, stage: Stage, facts: set[str]
) -> list[RecipeError]:
    loc: Loc = ("stages", i)
    found = [
        _no_model(file, (*loc, field), model, recipe)
        for field, model in stage.models_used().items()
        if model not in recipe.models
    ]
    if problem := stage.problem():
        found.append(file.error((*loc, problem[0]), problem[1]))
    missing = sorted(need for need in stage.facts_needed() if not _has(facts, need))
    if missing:
        found.append(file.error(loc, f"needs {_made_by(missing)}; no stage before it makes it"))
    if stage.uses_constitution() and recipe.constitution is None:
        found.append(
            file.error(
                loc, f"'{stage.kind}' needs principles; add `constitution: FILE` to the recipe"
            )
        )
    few_shot = getattr(stage, "few_shot", 0)
    if recipe.constitution and few_shot > len(recipe.constitution.examples):
        found.append(
            file.error(
                (*loc, "few_shot"),
                f"expected at most {len(recipe.constitution.examples)}, the examples in the "
                f"constitution '{recipe.constitution.name}'; found {few_shot}",
            )
        )
    return found


def _no_model(file: YamlFile, loc: Loc, name: str, recipe: Recipe) -> RecipeError:
    have = list(recipe.models)
    return file.error(
        loc, f"no model named '{name}'{nearest(name, have)} (have: {', '.join(have)})"
    )


_MAKERS = {
    "candidates": "candidates (kind: generate)",
    "critiques": "critiques (kind: critique)",
    "revisions": "revisions (kind: revise)",
    "verdicts:revision_vs_initial": "verdicts on revisions (kind: judge, pairs: revision_vs_initial)",
    "verdicts:all_pairs": "verdicts on all pairs (kind: judge, pairs: all_pairs)",
    "ranking": "a ranking (kind: judge, with mode: pointwise or pairs: all_pairs)",
    "score:*": "a score (kind: judge, mode: pointwise)",
}


def _made_by(missing: Sequence[str]) -> str:
    return " and ".join(_MAKERS.get(need, f"'{need}'") for need in missing)


def _has(facts: set[str], need: str) -> bool:
    if need.endswith(":*"):
        return any(fact.startswith(need[:-1]) for fact in facts)
    return need in facts


def _dump(config: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = config.model_dump(mode="json")
    return dumped


def _code_of(stage: Stage) -> str:
    """The source of a user's own stage: editing it makes another result."""
    if type(stage).__module__.startswith("factory."):
        return ""
    try:
        return Path(inspect.getfile(type(stage))).read_text(encoding="utf-8")
    except (OSError, TypeError):
        return ""
