"""Validation of YAML data by pydantic, with errors in the terms of the file that the user edits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from factory.core.errors import RecipeError
from factory.core.yamlfile import Loc, YamlFile, closest, describe, listed, nearest

Model = TypeVar("Model", bound=BaseModel)

# pydantic's kind of error -> what was expected. Names in braces come from the error's context.
_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "a mapping",
    "string_pattern_mismatch": "a text that matches {pattern}",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "some text",
    "string_type": "text",
    "too_short": "at least one entry",
}


# The kind of error that our own validators raise.
_EXPLAINED = "explained"


def validate(model: type[Model], file: YamlFile, data: Any, prefix: Loc = ()) -> Model:
    """`data` as a `model`. Validators have `file` as their context. Raises a `RecipeError` that lists all
    errors in the file's order, a line each."""
    try:
        return model.model_validate(data, context=file)
    except ValidationError as error:
        found = []
        for loc, message in _explain(model, error.errors(), data):
            place = (*prefix, *loc)
            said = message if isinstance(message, RecipeError) else file.error(place, message)
            found.append((file.line(place), str(said)))
        found.sort(key=itemgetter(0))
        raise RecipeError(listed([said for _, said in found])) from None


def as_member(model: type[Model], data: Any, file: YamlFile) -> Model:
    """`data` as a `model` that the validator of an open union has chosen."""
    try:
        return model.model_validate(data, context=file)
    except ValidationError as error:
        raise wrong(*_explain(model, error.errors(), data)) from None


def wrong(*found: tuple[Loc, str | RecipeError]) -> ValidationError:
    """An error for a validator to raise: messages, each with its place in the validated value. A
    `RecipeError` says its place itself, in another file."""
    errors: list[InitErrorDetails] = [
        {
            "type": PydanticCustomError(_EXPLAINED, "explained", {"message": said, "place": loc}),
            "input": None,
        }
        for loc, said in found
    ]
    return ValidationError.from_exception_data(_EXPLAINED, errors)


def _explain(
    model: type[BaseModel], errors: Iterable[ErrorDetails], data: Any
) -> Iterator[tuple[Loc, str | RecipeError]]:
    """Each wrong place in `data`, with a message."""
    places: dict[Loc, list[ErrorDetails]] = {}
    for error in errors:
        places.setdefault(_place(error, data), []).append(error)
    meant = {
        (*loc[:-1], closest(str(loc[-1]), _fields(model, loc[:-1])))
        for loc, group in places.items()
        if group[0]["type"] == "extra_forbidden"
    }
    for loc, group in places.items():
        if any(len(other) > len(loc) and other[: len(loc)] == loc for other in places):
            continue  # another member of the union describes the error better
        match group[0]["type"]:
            case "extra_forbidden":
                yield loc, f"unknown field{_hint(model, loc)}"
            case "missing":
                if loc not in meant:  # else the mistyped name is reported
                    yield loc, "this field is required"
            case "explained":
                yield loc, group[0]["ctx"]["message"]
            case "value_error":
                yield loc, group[0]["msg"].removeprefix("Value error, ")
            case _:
                yield loc, _mismatch(group, _fields(model, loc))


def _hint(model: type[BaseModel], loc: Loc) -> str:
    """The known name nearest to an unknown field's, and all known names."""
    *parents, name = loc
    fields = _fields(model, tuple(parents))
    deeper = (f"{field}.{name}" for field in fields if name in _fields(model, (*parents, field)))
    found = closest(str(name), fields) or next(deeper, None)
    hint = f"; did you mean '{found}'?" if found else ""
    return hint + (f" (known: {', '.join(fields)})" if fields else "")


def _mismatch(group: list[ErrorDetails], fields: list[str]) -> str:
    """The message for one value. It has several errors if several types were allowed."""
    found = group[0]["input"]
    expected = list(dict.fromkeys(_expected(error) for error in group))
    hint = ""
    if expected == ["a mapping"] and fields:
        expected = [f"a mapping such as {{{fields[0]}: ...}}"]
    elif isinstance(found, str):
        hint = nearest(found, re.findall("'([^']*)'", " ".join(expected)))
    elif isinstance(found, int | float) and "text" in expected:
        hint = "; put it in quotes"
    return f"expected {' or '.join(expected)}, found {describe(found)}{hint}"


def _expected(error: ErrorDetails) -> str:
    words = _EXPECTED.get(error["type"])
    if words is None:
        return error["msg"].removeprefix("Input should be ")
    return words.format(**error.get("ctx", {}))


def _place(error: ErrorDetails, data: Any) -> Loc:
    """The error's place in the data: pydantic's location without its names of union members."""
    place: list[int | str] = []
    for part in error["loc"]:
        is_key = isinstance(data, dict) and part in data
        if is_key or (isinstance(data, list) and isinstance(part, int)):
            data = data[part]
            place.append(part)
    if error["type"] == _EXPLAINED:
        return (*place, *error["ctx"]["place"])
    return (*place, error["loc"][-1]) if error["type"] == "missing" else tuple(place)


def _fields(annotation: Any, loc: Loc) -> list[str]:
    """Names of the fields at `loc` in a model. Empty if any name is allowed."""
    for name in (part for part in loc if isinstance(part, str)):
        fields = next((m.model_fields for m in _models(annotation) if name in m.model_fields), {})
        annotation = fields[name].annotation if name in fields else None
    return [field for model in _models(annotation) for field in model.model_fields]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type consists of: of `list[A | B] | None`, A and B."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
