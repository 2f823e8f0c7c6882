r"""Score each step of each candidate with a process reward model, in one prefill per solution.

The candidate's text is split into steps and laid out as in the model's training
(`engines.base.Scoring`). The model's logits are read at the end of each step. P(the step is correct) is
their softmax over two columns (wrong, right) or three (PRM800K's ratings -1, 0, +1), or the sigmoid of
a single one. For Qwen2.5-Math-PRM, and models that `factory train prm` makes with a tag:

    {kind: process, model: prm, split: blank_line, separator: "", tag: "<extra_0>"}

Models that answer with a token work too: the engine reads the logits of the two tokens at each tag.
Math-Shepherd's model, which writes "+" or "-" after each line, reads prompt and solution as one text.
Its scores equal those of the code on its model card:

    models:
      shepherd: {model: PATH, task: token_classify, label_tokens: ["▁+", "▁-"]}
    stages:
      - {kind: process, model: shepherd, layout: text, tag: "ки", good: first, aggregate: minimum}

(Label tokens are written as in the vocabulary: SentencePiece's "▁+" is a plus after a space.)

A solution's score is the product of its steps' P (Lightman et al. 2305.20050, where the neutral
rating counts as correct), or their minimum, last or mean. Models trained on Monte Carlo labels do
better with the last, those trained on human labels with product or minimum.

A step's label is True if P is above one half, False if below, and None at exactly one half.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from factory.core.errors import EngineError
from factory.core.records import Candidate, Sample, Score, StepLabels
from factory.engines.base import Completion, Scoring, Task, TextScoring
from factory.math.steps import Split, split_steps
from factory.scorers.comparison import DECIMALS
from factory.scorers.labels import leaning
from factory.stages.base import EXAMPLE_PROMPT, EXAMPLE_STEP, NOT_SAMPLED, Models, Question, Scorer

Aggregate = Literal["product", "minimum", "last", "mean"]

NO_STEPS = "no steps"
NOT_FINITE = "not finite"
"""Details of scores that are None. The second: the model's output was NaN or infinite, as with too low
a precision (float16) or broken weights."""


class ProcessReward(Scorer):
    """Score each step with a process reward model."""

    kind: Literal["process"] = "process"
    name: str = "process"
    """Name of the score and of the steps' labels, for views: `score: process`, `steps: process`."""
    model: str
    split: Split = "newline"
    """Method of splitting the candidate's text into steps."""
    steps: str | None = None
    """Name of step labels whose steps are scored, instead of splitting the text."""
    layout: Literal["chat", "text"] = "chat"
    """The model's input. `chat`: the prompt by the chat template, then the steps, each tokenized
    by itself. `text`: prompt and steps as one text, tokenized whole: a space after the prompt, a
    space and the tag after each step, the separator between steps."""
    separator: str = "\n"
    """Text after each step. Without a tag, the step is read at its last token."""
    tag: str = ""
    """A single token after each step, at which the step is read."""
    good: Literal["last", "first"] = "last"
    """The column that means "right", of two or three. It is the last in our models and Qwen's."""
    neutral_is_good: bool = True
    """With three columns: the middle one, PRM800K's rating 0, counts as correct."""
    aggregate: Aggregate = "product"
    """Function from the steps' P(correct) to the solution's score, in [0, 1]."""

    may_be_unparsed: ClassVar[bool] = True

    def splits(self) -> bool:
        return True

    def facts_made(self) -> frozenset[str]:
        return super().facts_made() | {f"steps:{self.name}"}

    def facts_needed(self) -> frozenset[str]:
        return frozenset({"candidates", *([f"steps:{self.steps}"] if self.steps else [])})

    @classmethod
    def task(cls) -> Task:
        return "token_classify"

    def problem(self) -> tuple[str, str] | None:
        if not self.separator and not self.tag:
            return "separator", "steps are read at the separator or at the tag: set one of them"
        if self.layout == "text" and not self.tag.strip():
            return (
                "tag",
                "layout: text reads steps at the tag; set the one the model was trained with",
            )
        return None

    def examples(self) -> list[tuple[str, Question]]:
        scoring = self._scoring([EXAMPLE_STEP])
        return [(self.model, Question(EXAMPLE_PROMPT, NOT_SAMPLED, scoring=scoring))]

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        solutions = [(c, self._steps(sample, c)) for c in sample.answered()]
        questions = [
            Question(sample.prompt, NOT_SAMPLED, scoring=self._scoring(steps))
            for _, steps in solutions
            if steps
        ]
        answers = iter(await models.ask(self.model, questions))
        for candidate, steps in solutions:
            if not steps:
                sample.scores.append(Score(self.name, candidate.index, None, NO_STEPS))
                continue
            answer = next(answers)
            ps = self._probabilities(steps, answer.completion)
            scores = [None if p is None else round(p, DECIMALS) for p in ps]
            labels = [leaning(p) for p in ps]
            calls = [answer.call]
            sample.step_labels.append(
                StepLabels(self.name, candidate.index, steps, scores, labels, calls)
            )
            known = [p for p in ps if p is not None]
            is_whole = len(known) == len(ps)
            value = aggregated(known, self.aggregate) if is_whole else None
            detail = "" if is_whole else NOT_FINITE
            sample.scores.append(Score(self.name, candidate.index, value, detail, calls))
        return sample

    def _scoring(self, steps: Sequence[str]) -> Scoring:
        made = TextScoring if self.layout == "text" else Scoring
        return made(tuple(steps), self.separator, self.tag)

    def _steps(self, sample: Sample, candidate: Candidate) -> list[str]:
        if self.steps is None:
            return split_steps(candidate.text, self.split)
        of_it = (x for x in sample.step_labels if x.candidate == candidate.index)
        return next((x.steps for x in of_it if x.name == self.steps), [])

    def _probabilities(self, steps: list[str], completion: Completion) -> list[float | None]:
        """P(correct) of each step. None: the model's outputs were not finite."""
        rows = completion.scores or []
        if len(rows) != len(steps):
            raise EngineError(
                f"the model '{self.model}' gave outputs for {len(rows)} steps where {len(steps)} "
                "were asked: it is not served as a process reward model"
            )
        for logits in rows:
            if not 1 <= len(logits) <= 3:
                raise EngineError(
                    f"the model '{self.model}' has {len(logits)} labels a step; a process reward "
                    "model has 2 (wrong, right), 3 (ratings -1, 0, +1) or 1 (a logit): "
                    "name another model"
                )
        return [
            correct(logits, good=self.good, neutral_is_good=self.neutral_is_good)
            if all(map(math.isfinite, logits))
            else None
            for logits in rows
        ]


