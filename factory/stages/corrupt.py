"""Make candidates with known right and wrong steps from a worked solution. No model is called, so
scorers can be trained and measured on certain labels.

In: `Sample.reference`, a solution of one step per line that ends with `#### <answer>` (GSM8K's form).
Out: the solution itself as a candidate, then different copies with one error each
(`factory/math/error_injection.py`), at a step drawn uniformly from those that can hold one. A step's
label is True before the error, False at it, and None after it, where right and wrong have no meaning.
The answer's line is the last step. The score of a copy is 0: its reasoning is wrong, even if its answer
is right, as after a skipped step. The solution's own labels are as good as the reference.
"""

from __future__ import annotations

import random
from typing import Literal

from pydantic import Field

from factory.core.errors import SampleError
from factory.core.records import Candidate, Sample, Score, StepLabels
from factory.math.answers import MARK, final_line
from factory.math.equations import without_annotations
from factory.math.error_injection import Error, Solution
from factory.math.steps import split_steps
from factory.stages.base import Expected, Models, Stage


class Corrupt(Stage):
    """Make right and wrong solutions with known steps."""

    kind: Literal["corrupt"] = "corrupt"
    name: str = Field("known", min_length=1)
    """Name of the labels and of the score, for views: `steps: known`."""
    n: int = Field(1, ge=1, le=10_000)
    """Copies with an error per prompt; fewer if the solution has no room for more."""
    errors: list[Error] = Field(
        ["changed_number", "swapped_operation", "skipped_step"], min_length=1
    )
    """Kinds of error. Each copy has one."""

    def facts_made(self) -> frozenset[str]:
        return frozenset({"candidates", f"steps:{self.name}", f"score:{self.name}", "ranking"})

    def expected_after(self, sample: Expected) -> Expected:
        return sample._replace(answers=sample.answers + 1 + self.n)

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        steps = _steps(sample.reference)
        self._add(sample, "reference", steps, None, "correct")
        rng = random.Random(models.seed("corrupt", self.name))
        for wrong, at, error in self._copies(Solution(steps, sample.prompt_text()), rng):
            self._add(sample, "corrupt", wrong, at, f"{error} at step {at + 1} of {len(wrong)}")
        return sample

    def _copies(self, solution: Solution, rng: random.Random) -> list[tuple[list[str], int, Error]]:
        """Different copies, with wrong step and error. Every step gets one before any gets a second."""
        copies: list[tuple[list[str], int, Error]] = []
        positions = list(range(len(solution.lines)))
        while positions:
            rng.shuffle(positions)
            for at in positions.copy():
                seen = [copy[0] for copy in copies]
                for error in rng.sample(self.errors, len(self.errors)):
                    faults = solution.faults(at, error, rng)
                    fault = next((lines for lines in faults if lines not in seen), None)
                    if fault is not None:
                        copies.append((fault, at, error))
                        break
                else:
                    positions.remove(at)
                if len(copies) == self.n:
                    return copies
        return copies

    def _add(
        self, sample: Sample, origin: str, steps: list[str], wrong: int | None, detail: str
    ) -> None:
        index = len(sample.candidates)
        first = len(steps) if wrong is None else wrong
        labels = [True if i < first else False if i == first else None for i in range(len(steps))]
        sample.candidates.append(
            Candidate(index=index, text="\n".join(steps), origin=origin, model="", call="")
        )
        sample.step_labels.append(
            StepLabels(
                name=self.name,
                candidate=index,
                steps=steps,
                scores=[None if label is None else float(label) for label in labels],
                labels=labels,
            )
        )
        value = 1.0 if wrong is None else 0.0
        sample.scores.append(Score(self.name, index, value, detail))


def _steps(reference: str | None) -> list[str]:
    """The lines of a worked solution, including the answer's."""
    steps = split_steps(without_annotations(reference or ""), "newline")
    if len(steps) < 2 or not steps[-1].startswith(MARK) or not final_line(steps[-1]):
        found = "none" if not steps else f"{steps[-1][:100]!r} as its last line"
        raise SampleError(
            "expected a reference with a step per line and then a line `#### <answer>`, found "
            f"{found} in {len(steps)} lines; use problems with worked solutions, such as GSM8K or "
            "reasoning-gym:chain_sum",
            is_permanent=True,
            raw=reference or "",
        )
    return steps
