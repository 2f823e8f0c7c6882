"""Answer the prompt: `n` candidates, each with a seed of its own."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from factory.core.records import Sample
from factory.engines.base import Sampling
from factory.stages.base import Expected, Models, Question, Stage, add_answer


class Generate(Stage):
    """Answer the prompt."""

    kind: Literal["generate"] = "generate"
    model: str
    n: int = Field(1, ge=1, le=10_000)
    """Number of candidates per prompt."""
    sampling: Sampling = Sampling()

    makes: ClassVar[frozenset[str]] = frozenset({"candidates"})

    def expected_calls(self, sample: Expected) -> float:
        return self.n

    def expected_after(self, sample: Expected) -> Expected:
        return sample._replace(answers=sample.answers + self.n)

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        first = len(sample.candidates)
        questions = [
            Question(sample.prompt, self.sampling, salt=("generate", first + i))
            for i in range(self.n)
        ]
        for answer in await models.ask(self.model, questions):
            add_answer(sample, answer, "generate", self.model)
        return sample
