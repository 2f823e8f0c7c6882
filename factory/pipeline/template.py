"""The chat template that a run's datasets are written for, where views keep thoughts.

It is the template of the models that write the answers, if their weights are on this machine. The
template of a model behind an endpoint is unknown: thoughts then open the answers, between marks.
"""

from __future__ import annotations

import msgspec

from factory.core import weights
from factory.core.errors import RecipeError
from factory.engines import VllmConfig
from factory.engines.thought_form import Form, form_in
from factory.recipe.recipe import Recipe


class WrittenFor(msgspec.Struct, frozen=True):
    """The result of `thoughts_of`."""

    form: Form = Form()
    model: str | None = None
    """The recipe's name of the model whose template it is. None: no template is available."""


def thoughts_of(recipe: Recipe) -> WrittenFor:
    """The form of thoughts in the recipe's datasets. Loads a tokenizer if a view keeps them.

    Raises `RecipeError` if a template keeps none, or two templates want different forms.
    """
    found: list[WrittenFor] = []
    keeping = [view for view in recipe.views if getattr(view, "reasoning", "drop") == "keep"]
    for name in _writers(recipe) if keeping else ():
        config = recipe.models[name]
        if not isinstance(config, VllmConfig) or config.model.startswith(weights.TRAINED):
            continue
        folder = weights.resolve(config.model, recipe.folder)
        trust = config.trust_remote_code
        form = form_in(folder, f"models.{name} ({config.model})", trust_remote_code=trust)
        found.append(WrittenFor(form, name))
    if len({each.form for each in found}) > 1:
        forms = ", ".join(f"{each.model}: {each.form.describe()}" for each in found)
        raise RecipeError(
            "views with reasoning: keep: the chat templates of the models that write answers train "
            f"thoughts in different forms ({forms}), and a dataset has one; set reasoning: drop, or "
            "let one model write"
        )
    return found[0] if found else WrittenFor()


def _writers(recipe: Recipe) -> list[str]:
    """Names of the models that write answers, each once."""
    return list(
        dict.fromkeys(
            model
            for stage in recipe.stages
            if stage.facts_made() & {"candidates", "revisions"}
            for model in stage.models_used().values()
        )
    )
