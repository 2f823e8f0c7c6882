"""A constitution: principles that a user edits, and the choice of principles for a sample.

Every text is plain text, never executed. A constitution file has `name`, `version`, `description`,
`principles` and, for small models, `examples` of good critiques and revisions.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, StringConstraints, field_validator

from factory.core.config import Config
from factory.core.validation import validate
from factory.core.yamlfile import YamlFile

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class AppliesWhen(Config):
    """The condition for using a principle."""

    tags: list[str] = Field(min_length=1)
    """Tags of which the sample must have at least one."""


class PrincipleTest(Config):
    """An example that shows whether the principle is understood: a judge should prefer `better`.
    `factory constitution test` asks one."""

    prompt: Text
    better: Text
    worse: Text


class Principle(Config):
    """One rule, as three instructions to a model."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Name of the principle in every dataset: lower-case letters, digits and hyphens."""
    title: Text
    critique: Text
    """Instruction that asks the model what is wrong with its answer."""
    revision: Text
    """Instruction that asks the model for a better answer."""
    compare: Text
    """Instruction that asks a judge which of two answers is better."""
    weight: float = Field(1.0, gt=0)
    """Relative probability of being drawn, above 0."""
    applies_when: AppliesWhen | None = None
    """Condition for using the principle. None: it always applies."""
    tests: list[PrincipleTest] = []

    def applies_to(self, tags: Sequence[str]) -> bool:
        return self.applies_when is None or not set(self.applies_when.tags).isdisjoint(tags)


class Example(Config):
    """A worked critique and revision, shown to the model before its own (few-shot)."""

    prompt: Text
    answer: Text
    critique: Text
    revision: Text


class Constitution(Config):
    """Principles with a name and a version."""

    name: Text
    version: Text
    description: str = ""
    principles: list[Principle] = Field(min_length=1)
    examples: list[Example] = []
    _path: Path | None = PrivateAttr(None)

    @property
    def path(self) -> Path | None:
        """Its file. None: it was not read from one."""
        return self._path

    @field_validator("principles")
    @classmethod
    def _ids_are_unique(cls, principles: list[Principle]) -> list[Principle]:
        first: dict[str, int] = {}
        for i, principle in enumerate(principles):
            if (j := first.setdefault(principle.id, i)) != i:
                raise ValueError(
                    f"[{j}] and [{i}] have the same id '{principle.id}'; give one another"
                )
        return principles

    def digest(self) -> str:
        """Hash (16 hex digits) of everything in the file."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=8).hexdigest()

    def choose(
        self, tags: Sequence[str], count: int | Literal["all"], seed: int
    ) -> list[Principle]:
        """Draw principles for one sample: `count` different ones of those that apply, in drawn order.

        They are drawn by weight without replacement. (With one per round, rounds may repeat a
        principle, as in Constitutional AI.) If fewer than `count` apply, returns all of them. The
        texts of principles and their order in the file do not affect the draw.
        """
        applicable = [p for p in self.principles if p.applies_to(tags)]
        if count == "all":
            return applicable
        # Efraimidis-Spirakis: the largest u^(1/w) win. u comes from the seed and the principle's id.
        keyed = [(_uniform(seed, p.id) ** (1 / p.weight), p.id, p) for p in applicable]
        keyed.sort(key=itemgetter(0, 1), reverse=True)
        return [p for _, _, p in keyed[:count]]


_MASK = 2**64 - 1


def _uniform(seed: int, name: str) -> float:
    """A number in [0, 1), a pure function of both: SplitMix64 (Steele et al. 2014) of their sum."""
    z = (_hash(name) + seed * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) / 2**64


@functools.lru_cache(maxsize=4096)
def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def load(path: Path) -> Constitution:
    """Read a constitution file. Raises `RecipeError` naming file, line and field."""
    file = YamlFile(path)
    made = validate(Constitution, file, file.data)
    made._path = path
    return made
