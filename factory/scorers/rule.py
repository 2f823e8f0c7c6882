"""Score each candidate by a rule: its length, or a pattern found in it. No model is called.

    {kind: rule, name: short, rule: {kind: length, target: 30}}

The rules are those that online rewards know, so what a training is rewarded for can be measured on
prompts that it did not see.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from factory.core.records import Sample
from factory.scorers.rules import Length, Overlong, Pattern, Sentences
from factory.stages.base import Models, Stage


class RuleScore(Stage):
    """Score each candidate by a rule."""

    kind: Literal["rule"] = "rule"
    name: str = "rule"
    """Name of the score, for views: `score: rule`."""
    rule: Annotated[Length | Sentences | Pattern | Overlong, Field(discriminator="kind")]

    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})

    def facts_made(self) -> frozenset[str]:
        return frozenset({f"score:{self.name}", "ranking"})

    def problem(self) -> tuple[str, str] | None:
        for field in ("name", "weight"):
            if getattr(self.rule, field) != type(self.rule).model_fields[field].default:
                return "rule", f"{field} is for the rewards of a training; here it has no effect"
        problem = self.rule.problem()
        return ("rule", f"{problem[0]}: {problem[1]}") if problem else None

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        return await self.rule.model_copy(update={"name": self.name})(sample, models)
