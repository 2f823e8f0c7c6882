"""The order that every training follows, and what one kind of training says. READ FIRST in this package.

    open the data -> look at the folder -> load the libraries -> check the options, load the tokenizer
    -> build the rows and the loop (the kind's own part) -> train, save, record

What is cheap comes first: a wrong dataset or folder is refused before torch and TRL load. The options
of the library underneath are passed through, never mirrored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from factory.training import TRAINERS
from factory.training.common import options
from factory.training.common.plain_words import Advice
from factory.training.common.save import put_quality_file
from factory.training.common.session import Session


def train(
    kind: str,
    data: Path | str,
    model: Path | str,
    out: Path,
    *,
    lora: Mapping[str, Any] | None = None,
    config: Mapping[str, Any],
    resume: bool = False,
) -> dict[str, Any]:
    """Train `model` (a name that `factory.core.weights` resolves) on `data`; return training.json.

    Afterward `out` loads with transformers and vLLM. A finished `out` of the same training is not
    changed; one that holds anything else is refused.

    Raises `RecipeError` for a wrong dataset, model or option, before any weights load, and
    `FactoryError` for a training that failed (out of memory, not a number, a disk).
    """
    session = Session(kind, data, model, out, lora, config, resume)
    record = session.record
    if record is None:
        with session.screen.doing("loading torch and trl"):
            trainer: Trainer = TRAINERS[kind].load()
        with session.running(trainer.advice):
            given = options.converted(trainer.config_class, config)
            defaults = trainer.defaults_for(given, is_lora=lora is not None)
            session.prepare(trainer.config_class, defaults, trainer.lora_task)
            record = trainer.fit(session, config)
    if session.is_main:
        put_quality_file(record, session.out)
    return record


class Trainer:
    """One kind of training: what it says of itself, and `fit`."""

    kind: ClassVar[str]
    """Its key in `factory.training.TRAINERS`."""
    config_class: ClassVar[type]
    """The dataclass of its options: TRL's, or one that extends it."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Default options, which override those of `options` and the library's own."""
    lora_defaults: ClassVar[Mapping[str, Any]] = {}
    """Default options for training an adapter, which override `defaults`. It starts at zero and needs
    larger steps."""
    checked: ClassVar[frozenset[str]] = frozenset()
    """Options of the library that `config_class` checks besides its own."""
    lora_task: ClassVar[options.LoraTask] = "CAUSAL_LM"
    loaded_as: ClassVar[str] = "AutoModelForCausalLM"
    """The class of transformers that loads the result."""
    advice: ClassVar[Advice] = Advice()
    """Advice if memory runs out."""

    def fit(self, session: Session, config: Mapping[str, Any]) -> dict[str, Any]:
        """Build the rows and the loop, and return what `session.fit` does. `config`: as given."""
        raise NotImplementedError

    def check_options(
        self, config: Mapping[str, Any], lora: Mapping[str, Any] | None = None
    ) -> None:
        """Raise `RecipeError` if an option is misspelled, of the wrong type or refused. Loads no model."""
        given = options.converted(self.config_class, config)
        defaults = self.defaults_for(given, is_lora=lora is not None)
        self.check_given(given, lora)
        options.build_lora(lora, self.lora_task)
        # What our own checks look at; the rest may be of another machine than this.
        looked_at = self.checked | own_fields(self.config_class)
        here = {"use_cpu": True, "bf16": False, "report_to": "none", **defaults}
        here |= {name: value for name, value in given.items() if name in looked_at}
        options.build(self.config_class, here, Path())

    def check_given(self, given: Mapping[str, Any], lora: Mapping[str, Any] | None) -> None:
        """Check options that depend on each other. Raises `RecipeError`."""

    def defaults_for(self, given: Mapping[str, Any], *, is_lora: bool) -> dict[str, Any]:
        return {**self.defaults, **(self.lora_defaults if is_lora else {})}


def own_fields(config_class: type) -> set[str]:
    """Options that a class of ours adds to the library's class that it extends."""
    if not config_class.__module__.startswith("factory."):
        return set()
    own, *theirs = (
        {field.name for field in dataclasses.fields(kind)}
        for kind in config_class.__mro__
        if dataclasses.is_dataclass(kind)
    )
    return own - theirs[0] if theirs else own
