"""YAML files that people edit: load one, and say by line what is wrong with it.

`load` reads a file into a pydantic model. Every complaint names file, line, field, what was found,
what was expected and, for a mistyped name, the nearest right one.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from factory.errors import RecipeError

Model = TypeVar("Model", bound=BaseModel)
Loc = tuple[int | str, ...]


class YamlFile:
    """A parsed YAML file that remembers on which line each field stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise RecipeError(missing_file(path)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: cannot be read as UTF-8 text: {error}") from error
        try:
            self._root = yaml.compose(text, Loader=yaml.SafeLoader)
            self._refuse_repeated_keys(self._root)
            self.data: Any = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise RecipeError(f"{path}:{line} is not YAML: {error.problem}") from error
        except yaml.YAMLError as error:
            raise RecipeError(f"{path} is not YAML: {error}") from error
        if not isinstance(self.data, dict):
            raise RecipeError(
                f"{path}:1 expected a mapping of fields, found {_describe(self.data)}"
            )

    def _refuse_repeated_keys(self, node: yaml.Node | None) -> None:
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._refuse_repeated_keys(item)
        if not isinstance(node, yaml.MappingNode):
            return
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise RecipeError(f"{self.path}:{line} '{key.value}' is given twice; keep one")
            seen.add(key.value)
            self._refuse_repeated_keys(value)

    def line(self, loc: Loc) -> int:
        """The line (from 1) of a field, or of its nearest parent that stands in the file."""
        node, line = self._root, 1
        for part in loc:
            if isinstance(node, yaml.MappingNode):
                found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
                if found is None:
                    break
                key, node = found
                line = key.start_mark.line + 1
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                if part >= len(node.value):
                    break
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                break
        return line

    def error(self, loc: Loc, message: str) -> RecipeError:
        """An error about one field, with its place in the file."""
        return RecipeError(f"{self.path}:{self.line(loc)} {dotted(loc)}: {message}")


def missing_file(path: Path) -> str:
    """What to say about a file that is not there, with the nearest name that is."""
    folder = path.parent
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return f"{path}: no such file{nearest(path.name, names, quote=False)}"


def nearest(word: str, choices: Sequence[str], *, quote: bool = True) -> str:
    """`; did you mean 'x'?` or nothing."""
    found = difflib.get_close_matches(word, choices, n=1)
    if not found:
        return ""
    return f"; did you mean '{found[0]}'?" if quote else f"; did you mean {found[0]}?"


def dotted(loc: Loc) -> str:
    """('stages', 2, 'model') -> 'stages[2].model'."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else str(part)
    return text


def validate(model: type[Model], file: YamlFile, data: Any, prefix: Loc = ()) -> Model:
    """`data` as a `model`, or a `RecipeError` that lists everything wrong with it, a line each."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [str(_explain(model, file, e, data, prefix)) for e in error.errors()]
        raise RecipeError("\n".join(dict.fromkeys(lines))) from None


def _explain(
    model: type[BaseModel], file: YamlFile, error: ErrorDetails, data: Any, prefix: Loc
) -> RecipeError:
    loc, kind = _real_place(tuple(error["loc"]), data), error["type"]
    if kind == "extra_forbidden":
        fields = _fields_at(model, loc[:-1])
        known = f" (known: {', '.join(fields)})" if fields else ""
        message = f"unknown field{nearest(str(loc[-1]), fields)}{known}"
    elif kind == "missing":
        message = "this field is required"
    else:
        expected = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if kind == "value_error":
            message = expected
        else:
            message = f"expected {expected}, found {_describe(error.get('input'))}"
    return file.error((*prefix, *loc), message)


def _real_place(loc: Loc, data: Any) -> Loc:
    """Drop from a pydantic location what is not in the data: names of union members."""
    real: list[int | str] = []
    for i, part in enumerate(loc):
        is_last = i == len(loc) - 1
        if isinstance(data, dict):
            if part in data:
                data = data[part]
            elif not is_last:
                continue
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        real.append(part)
    return tuple(real)


def _fields_at(model: Any, loc: Loc) -> list[str]:
    """Field names of the config at `loc`, where the schema leads there without a union."""
    for part in loc:
        if isinstance(part, int) or not hasattr(model, "model_fields"):
            return []
        field = model.model_fields.get(part)
        model = field.annotation if field else None
    return list(getattr(model, "model_fields", {}))


def _describe(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
