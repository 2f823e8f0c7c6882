"""A constitution: principles that a user edits, and how they are chosen for a sample.

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

from pydantic import Field, StringConstraints, field_validator

from factory.core.config import Config
from factory.core.validation import validate
from factory.core.yamlfile import YamlFile

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class AppliesWhen(Config):
    """When a principle is used at all."""

    tags: list[str] = Field(min_length=1)
    """The sample has at least one of these tags."""


class PrincipleTest(Config):
    """An example for who edits the principle: a judge should prefer `better`. Its form is checked."""

    prompt: Text
    better: Text
    worse: Text


class Principle(Config):
    """One rule, as three instructions to a model."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Lower-case letters, digits and hyphens; it names the principle in every dataset."""
    title: Text
    critique: Text
    """Asks the model what is wrong with its answer."""
    revision: Text
    """Asks the model for a better answer."""
    compare: Text
    """Asks a judge which of two answers is better."""
    weight: float = Field(1.0, gt=0)
    """Relative chance of being drawn."""
    applies_when: AppliesWhen | None = None
    """Absent: always."""
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
        """Principles for one sample: `count` different ones of those that apply, in drawn order.

        Drawn by weight without replacement (with one per round, rounds may repeat a principle, as
        in Constitutional AI). Fewer than `count` apply: all of them. The draw of one principle
        depends on the others only through their weights, not their texts or the file's order.
        """
        applicable = [p for p in self.principles if p.applies_to(tags)]
        if count == "all":
            return applicable
        # Efraimidis-Spirakis: the largest u^(1/w) win, u from the seed and each principle's own id.
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
    return validate(Constitution, file, file.data)
