"""Score each candidate by a rule: its length, or a pattern found in it. No model is called.

    {kind: rule, name: short, rule: {kind: length, target: 30}}

The rules are those of online rewards, so a training's reward can be measured on held-out prompts.
Tokens are counted by the model that wrote the candidate.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from factory.core.records import Sample, Score
from factory.scorers.labels import DECIMALS
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
        for candidate in sample.answered():
            if self.rule.needs_tokens() and not candidate.output_tokens:  # no model wrote it here
                unknown = "its tokens are not known"
                sample.scores.append(Score(self.name, candidate.index, None, unknown))
                continue
            value = self.rule.score(candidate.text, candidate.output_tokens)
            sample.scores.append(Score(self.name, candidate.index, round(value, DECIMALS)))
        return sample
