"""Registries: an entry of a recipe -> an instance of the class that its `kind` or `engine` names.

The tables `ENGINES`, `STAGES`, `SCORERS`, `VIEWS` and `TRAINERS` are the registries. A stage or view of
another kind is a user's own class, named `module:Class`.
"""

from __future__ import annotations

import importlib
import sys
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.core import own_code, weights
from factory.core.config import Config
from factory.core.validation import validate
from factory.core.yamlfile import Loc, YamlFile, describe, nearest
from factory.engines import ENGINES
from factory.export.export import VIEWS
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

# Name of a module beside a recipe -> name, file and source of all modules that it imports from there,
# as last imported.
_imported: dict[str, dict[str, tuple[Path, bytes]]] = {}


def pick_engine(file: YamlFile, loc: Loc, entry: Any) -> Any:
    _refuse_unless_mapping(file, loc, entry, f"model: {weights.EMBEDDED}")
    engine = _name(file, (*loc, "engine"), entry.get("engine", "vllm"), ENGINES)
    return validate(ENGINES[engine], file, entry, loc)


def pick_stage(file: YamlFile, loc: Loc, entry: Any) -> Any:
    kind = _kind(file, loc, entry, STAGES)
    if ":" in kind:
        return validate(_own_class(kind, file, loc, Stage), file, entry, loc)
    found = STAGES[kind]
    if isinstance(found, dict):
        mode = entry.get("mode", next(iter(found)))
        found = found[_name(file, (*loc, "mode"), mode, found)]
    return validate(found, file, entry, loc)


def pick_view(file: YamlFile, loc: Loc, entry: Any) -> Any:
    kind = _kind(file, loc, entry, VIEWS)
    if ":" not in kind:
        return validate(VIEWS[kind], file, entry, loc)
    found = _own_class(kind, file, loc, Config)
    lacks = [field for field in ("kind", "name") if field not in found.model_fields]
    lacks += [m for m in ("rows", "needs", "features") if not callable(getattr(found, m, None))]
    if lacks:
        what = f"'{kind}' is no view (see factory/export/view.py): it lacks {', '.join(lacks)}"
        raise file.error((*loc, "kind"), what)
    return validate(found, file, entry, loc)


def pick_training(file: YamlFile, loc: Loc, entry: Any) -> Any:
    _kind(file, loc, entry, TRAINERS, is_open=False)
    return validate(TrainingConfig, file, entry, loc)


def _kind(
    file: YamlFile, loc: Loc, entry: Any, known: Mapping[str, Any], *, is_open: bool = True
) -> str:
    """The entry's kind: a name in the table, or `module:Class` if the table is open."""
    _refuse_unless_mapping(file, loc, entry, f"kind: {next(iter(known))}")
    found = entry.get("kind")
    if is_open and isinstance(found, str) and ":" in found:
        return found
    return _name(file, (*loc, "kind"), found, known)


def _refuse_unless_mapping(file: YamlFile, loc: Loc, entry: Any, example: str) -> None:
    if not isinstance(entry, dict):
        raise file.error(loc, f"expected a mapping such as {{{example}}}, found {describe(entry)}")


def _name(file: YamlFile, loc: Loc, found: Any, known: Mapping[str, Any]) -> str:
    have = f"(have: {', '.join(known)})"
    if found is None:
        raise file.error(loc, f"this field is required {have}")
    if not isinstance(found, str):
        raise file.error(loc, f"expected a name, found {describe(found)} {have}")
    if found not in known:
        raise file.error(loc, f"no {loc[-1]} '{found}'{nearest(found, known)} {have}")
    return found


def _own_class(path: str, file: YamlFile, loc: Loc, base: type) -> Any:
    """A user's own class. Its module is searched beside the recipe, then on Python's path."""
    module, _, name = path.partition(":")
    folder = file.path.parent.absolute()
    sys.path[:] = [str(folder), *(other for other in sys.path if other != str(folder))]
    files = own_code.modules_of(path, folder)
    now = {name: (file, file.read_bytes()) for name, file in files.items()}
    if now and _imported.get(module) != now:
        for stale in now:  # another recipe's modules, or this recipe's before an edit
            sys.modules.pop(stale, None)
        importlib.invalidate_caches()
        _imported[module] = now
    loc = (*loc, "kind")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise file.error(loc, f"cannot import '{path}': {error}") from error
    except Exception as error:  # importing a user's module may raise anything
        kind, said = type(error).__name__, str(error).partition("\n")[0]
        raise file.error(loc, f"importing '{path}' raised {kind}: {said}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        what = f"{base.__module__}.{base.__name__}"
        raise file.error(loc, f"'{path}' is not a subclass of {what}")
    return found
