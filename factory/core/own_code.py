"""A user's own code beside a recipe: the module that a `kind: module:Class` names, and the modules of
the same folder that it imports, and that those import.

Together they decide what a stage does, so they are digested, imported anew after an edit, and
copied along with a run.
"""

from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from factory.core.files import whole


def modules_of(kind: str, folder: Path) -> dict[str, Path]:
    """Module name -> file, for each module in `folder` that `kind` needs, its own first. Empty if it
    is not there: it is then looked for where Python looks."""
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
    """The module's file, and the `__init__.py` of each package that it is in."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        module, path = ".".join(parts[:i]), folder.joinpath(*parts[:i])
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                yield module, file
                break


def _imports(path: Path, module: str) -> list[str]:
    """Names that a file may import, wherever in it; none if it cannot be read: importing says so."""
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
    # A file of such a name is never what is imported: the library's module is there already.
    taken = {*sys.stdlib_module_names, "factory"}
    return [name for name in names if name and name.partition(".")[0] not in taken]


def source_of(kind: str, folder: Path) -> str:
    """The text of all those modules: editing any of them makes another result."""
    modules = modules_of(kind, folder)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in modules.values()]
    # The module's own first and alone where it imports no other, as it always was.
    others = sorted(zip(list(modules)[1:], texts[1:], strict=True))
    return "".join([*texts[:1], *(f"\0{name}\0{text}" for name, text in others)])


def copy_along(kinds: Iterable[str], folder: Path, out: Path) -> None:
    """Copy what these kinds need into `out`, at the same places."""
    files = {path for kind in kinds if ":" in kind for path in modules_of(kind, folder).values()}
    for path in sorted(files):
        target = out / path.relative_to(folder)
        if target.resolve() != path.resolve():
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole(target) as half:
                shutil.copyfile(path, half)
