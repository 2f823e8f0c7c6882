"""A user's own code beside a recipe: the module that a `kind: module:Class` names, and all modules of
the same folder that it imports, directly or indirectly.

Together they decide what a stage does. So they are part of its digest, imported again after an edit,
and copied into the run's folder.
"""

from __future__ import annotations

import ast
import importlib
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from factory.core.files import whole

# Name of a module beside a recipe -> name, file and source of all modules that it imports from there,
# as last imported.
_imported: dict[str, dict[str, tuple[Path, bytes]]] = {}


def imported(kind: str, folder: Path) -> Any:
    """The class that `module:Class` names. Its module is searched in `folder`, then on Python's path.
    Raises `ImportError` with what to tell the user."""
    module, _, name = kind.partition(":")
    folder = folder.absolute()
    sys.path[:] = [str(folder), *(other for other in sys.path if other != str(folder))]
    files = modules_of(kind, folder)
    now = {name: (file, file.read_bytes()) for name, file in files.items()}
    if now and _imported.get(module) != now:
        for stale in now:  # another recipe's modules, or this recipe's before an edit
            sys.modules.pop(stale, None)
        importlib.invalidate_caches()
        _imported[module] = now
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(f"cannot import '{kind}': {error}") from error
    except Exception as error:  # importing a user's module may raise anything
        what, said = type(error).__name__, str(error).partition("\n")[0]
        raise ImportError(f"importing '{kind}' raised {what}: {said}") from error


def modules_of(kind: str, folder: Path) -> dict[str, Path]:
    """Module name -> file, for each module in `folder` that `kind` needs, its own first. Empty if its
    module is not there; it is then searched on Python's path."""
    found: dict[str, Path] = {}
    waiting = [kind.partition(":")[0]]
    while waiting:
        name = waiting.pop(0)
        for module, path in _files(name, folder):
            if module not in found:
                found[module] = path
                waiting += _imports(path, module)
    return found


def _files(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The module's file, and the `__init__.py` of each package around it."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        module, path = ".".join(parts[:i]), folder.joinpath(*parts[:i])
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                yield module, file
                break


def _imports(path: Path, module: str) -> list[str]:
    """Names that a file may import anywhere. Empty if it cannot be read; importing it reports that."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{a.name}".lstrip(".") for a in node.names)]
    # A file with the name of a loaded library's module is never imported.
    taken = {*sys.stdlib_module_names, "factory"}
    return [name for name in names if name and name.partition(".")[0] not in taken]


def source_of(kind: str, folder: Path) -> str:
    """The text of all these modules. An edit of any of them changes the result."""
    modules = modules_of(kind, folder)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in modules.values()]
    # Only the module's own text where it imports no other: digests of older runs stay valid.
    others = sorted(zip(list(modules)[1:], texts[1:], strict=True))
    return "".join([*texts[:1], *(f"\0{name}\0{text}" for name, text in others)])


def copy_along(kinds: Iterable[str], folder: Path, out: Path) -> None:
    """Copy the modules that these kinds need into `out`, at the same relative paths."""
    files = {path for kind in kinds if ":" in kind for path in modules_of(kind, folder).values()}
    for path in sorted(files):
        target = out / path.relative_to(folder)
        if target.resolve() != path.resolve():
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole(target) as half:
                shutil.copyfile(path, half)
