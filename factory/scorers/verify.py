"""Check each candidate's answer against the sample's reference. No model is called.

Score 1: right; 0: wrong; None: unparsed, which is not wrong.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from factory.core.errors import SampleError
from factory.core.records import Sample, Score
from factory.math.answers import How, check_aside
from factory.stages.base import Models, Scorer, pattern_problem

SHOWN_CHARS = 200
"""Most characters of the read answer in a score's detail."""


class Verify(Scorer):
    """Check answers against the reference."""

    kind: Literal["verify"] = "verify"
    name: str = Field("verify", min_length=1)
    """Name of the score, for views: `score: verify`."""
    how: How = "math"
    """Method of comparing with the reference. `math`: the final answer has the same value. `gsm8k`: the
    same number after `####`. `exact`: the same words. `pattern`: the last match of `pattern` equals it."""
    pattern: str | None = None
    """A regular expression for `how: pattern`. Its first group, if it has one, is the answer."""

    needs_reference: ClassVar[bool] = True
    may_be_unparsed: ClassVar[bool] = True

    def problem(self) -> tuple[str, str] | None:
        if self.how == "pattern" and not self.pattern:
            return "pattern", "how: pattern needs one, such as 'answer is (\\w+)'"
        if self.how != "pattern" and self.pattern is not None:
            return "pattern", f"how: {self.how} does not use it; set how: pattern"
        return pattern_problem(self.pattern)

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        if sample.reference is None or not sample.reference.strip():
            raise SampleError(
                "no reference answer to check against; set source.columns.reference to the field "
                "that holds it",
                is_permanent=True,
            )
        for candidate in sample.answered():
            is_right, read = await self._check(candidate.text, sample.reference)
            is_cut = is_right is False and candidate.finish_reason == "length"
            if is_cut:  # what was read last may be no answer yet
                is_right = None
            word = {True: "correct", False: "wrong", None: "unparsed"}[is_right]
            detail = f"{word}{', cut' if is_cut else ''}: {read[:SHOWN_CHARS]}" if read else word
            value = None if is_right is None else float(is_right)
            sample.scores.append(Score(self.name, candidate.index, value, detail))
        return sample

    async def _check(self, answer: str, reference: str) -> tuple[bool | None, str]:
        try:
            return await check_aside(answer, reference, self.how, self.pattern)
        except ValueError as error:
            remedy = f"{error} (how: {self.how}; source.columns.reference names its field)"
            raise SampleError(remedy, is_permanent=True, raw=reference) from error
