"""The entries of `rewards:`, checked. The table is the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from factory.core.errors import RecipeError
from factory.core.validation import validate
from factory.core.yamlfile import Loc, YamlFile, describe, dotted, nearest
from factory.scorers.rules import Length, Overlong, Pattern, Rule, Sentences
from factory.training.online.rewards.scorers import (
    JudgeReward,
    ModelReward,
    ProcessModel,
    Scorer,
    VerifyReward,
)

KINDS: dict[str, type[Rule] | type[Scorer]] = {
    "length": Length,
    "sentences": Sentences,
    "pattern": Pattern,
    "format": Pattern,
    "overlong": Overlong,
    "verify": VerifyReward,
    "reward": ModelReward,
    "process": ProcessModel,
    "judge": JudgeReward,
}
_EXAMPLE = "[{kind: verify, how: math}]"


def parse_rewards(entries: Any) -> dict[str, Rule | Scorer]:
    """The entries by name, in their order. Looks at no file and loads nothing.

    Raises `RecipeError` that names the entry, the field, and the nearest right name.
    """
    have = f"(kinds: {', '.join(KINDS)})"
    if not isinstance(entries, list) or not entries:
        raise RecipeError(
            f"config.rewards: expected a list such as {_EXAMPLE}, found {describe(entries)} {have}"
        )
    given = _Given()
    parts: dict[str, Rule | Scorer] = {}
    for i, entry in enumerate(entries):
        loc: Loc = ("rewards", i)
        if not isinstance(entry, Mapping):
            raise given.error(
                loc, f"expected a mapping with a kind, found {describe(entry)} {have}"
            )
        kind = entry.get("kind")
        if kind not in KINDS:
            near = nearest(kind, KINDS) if isinstance(kind, str) else ""
            raise given.error((*loc, "kind"), f"no kind {describe(kind)}{near} {have}")
        part: Rule | Scorer = validate(KINDS[kind], given, dict(entry), loc)
        if problem := part.problem():
            raise given.error((*loc, problem[0]), problem[1])
        name = part.name or kind
        if name in parts:
            raise given.error(
                loc, f"there are two rewards named '{name}'; give one another, as name: {name}2"
            )
        parts[name] = part
    if not any(part.weight for part in parts.values()):
        raise RecipeError("config.rewards: all weights are 0, so nothing is rewarded; raise one")
    return parts


class _Given(YamlFile):
    """For `validate`: errors name the field of the config, which need not come from a file."""

    def __init__(self) -> None:
        pass

    def error(self, loc: Loc, message: str) -> RecipeError:
        return RecipeError(f"config.{dotted(loc)}: {message}")
