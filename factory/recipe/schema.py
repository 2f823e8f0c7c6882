"""JSON Schema of recipes and constitutions, from the models that check them: editors complete by it.

`factory schema recipe|constitution` prints it. A recipe that the schema takes may still be refused
for what holds across fields, as a stage that names a model the recipe does not have.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from factory.core.constitution import Constitution
from factory.recipe.recipe import Recipe

DRAFT = "https://json-schema.org/draft/2020-12/schema"
KINDS: dict[str, type[BaseModel]] = {"recipe": Recipe, "constitution": Constitution}


def schema(kind: str) -> dict[str, Any]:
    """JSON Schema of a `recipe` or a `constitution`."""
    return {"$schema": DRAFT, **KINDS[kind].model_json_schema(), "title": f"A {kind}"}
