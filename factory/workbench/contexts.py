"""Texts of a constitution against the context of the model that reads them.

Counted by the model's own tokenizer file; without one by words, where that is certain: a word is at
least a token. Chat templates add tokens that are not counted, so what is reported is too long for sure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from factory.core import weights
from factory.core.constitution import Constitution
from factory.core.records import Message
from factory.core.words import words
from factory.core.yamlfile import Loc, YamlFile
from factory.scorers.judge_pairwise import ANSWER, COMPARISON
from factory.stages.base import render


class Context(NamedTuple):
    """A model's context."""

    model: str
    tokens: int
    count: Callable[[str], int]
    """Tokens of a text, at least."""


def context_of(model: str, folder: Path | None = None, limit: int | None = None) -> Context | None:
    """The context of a model named as in a recipe. `limit`: its max_model_len. None: its files do not
    tell. Raises `RecipeError` if there is no such model."""
    path = weights.resolve(model, folder)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    own = config.get("max_position_embeddings")
    known = [size for size in (limit, own) if isinstance(size, int)]
    return Context(model, min(known), _counter(path)) if known else None


def context_of_run(run: Path) -> Context | None:
    """The smallest context of the models of a run that have files here."""
    recipe = run / "recipe.yaml"
    found = []
    for config in YamlFile(recipe).data.get("models", {}).values():
        if config.get("engine", "vllm") != "vllm" or config["model"].startswith(weights.TRAINED):
            continue
        # A Hub id is not looked up: that would download the weights.
        if config["model"] == weights.EMBEDDED or weights.local_folder(config["model"], run):
            found.append(context_of(config["model"], run, config.get("max_model_len")))
    return min((each for each in found if each), key=lambda each: each.tokens, default=None)


def _counter(path: Path) -> Callable[[str], int]:
    tokenizer = path / "tokenizer.json"
    if not tokenizer.is_file():
        return words
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokenizer))
    loaded.no_truncation()
    return lambda text: len(loaded.encode(text, add_special_tokens=False))


def too_long(
    made: Constitution, context: Context
) -> Iterator[tuple[Literal["error", "warning"], Loc, str]]:
    """Texts that do not fit."""

    def odd(loc: Loc, text: str, what: str) -> Iterator[tuple[Literal["error"], Loc, str]]:
        if (tokens := context.count(text)) >= context.tokens:
            yield (
                "error", loc,
                f"{what} is {tokens:,} tokens or more, and {context.model} reads "
                f"{context.tokens:,} with the answer; shorten it, or use a model with more",
            )  # fmt: skip

    for i, principle in enumerate(made.principles):
        loc: Loc = ("principles", i)
        for field in ("critique", "revision", "compare"):
            yield from odd((*loc, field), getattr(principle, field), "the instruction")
        for k, test in enumerate(principle.tests):
            asked = render(
                COMPARISON,
                prompt=[Message(role="user", content=test.prompt)],
                a=test.better,
                b=test.worse,
                question=principle.compare,
            )
            yield from odd((*loc, "tests", k), asked + ANSWER, "the judge's question")
    shots = [" ".join((e.prompt, e.answer, e.critique, e.revision)) for e in made.examples]
    for i, shot in enumerate(shots):
        yield from odd(("examples", i), shot, "the example")
