"""Names of vLLM's arguments and parsers, read from its source, since importing it takes seconds.

If vLLM is not installed, or its source has another form, nothing is known and nothing is refused; vLLM
itself then reports wrong names.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from factory.core.yamlfile import nearest

ENGINE_ARGS = ("engine/arg_utils.py", ("EngineArgs", "AsyncEngineArgs"))
SAMPLING_PARAMS = ("sampling_params.py", ("SamplingParams",))


def unknown_name(
    names: Iterable[str], of: tuple[str, tuple[str, ...]], title: str
) -> tuple[str, str] | None:
    """(the first name that is no field of these classes, the error's text). None: all are fields."""
    known = _fields(*of)
    for name in names:
        if known and name not in known:
            return name, f"vLLM's {title} has no '{name}'{nearest(name, known)}"
    return None


def parser_problem(name: str) -> str | None:
    """The error in the name of a reasoning parser. None: it is valid or unknown."""
    known = _parsers()
    if not known or name in known:
        return None
    have = ", ".join(sorted(known))
    return f"vLLM has no reasoning parser '{name}'{nearest(name, known)} (have: {have})"


@functools.cache
def _fields(path: str, classes: tuple[str, ...]) -> list[str]:
    """The annotated fields of classes in one of vLLM's files."""
    found = []
    for node in _source(path):
        if isinstance(node, ast.ClassDef) and node.name in classes:
            fields = (each for each in node.body if isinstance(each, ast.AnnAssign))
            found += [field.target.id for field in fields if isinstance(field.target, ast.Name)]
    return [name for name in found if not name.startswith("_")]


@functools.cache
def _parsers() -> list[str]:
    """The keys of the table in vLLM's `reasoning` package."""
    for node in _source("reasoning/__init__.py"):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            names = [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
            return [name for name in names if isinstance(name, str)]
    return []


def _source(path: str) -> list[ast.stmt]:
    """The statements of one of vLLM's files. Empty if the file does not exist."""
    spec = find_spec("vllm")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        try:
            return ast.parse((Path(folder) / path).read_text("utf-8")).body
        except (OSError, ValueError, SyntaxError):
            continue
    return []
