"""Ask a judge to score each candidate by a rubric; the score is the expected value.

The judge's answer begins with "Score: ", and the score is sum_k k * P(k), with P from the normalized
log-probabilities of the score tokens. With `chain_of_thought` the judge first reasons, `samples` times,
and the expected scores are averaged (Self-Rewarding, Yuan et al. 2401.10020, which parses the digit
instead and draws three samples). For a judge that thinks by itself, or shows no log-probabilities, see
`labels`. Texts of people and models are quoted (`stages.base.quoted`), so they stay in their slots.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from factory.core.records import Candidate, Message, Sample, Score
from factory.engines.base import Sampling
from factory.scorers.comparison import DECIMALS
from factory.scorers.labels import EXAMPLE, QUOTED, Asking, Judging, ask_labels
from factory.stages.base import (
    EXAMPLE_PROMPT,
    Estimator,
    Expected,
    Models,
    Stage,
    render,
    template_problem,
)

ANSWER = "Score: "
_REASONING = Sampling(max_tokens=256)
RUBRIC = """\
Add one point for each of these that holds:
1. It is about what was asked and says something useful.
2. It covers most of what was asked, even if not all.
3. It answers what was asked, completely enough to be used.
4. It is clear, well ordered and written for the person who asked.
5. It is excellent: correct, to the point, and nothing could be left out."""
RATING = (
    f"Consider this conversation and an answer to its last message. {QUOTED}"
    """\
Answer:
{{ answer | quoted }}

{{ rubric }}

Give the answer a score from {{ low }} to {{ high }}."""
)


class PointwiseJudge(Stage):
    """Score each candidate by a rubric."""

    kind: Literal["judge"] = "judge"
    mode: Literal["pointwise"]
    name: str = "judge"
    """Name of the score, for views: `score: judge`."""
    model: str
    rubric: str = RUBRIC
    low: int = Field(0, ge=0, le=9)
    high: int = Field(5, ge=1, le=9)
    """The highest score. Scores are the whole numbers from low to high, one digit each."""
    chain_of_thought: bool = False
    estimator: Estimator = "auto"
    """Method of reading the judge. `logprob`: by the labels' probabilities, after the thought if it
    thinks. `sampled`: by the shares of `samples` written verdicts. `auto`: `logprob` if its model shows
    log-probabilities, else `sampled`."""
    samples: int | None = Field(None, ge=1, le=10_000)
    """Thoughts or written verdicts drawn for each candidate, and averaged. None: 4 verdicts, 1 thought."""
    sampling: Sampling | None = None
    """Sampling of thoughts and of written verdicts; label probabilities are not sampled. None:
    temperature 1, at most 2048 tokens; with `chain_of_thought` at most 256."""
    template: str = RATING
    """The question to the judge. Can use: conversation (text), prompt (messages), answer, rubric, low, high.
    `{{ answer | quoted }}` puts "> " before each line, so that an answer cannot imitate the template."""

    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})

    def facts_made(self) -> frozenset[str]:
        return frozenset({f"score:{self.name}", "ranking"})

    def problem(self) -> tuple[str, str] | None:
        if self.high <= self.low:
            return "high", f"expected more than low ({self.low}), found {self.high}"
        example = EXAMPLE | {"answer": "Hi", "rubric": "Points:", "low": 0, "high": 5}
        return self._asking().problem() or template_problem(self.template, **example)

    def judging(self) -> Judging:
        sample = Sample("", 0, EXAMPLE_PROMPT)
        messages = self._conversation(sample, Candidate(0, "Hi!", "", "", ""))
        return Judging(self.model, messages, self._labels(), ANSWER, self._asking())

    def _asking(self) -> Asking:
        return Asking(
            self.estimator, self.samples, self.sampling, self.chain_of_thought, _REASONING
        )

    def _labels(self) -> tuple[str, ...]:
        return tuple(str(k) for k in range(self.low, self.high + 1))

    def expected_calls(self, sample: Expected) -> float:
        return sample.texts * self.judging().calls()

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        candidates = sample.answered()
        answers = await ask_labels(
            models,
            self.model,
            [self._conversation(sample, candidate) for candidate in candidates],
            self._labels(),
            prefix=ANSWER,
            asking=self._asking(),
            salt=lambda i, draw: ("reason", self.name, candidates[i].index, draw),
        )
        for candidate, answer in zip(candidates, answers, strict=True):
            value, variance = answer.mean(expected_score), answer.variance(expected_score)
            sample.scores.append(
                Score(
                    name=self.name,
                    candidate=candidate.index,
                    value=None if value is None else round(value, DECIMALS),
                    detail=answer.reasoning,
                    calls=answer.calls,
                    estimator=answer.read.estimator,
                    draws=len(answer.draws),
                    variance=None if variance is None else round(variance, DECIMALS),
                )
            )
        return sample

    def _conversation(self, sample: Sample, candidate: Candidate) -> list[Message]:
        text = render(
            self.template,
            conversation=sample.prompt_text(),
            prompt=sample.prompt,
            answer=candidate.text,
            rubric=self.rubric,
            low=self.low,
            high=self.high,
        )
        return [{"role": "user", "content": text}]


def expected_score(probabilities: Mapping[str, float]) -> float:
    """The expected score: sum_k k * P(k) over integer labels, in [low, high]."""
    return sum(int(label) * p for label, p in probabilities.items())
