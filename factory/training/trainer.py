"""A trainer, and the order that every training follows. READ FIRST in this package.

    check the options -> open the data -> look at the folder -> prepare options and tokenizer
    -> build the rows and the loop (the subclass's own part) -> train, save, record

A subclass says what it reads and makes, and writes `fit`. The options of the library underneath are
passed through, never mirrored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from factory.core.paths import user_path
from factory.training.common import options
from factory.training.common.data import Opened
from factory.training.common.plain_words import Advice
from factory.training.common.session import Session


class Trainer:
    """One kind of training."""

    kind: ClassVar[str]
    """Its key in `factory.training.TRAINERS`."""
    columns: ClassVar[tuple[str, ...]]
    """The columns that its dataset must have."""
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

    def check(self, config: Mapping[str, Any], lora: Mapping[str, Any] | None = None) -> None:
        """Raise `RecipeError` if an option is misspelled, of the wrong type or refused. Loads no model."""
        given = options.check(self.config_class, config)
        defaults = self.defaults_for(given, is_lora=lora is not None)
        self.check_given(given, lora)
        options.build_lora(lora, self.lora_task)
        # What our own checks look at; the rest may be of another machine than this.
        fields = _fields(self.config_class)
        looked_at = self.looked_at(given) | own_fields(self.config_class)
        here = {"use_cpu": True, "bf16": False, "report_to": "none", **defaults}
        here |= {name: value for name, value in given.items() if name in looked_at}
        here = {name: value for name, value in here.items() if name in fields}
        options.build(self.config_class, here, Path())

    def train(
        self,
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
        out = user_path(out)
        self.check_first(config, lora)
        opened = self.open(data, config)
        columns = self.columns_for(config)
        session = Session(self.kind, columns, data, model, out, lora, config, resume, opened=opened)
        if session.record is not None:
            return self.finished(session.record, out)
        with session.running():
            given = options.check(self.config_class, config)
            defaults = self.defaults_for(given, is_lora=lora is not None)
            session.prepare(self.config_class, defaults, self.lora_task)
            return self.fit(session, config)

    # -- the subclass's part ---------------------------------------------------------------------

    def fit(self, session: Session, config: Mapping[str, Any]) -> dict[str, Any]:
        """Build the rows and the loop, and return what `session.fit` does. `config`: as given."""
        raise NotImplementedError

    def check_first(self, config: Mapping[str, Any], lora: Mapping[str, Any] | None) -> None:
        """Check options before the data is opened. Raises `RecipeError`."""

    def check_given(self, given: Mapping[str, Any], lora: Mapping[str, Any] | None) -> None:
        """Check options that depend on each other. Raises `RecipeError`."""

    def looked_at(self, given: Mapping[str, Any]) -> set[str]:
        """Options of the library whose values are checked."""
        return set(self.checked)

    def defaults_for(self, given: Mapping[str, Any], *, is_lora: bool) -> dict[str, Any]:
        return {**self.defaults, **(self.lora_defaults if is_lora else {})}

    def columns_for(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """The columns that its dataset must have with these options."""
        return self.columns

    def open(self, data: Path | str, config: Mapping[str, Any]) -> Opened | None:
        """The dataset, if it is not opened by `columns_for`; else None."""
        return None

    def finished(self, record: dict[str, Any], out: Path) -> dict[str, Any]:
        """The record of a training that was finished before."""
        return record


def own_fields(config_class: type) -> set[str]:
    """Options that a class of ours adds to the library's class that it extends."""
    if not config_class.__module__.startswith("factory."):
        return set()
    theirs = [
        extended for extended in config_class.__mro__[1:] if dataclasses.is_dataclass(extended)
    ]
    return _fields(config_class) - (_fields(theirs[0]) if theirs else set())


def _fields(config_class: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(config_class)}
