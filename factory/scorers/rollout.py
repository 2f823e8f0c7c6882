"""Label the steps of solutions by completing them, without people or a process reward model.

From the end of each step the policy completes the solution `n` times, and each answer is checked
against the reference. The share of right answers is the step's score, in [0, 1] ("soft"). The label is
True if any answer is right, else False ("hard"; Math-Shepherd, Wang et al. 2312.08935).
`method: binary_search` finds only the first wrong step, by halving (OmegaPRM, Luo et al. 2406.06592).
For the last step, the solution's own answer is checked without completions, unless it has none.

It follows the findings of the authors of Qwen's process reward models (Zhang et al. 2501.07301): a step
is wrong only if all completions fail; labels stop after the first error; and with `judge`, labels are
kept only as far as a model that reads the steps puts the first error in the same place, which left about
40% of their rows. Without a judge, a right answer reached by wrong steps passes as right.

A model that thinks continues after an empty thought: with a thought it would solve the problem again,
and its answers would not depend on the steps. It does not see the candidate's own thought either, which
may hold the answer.

Unparsed is not wrong: a completion is not counted if its answer cannot be read, or if it was cut at
max_tokens before the right answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from factory.core.errors import SampleError
from factory.core.records import Candidate, Sample, Score, StepLabels
from factory.engines.base import Sampling
from factory.math.answers import How, check_aside
from factory.math.steps import Split, split_steps
from factory.scorers.comparison import DECIMALS
from factory.scorers.first_error import agreed, binary_search, every_step, settled, share_right
from factory.scorers.labels import Asking, Judging
from factory.scorers.process_reward import NO_STEPS
from factory.scorers.step_judge import EXAMPLE, QUESTION, ask_steps, steps_judging
from factory.stages.base import (
    EXAMPLE_PROMPT,
    EXAMPLE_STEP,
    Estimator,
    Expected,
    Models,
    Question,
    Scorer,
    pattern_problem,
    template_problem,
)

_STEPS = 4
"""Expected number of steps per solution, before any was seen."""


class Rollout(Scorer):
    """Label each step by completing the solution from its end."""

    kind: Literal["rollout"] = "rollout"
    name: str = "rollout"
    """Name of the score and of the steps' labels, for views: `score: rollout`, `steps: rollout`. The
    score is the share of steps before the first wrong one, in [0, 1]. None: not determined."""
    model: str
    """The model that completes the solutions: the policy itself, as a step is good if it can finish there."""
    n: int = Field(8, ge=1, le=10_000)
    """Number of completions from each step."""
    split: Split = "newline"
    separator: str = "\n"
    """Text between the steps, and after the last one, in the model's input."""
    sampling: Sampling = Sampling(max_tokens=512)
    """Sampling of the completions."""
    how: How = "math"
    """Method of finding an answer in a solution and checking it against the reference
    (factory/math/answers.py). `exact` is for solutions that end with a line `#### answer`."""
    pattern: str | None = None
    """With `how: pattern`: the regular expression that finds the answer."""
    method: Literal["every_step", "binary_search"] = "every_step"
    """`every_step`: n x (steps - 1) completions per solution. `binary_search`: at most
    n x log2(steps), and none for solutions that end right; scores of skipped steps are None."""
    judge: str | None = None
    """A model that says of each step whether it is correct. Labels are kept only as far as it puts the
    first error in the same place."""
    estimator: Estimator = "auto"
    """Method of reading the judge, as in the stage `judge`."""
    samples: int | None = Field(None, ge=1, le=10_000)
    """Number of verdicts or thoughts of the judge on each step, as in the stage `judge`."""
    template: str = QUESTION
    """The judge's question. Can use: conversation (text), prompt (messages), steps (up to the one
    asked about), reference. `{{ step | quoted }}` puts "> " before each line."""

    def splits(self) -> bool:
        return True

    def facts_made(self) -> frozenset[str]:
        return super().facts_made() | {f"steps:{self.name}"}

    def models_used(self) -> dict[str, str]:
        judge = {"judge": self.judge} if self.judge is not None else {}
        return {"model": self.model, **judge}

    def problem(self) -> tuple[str, str] | None:
        if self.n > 1 and not self.sampling.temperature:
            return "sampling", f"at temperature 0 all {self.n} completions are the same; set n: 1"
        if not self.separator:
            return "separator", "without one, steps run into each other; the default is a newline"
        if (self.how == "pattern") != (self.pattern is not None):
            return "pattern", "a pattern and `how: pattern` go together"
        odd = pattern_problem(self.pattern) or self._asking().problem()
        return odd or template_problem(self.template, **EXAMPLE)

    def examples(self) -> list[tuple[str, Question]]:
        begun = EXAMPLE_STEP + self.separator
        return [(self.model, Question(EXAMPLE_PROMPT, self.sampling, prefix=begun))]

    def judging(self) -> Judging | None:
        if self.judge is None:
            return None
        return steps_judging(self.judge, self.template, self._asking())

    def _asking(self) -> Asking:
        return Asking(self.estimator, self.samples)

    def expected_calls(self, sample: Expected) -> float:
        judging = self.judging()
        of_judge = 0 if judging is None else judging.calls() * _STEPS
        asked = _STEPS - 1 if self.method == "every_step" else _STEPS.bit_length()
        return sample.texts * (self.n * asked + of_judge)

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        if not (sample.reference or "").strip():
            raise SampleError(
                "the sample has no reference answer to check completions against; give the "
                "source's rows one, or name its column in `source.columns.reference`",
                is_permanent=True,
            )
        for candidate in sample.answered():
            steps = split_steps(candidate.text, self.split)
            if steps:
                await self._label(sample, candidate, steps, models)
            else:
                sample.scores.append(Score(self.name, candidate.index, None, NO_STEPS))
        return sample

    async def _label(
        self, sample: Sample, candidate: Candidate, steps: list[str], models: Models
    ) -> None:
        calls: list[str] = []

        async def probe(kept: Sequence[int]) -> list[float | None]:
            return await self._shares(sample, candidate.index, steps, kept, models, calls)

        search = every_step if self.method == "every_step" else binary_search
        whole = [(candidate.text, candidate.finish_reason)]
        [ends_right] = await self._are_right(sample, whole)
        shares, labels = await search(len(steps), ends_right, probe)
        value = share_right(labels)
        detail = "unparsed" if value is None else ""
        known = settled(labels)
        if self.judge is not None and known:
            opinion = await ask_steps(
                *(models, self.judge, self.template, sample, steps[:known]),
                asking=self._asking(),
                salt=(self.name, "judge", candidate.index),
            )
            calls += opinion.calls
            labels = agreed(labels, opinion.is_correct)
            value = share_right(labels)
            if (same := settled(labels)) < known:
                if opinion.is_correct[same] is not None:
                    detail = "disagree"
                else:
                    detail = "judge unparsed" if opinion.ps[same] is None else "judge undecided"
        sample.step_labels.append(
            StepLabels(self.name, candidate.index, steps, shares, labels, calls)
        )
        if value is not None:
            value = round(value, DECIMALS)
        sample.scores.append(Score(self.name, candidate.index, value, detail, calls))

    async def _shares(
        self,
        sample: Sample,
        candidate: int,
        steps: list[str],
        kept: Sequence[int],
        models: Models,
        calls: list[str],
    ) -> list[float | None]:
        """The share of right completions for each number of kept steps; see `first_error.Probe`."""
        begun = {k: self.separator.join(steps[:k]) + self.separator for k in kept}
        questions = [
            Question(
                sample.prompt, self.sampling, salt=(self.name, candidate, k, i), prefix=begun[k]
            )
            for k in kept
            for i in range(self.n)
        ]
        answers = await models.ask(self.model, questions)
        calls += [answer.call for answer in answers]
        solutions = [
            (question.prefix + answer.completion.text, answer.completion.finish_reason)
            for question, answer in zip(questions, answers, strict=True)
        ]
        found = await self._are_right(sample, solutions)
        return [share(found[i : i + self.n]) for i in range(0, len(found), self.n)]

    async def _are_right(
        self, sample: Sample, solutions: Sequence[tuple[str, str]]
    ) -> list[bool | None]:
        """For each (text, finish reason), True if its answer is right. None: unparsed, or the text was
        cut and what was read may not be its final answer."""
        reference = sample.reference or ""
        try:
            checks = [
                await check_aside(text, reference, self.how, self.pattern) for text, _ in solutions
            ]
        except ValueError as error:
            raise SampleError(f"{error} (how: {self.how})", is_permanent=True) from error
        return [
            None if is_right is False and reason == "length" else is_right
            for (is_right, _), (_, reason) in zip(checks, solutions, strict=True)
        ]


def share(found: Sequence[bool | None]) -> float | None:
    """Share of right answers among those that were read, in [0, 1]. None: none was."""
    read = [is_right for is_right in found if is_right is not None]
    return round(sum(read) / len(read), DECIMALS) if read else None
