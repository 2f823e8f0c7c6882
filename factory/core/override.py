"""`--set a.b.0.c=value`: change one field of data that was read from YAML, before it is checked."""

from __future__ import annotations

import re
from typing import Any

import yaml

from factory.core.errors import RecipeError
from factory.core.yamlfile import Loc, clipped, describe, dotted, parse


def override(data: dict[str, Any], text: str) -> Loc:
    """Apply `a.b.0.c=value` or `a.b[0].c=value`, and return the place of the field.

    The value is read as YAML. Missing mappings are created. A position one past the end of a list
    appends to it. Raises `RecipeError`.
    """
    where, equals, value = text.partition("=")
    said = f"--set {clipped(text, 100)}"
    *parents, last = re.sub(r"\[(\w+)\]", r".\1", where.strip()).split(".")
    if not equals or not all((*parents, last)):
        raise RecipeError(f"{said}: expected field=value, as stages.0.n=4")
    try:
        new = parse(value)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error)
        raise RecipeError(f"{said}: {describe(value)} is not a YAML value: {problem}") from error
    node: Any = data
    loc: Loc = ()
    for part in parents:
        key = _key(node, part, f"{said}: {dotted(loc)}")
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node, loc = node[key], (*loc, key)
    key = _key(node, last, f"{said}: {dotted(loc)}", may_append=True)
    if isinstance(node, list) and key == len(node):
        node.append(new)
    else:
        node[key] = new
    return (*loc, key)


def _key(node: Any, part: str, place: str, *, may_append: bool = False) -> int | str:
    """The key that `part` stands for: a field's name in a mapping, a position in a list."""
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise RecipeError(f"{place} is {describe(node)}, which has no field '{part}'")
    last = len(node) - (not may_append)
    if last < 0:
        raise RecipeError(f"{place} is an empty list, which has no '{part}'")
    if not part.isdecimal() or int(part) > last:
        range_ = f"a position from 0 to {last}"
        raise RecipeError(f"{place} is a list; expected {range_}, found '{part}'")
    return int(part)
