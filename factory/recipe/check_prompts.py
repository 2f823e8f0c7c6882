"""Checks of a recipe's prompts against the rest of it: their length and their tags.

Reads the first rows of a source that is available locally. Counts tokens with the model's own
tokenizer if its files are available too, by `tokenizers`, since transformers takes seconds to load.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from factory.core import weights
from factory.core.errors import RecipeError
from factory.core.records import Sample
from factory.core.yamlfile import YamlFile, nearest
from factory.engines import VllmConfig
from factory.recipe.recipe import Recipe
from factory.sources.source import open_source
from factory.stages.generate import Generate

_LOOKED_AT = 1_000
"""Rows of the source that are checked."""


def check_prompts(recipe: Recipe) -> list[str]:
    """Remarks on the prompts, a sentence each. Raises `RecipeError` if no prompt fits a model's
    context."""
    rows = islice(open_source(recipe.source, recipe.folder).rows(0), _LOOKED_AT)
    samples = [row for row in rows if isinstance(row, Sample)]
    for i, stage in enumerate(recipe.stages):
        if isinstance(stage, Generate) and samples:
            _refuse_small_context(recipe, i, stage, samples)
    return list(_tags(recipe, samples))


def _refuse_small_context(
    recipe: Recipe, position: int, stage: Generate, samples: list[Sample]
) -> None:
    config = recipe.models.get(stage.model)
    folder = _folder(recipe, config)
    if not isinstance(config, VllmConfig) or folder is None:
        return
    context = config.max_model_len or _own_context(folder)
    if context is None:
        return
    answer = stage.sampling.max_tokens
    shortest = min(_tokens(folder, samples), default=0)
    if shortest + answer > context:
        raise YamlFile(recipe.path).error(
            ("stages", position, "sampling", "max_tokens"),
            f"no prompt fits: the shortest has {shortest} tokens, max_tokens is {answer}, and the "
            f"context of '{stage.model}' is {context} (max_model_len); lower max_tokens or raise "
            "max_model_len",
        )


def _tokens(folder: Path, samples: list[Sample]) -> Iterator[int]:
    """Number of tokens of each prompt's texts. A chat template adds some."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # another kind of file, or none: the engine will report it
        return
    for sample in samples:
        text = "\n".join(message["content"] for message in sample.prompt)
        yield len(tokenizer.encode(text, add_special_tokens=False).ids)


def _folder(recipe: Recipe, config: object) -> Path | None:
    """The folder of the model's files, if they are available without a download or conversion."""
    if not isinstance(config, VllmConfig):
        return None
    if config.model == weights.EMBEDDED:
        folder = weights.embedded_folder()
        return folder if folder.is_dir() else None
    try:
        return weights.local_folder(config.model, recipe.folder)
    except RecipeError:
        return None


def _own_context(folder: Path) -> int | None:
    try:
        found = json.loads((folder / "config.json").read_bytes()).get("max_position_embeddings")
    except (OSError, ValueError):
        return None
    return found if isinstance(found, int) else None


def _tags(recipe: Recipe, samples: list[Sample]) -> Iterator[str]:
    """Remarks on principles that never apply, since no prompt has their tags."""
    have = sorted({tag for sample in samples for tag in sample.tags})
    seen = f"the first {len(samples):,} prompts" if len(samples) == _LOOKED_AT else "the prompts"
    for principle in recipe.constitution.principles if recipe.constitution else ():
        if principle.applies_when is None:
            continue
        missing = [tag for tag in principle.applies_when.tags if tag not in have]
        if len(missing) == len(principle.applies_when.tags):
            tags = ", ".join(f"'{tag}'" for tag in missing)
            yield (
                f"principle '{principle.id}' never applies: it is for prompts with the tag {tags}, "
                f"and {seen} have {', '.join(have) or 'no tags'}{nearest(missing[0], have)}"
            )
