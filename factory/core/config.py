"""The base class of a recipe's parts: frozen, and unknown keys are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from factory.core.errors import renamed


class Config(BaseModel):
    """A part of a recipe. Each option is declared once, with its unit and reason beneath it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    old_names: ClassVar[Mapping[str, str]] = {}
    """A name that a field had before -> its name. It is read too, with a warning."""

    @model_validator(mode="before")
    @classmethod
    def _names_of_now(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not (old := cls.old_names.keys() & data.keys()):
            return data
        for name in sorted(old):
            if cls.old_names[name] in data:
                raise ValueError(f"'{name}' is the old name of '{cls.old_names[name]}'; give one")
            renamed(name, cls.old_names[name])
        return {cls.old_names.get(name, name): value for name, value in data.items()}

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, data: Any) -> Any:
        """Refuse true and false where a number is expected: Python takes true for 1."""
        for name, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(name) if isinstance(name, str) else None
            if field is not None and isinstance(value, bool):
                kinds = _kinds(field.annotation)
                if (int in kinds or float in kinds) and bool not in kinds and Any not in kinds:
                    raise ValueError(f"{name}: expected a number, found {str(value).lower()}")
        return data


def _kinds(annotation: Any) -> list[Any]:
    """The types that an annotation is made of."""
    parts = get_args(annotation)
    return [kind for part in parts for kind in _kinds(part)] if parts else [annotation]