def correct(
    logits: Sequence[float], *, good: Literal["last", "first"], neutral_is_good: bool
) -> float:
    """P(the step is correct), in [0, 1]: the sigmoid of one logit, or the softmax of the good columns."""
    if len(logits) == 1:
        logits = (0.0, logits[0])  # the sigmoid is the softmax against 0
    elif good == "first":
        logits = logits[::-1]
    highest = max(logits)
    weights = [math.exp(logit - highest) for logit in logits]
    return sum(weights[1:] if neutral_is_good else weights[-1:]) / sum(weights)


def aggregated(ps: Sequence[float], how: Aggregate) -> float:
    """The solution's score, in [0, 1], from at least one step's P. Rounded to six significant digits, not
    decimals, since a product of many steps is small and still ranks solutions."""
    match how:
        case "product":
            value = math.prod(ps)
        case "minimum":
            value = min(ps)
        case "last":
            value = ps[-1]
        case "mean":
            value = sum(ps) / len(ps)
    return float(f"{value:.{DECIMALS}g}")


def trained_layout(folder: Path) -> dict[str, str]:
    """`separator` and `tag` that a model was trained with, if `factory train prm` made it."""
    try:
        record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        steps = record["steps_as"]
        return {"separator": str(steps["separator"]), "tag": str(steps["tag"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
