"""Score the steps that a solution came with, instead of cutting its text into steps anew."""

from __future__ import annotations

from typing import Literal

from factory.engines.base import Scoring, Task
from factory.errors import SampleError
from factory.records import Sample, Score, StepLabels
from factory.rows import GIVEN
from factory.stages.base import Models, Question, Stage
from factory.stages.labels import DECIMALS
from factory.stages.process import SCORING_CALL, ProcessReward, aggregated


class GivenSteps(Stage):
    """A process reward stage that reads `Sample.step_labels` named `data` of candidate 0."""

    kind: Literal["process"] = "process"
    stage: ProcessReward

    def facts_made(self) -> frozenset[str]:
        return self.stage.facts_made()

    def models_used(self) -> dict[str, str]:
        return self.stage.models_used()

    def task(self) -> Task:
        return self.stage.task()

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        stage = self.stage
        steps = next((x.steps for x in sample.step_labels if x.name == GIVEN), [])
        if not steps:
            raise SampleError("the row has no steps", is_permanent=True)
        candidate = sample.candidates[0]
        scoring = Scoring(tuple(steps), stage.separator, stage.tag)
        (asked,) = await models.ask(
            stage.model, [Question(sample.prompt, SCORING_CALL, scoring=scoring)]
        )
        ps = stage._probabilities(candidate, steps, asked.completion)
        scores = [round(p, DECIMALS) for p in ps]
        labels = [score >= 0.5 for score in scores]
        calls = [asked.call]
        sample.step_labels.append(StepLabels(stage.name, 0, steps, [*scores], [*labels], calls))
        value = aggregated(ps, stage.aggregate)
        sample.scores.append(Score(stage.name, 0, value, calls=calls))
        return sample
