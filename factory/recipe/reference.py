"""docs/reference.md: every field of what a recipe can say, from the models that check it.

python -m factory.recipe.reference > docs/reference.md
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from factory.core import constitution
from factory.engines import ENGINES
from factory.engines.base import Sampling
from factory.export.export import VIEWS
from factory.recipe.recipe import EvaluationConfig, Recipe, StopRules
from factory.recipe.registry import STAGES
from factory.scorers.rules import Length, Overlong, Pattern, Sentences
from factory.sources.source import Columns, SourceConfig
from factory.training import TRAINERS
from factory.training.config import TrainingConfig
from factory.training.trainer import own_fields

_WIDTH = 118
_BOUNDS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "above",
    "exclusiveMaximum": "below",
    "pattern": "like",
}
_HEAD = """# Reference

Every field of a recipe and of a constitution: its type, its default, its bounds, and what it means.
This page is made from the code, by `python -m factory.recipe.reference > docs/reference.md`;
`factory schema recipe|constitution` prints the same as JSON Schema. How the parts work together:
[recipes](recipes.md), [constitutions](constitutions.md),
[stages and scorers](stages-and-scorers.md), [training](training.md).
"""


def reference() -> str:
    """The page, Markdown."""
    sections: list[tuple[str, list[tuple[str, type[BaseModel]]]]] = [
        ("Recipe", [("A recipe", Recipe)]),
        ("Source", [("`source`", SourceConfig), ("`source.columns`", Columns)]),
        ("Models", [(f"`engine: {name}`", model) for name, model in ENGINES.items()]),
        ("Sampling", [("`sampling` of a stage", Sampling)]),
        ("Stages and scorers", list(_stages())),
        (
            "Rules",
            [(f"`rule: {{kind: {r.__name__.lower()}}}`", r) for r in (Length, Sentences, Pattern)]
            + [("`rule: {kind: overlong}`", Overlong)],
        ),
        ("Views", [(f"`kind: {name}`", model) for name, model in VIEWS.items()]),
        (
            "Evaluation",
            [("`evaluation`", EvaluationConfig), ("`evaluation.stop`", StopRules)],
        ),
        ("Training", [("An entry of `training`", TrainingConfig)]),
        (
            "Constitution",
            [
                ("A constitution", constitution.Constitution),
                ("An entry of `principles`", constitution.Principle),
                ("`applies_when`", constitution.AppliesWhen),
                ("An entry of `tests`", constitution.PrincipleTest),
                ("An entry of `examples`", constitution.Example),
            ],
        ),
    ]
    lines = [_HEAD]
    for title, models in sections:
        lines += [f"## {title}", ""]
        for name, model in models:
            lines += [f"### {name}", "", *_about(model), *_fields(model), ""]
        if title == "Training":
            lines += [line for kind in TRAINERS for line in _trainer(kind)]
    return "\n".join(lines).rstrip() + "\n"


def _stages() -> Iterator[tuple[str, Any]]:
    for kind, found in STAGES.items():
        if isinstance(found, dict):
            yield from ((f"`kind: {kind}, mode: {mode}`", model) for mode, model in found.items())
        else:
            yield f"`kind: {kind}`", found


def _about(model: type) -> list[str]:
    return [*_paragraph(inspect.cleandoc(model.__doc__ or "")), ""]


def _fields(model: type[BaseModel]) -> Iterator[str]:
    made = model.model_json_schema()
    for name, field in made.get("properties", {}).items():
        facts = [_type(field), *_bounds(field)]
        facts.append("required" if name in made.get("required", []) else _default(field))
        yield from _entry(name, [fact for fact in facts if fact], field.get("description", ""))


def _trainer(kind: str) -> Iterator[str]:
    """A trainer's own options; the library's are passed through."""
    trainer = TRAINERS[kind].load()
    yield from [f"### `kind: {kind}`", "", *_about(type(trainer))]
    views = ", ".join(f"`{view}`" for view in TRAINERS[kind].takes)
    own, library = own_fields(trainer.config_class), _library(trainer.config_class)
    options = f"`{library}`'s{', and' if own else '.'}" if library else "its own"
    yield from [f"- Trains on views: {views}. Options: {options}{':' if own else ''}"]
    said = _field_docs(trainer.config_class)
    for field in dataclasses.fields(trainer.config_class):
        if field.name in own and field.name != "output_dir":
            known = field.default is not dataclasses.MISSING
            default = field.default if known else []
            shown = "optional" if default is None else f"default {_shown(default)}"
            yield from _entry(field.name, [str(field.type), shown], said.get(field.name, ""), "  ")
    for what, defaults in (("", trainer.defaults), (" with `lora`", trainer.lora_defaults)):
        if defaults:
            named = ", ".join(f"`{name}: {json.dumps(value)}`" for name, value in defaults.items())
            yield from _wrapped(f"- Defaults of its own{what}: {named}", "  ")
    yield ""


def _library(config_class: type) -> str | None:
    """The class of the library whose options are passed through; None: there is none."""
    named = [c for c in config_class.__mro__ if not c.__module__.startswith("factory.")]
    theirs = named[0]
    return None if theirs is object else f"{theirs.__module__.split('.')[0]}.{theirs.__name__}"


def _field_docs(config_class: type) -> dict[str, str]:
    """The text under each field of a dataclass of ours."""
    if not config_class.__module__.startswith("factory."):
        return {}
    [made] = ast.parse(textwrap.dedent(inspect.getsource(config_class))).body
    assert isinstance(made, ast.ClassDef)
    found = {}
    for field, text in zip(made.body, made.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = inspect.cleandoc(str(text.value.value))
    return found


def _type(field: dict[str, Any]) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "$ref" in field:
        return f"a mapping, `{field['$ref'].rpartition('/')[2]}`"
    for one_of in ("anyOf", "oneOf"):
        if one_of in field:
            kinds = [_type(each) for each in field[one_of] if each.get("type") != "null"]
            if "mapping" in kinds:  # one of many classes, which sections of their own describe
                kinds = [kind for kind in kinds if not kind.startswith("a mapping,")]
            return " or ".join(dict.fromkeys(kinds))
    kind = field.get("type", "anything")
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}"
    return {"object": "mapping", "string": "text"}.get(str(kind), str(kind))


def _bounds(field: dict[str, Any]) -> list[str]:
    found = [field, *(each for each in field.get("anyOf", []) if isinstance(each, dict))]
    said = [
        f"{words} `{each[name]}`"
        for each in found
        for name, words in _BOUNDS.items()
        if name in each
    ]
    said += [f"at most {each['maxLength']} characters" for each in found if "maxLength" in each]
    if any("minLength" in each or "minItems" in each for each in found):
        said.append("not empty")
    return said


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    return "optional" if value is None else f"default {_shown(value)}"


def _shown(value: Any) -> str:
    return f"`{json.dumps(value, default=str)}`"


def _entry(name: str, facts: list[str], text: str, indent: str = "") -> list[str]:
    said = " ".join(text.split())
    whole = f"{indent}- `{name}` ({', '.join(facts)}){': ' + said if said else ''}"
    return _wrapped(whole, f"{indent}  ")


def _paragraph(text: str) -> list[str]:
    """A docstring; what is indented in it is shown as it is."""
    lines: list[str] = []
    for block in text.split("\n\n"):
        if block.startswith("    "):
            lines += ["```", *textwrap.dedent(block).splitlines(), "```", ""]
        else:
            lines += [*_wrapped(" ".join(block.split()), ""), ""]
    return lines[:-1]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    print(reference(), end="")
