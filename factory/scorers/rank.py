"""Rank a sample's candidates by its verdicts, and score each by its strength. No model is called.

Each parsed verdict is one comparison, with the judge's P as a soft outcome. Unparsed verdicts and
verdicts on dropped candidates are left out. Strengths are comparable only within one sample, whose mean
is 0. Bradley-Terry strengths account for the strength of the opponents, as needed for a Swiss
tournament; a mean of P does not. Elo ratings depend on the order of the verdicts (see `factory.stats`).
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import Field

from factory.core.errors import SampleError
from factory.core.records import Sample, Score
from factory.core.words import words
from factory.scorers.comparison import DECIMALS, is_known
from factory.stages.base import Models, Scorer
from factory.stats.outcome import MIN_REGULARISATION, REGULARISATION, Outcome, Strengths


class Rank(Scorer):
    """Score candidates by their verdicts against each other."""

    kind: Literal["rank"] = "rank"
    name: str = "rank"
    """Name of the score, for views: `score: rank`. Views that do not name it use the verdicts."""
    method: Literal["bradley_terry", "elo"] = "bradley_terry"
    judge: str | None = None
    """Name of the judge whose verdicts are used. None: all judges, with equal weight."""
    regularisation: float = Field(REGULARISATION, ge=MIN_REGULARISATION)
    """Bradley-Terry: pull of strengths to 0, in comparisons. Smaller trusts few verdicts more."""
    length_control: bool = False
    """Bradley-Terry: remove the advantage of longer answers from the strengths."""
    gamma: float | None = None
    """A known effect of length; > 0: longer wins. None: fitted to each sample, on weak evidence."""
    resamples: int = Field(200, ge=0, le=100_000)
    """0: scores without an interval. Above 0: with Bradley-Terry's 95% interval, which does not depend on
    the number; or with the central 95% of this many replays for Elo, which is no confidence interval."""

    def facts_needed(self) -> frozenset[str]:
        named = set() if self.judge is None else {f"judge:{self.judge}"}
        return frozenset({"candidates", "verdicts:*", *named})

    def problem(self) -> tuple[str, str] | None:
        if self.length_control and self.method == "elo":
            return "length_control", "Elo does not control for length; use method: bradley_terry"
        if self.gamma is not None and not self.length_control:
            return "gamma", f"gamma {self.gamma} does nothing without length_control: true"
        return None

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        compared, outcomes = self._outcomes(sample)
        found = self._strengths(sample, compared, outcomes, models)
        met = Counter(player for outcome in outcomes for player in outcome[:2])
        values = [_rounded(value) for value in found.values]
        for candidate in sample.answered():
            if candidate.index not in compared:
                sample.scores.append(Score(self.name, candidate.index, None, "not compared"))
                continue
            player = compared[candidate.index]
            place = 1 + sum(other > values[player] for other in values)
            verdicts = f"{met[player]} verdict{'s' if met[player] > 1 else ''}"
            detail = f"rank {place} of {len(compared)}, {verdicts}"
            low, high = (
                _rounded(ends[player]) if ends else None for ends in (found.low, found.high)
            )
            score = Score(self.name, candidate.index, values[player], detail, low=low, high=high)
            sample.scores.append(score)
        return sample

    def _outcomes(self, sample: Sample) -> tuple[dict[int, int], list[Outcome]]:
        """(index of each candidate with a verdict -> its number as a player, the outcomes)."""
        kept = {candidate.index for candidate in sample.answered()}
        read = [
            (v.a, v.b, v.p)
            for v in sample.verdicts
            if self.judge in (None, v.judge) and {v.a, v.b} <= kept and is_known(v.p)
        ]
        for a, b, p in read:
            if a == b or not 0 <= p <= 1:  # a user's own judge may have made it
                raise SampleError(
                    f"a verdict on candidates {a} and {b} has p {p}; expected two candidates and "
                    "a probability, in [0, 1]: correct the stage that judged",
                    is_permanent=True,
                )
        indices = sorted({index for a, b, _ in read for index in (a, b)})
        players = {index: player for player, index in enumerate(indices)}
        return players, [Outcome(players[a], players[b], p) for a, b, p in read]

    def _strengths(
        self, sample: Sample, players: dict[int, int], outcomes: list[Outcome], models: Models
    ) -> Strengths:
        from factory.stats.bradley_terry import bradley_terry
        from factory.stats.elo import elo

        if self.method == "elo":
            seed = models.seed("rank", self.name)
            return elo(len(players), outcomes, resamples=self.resamples, seed=seed)
        lengths = [words(sample.candidates[index].text) for index in players]
        return bradley_terry(
            len(players),
            outcomes,
            regularisation=self.regularisation,
            lengths=lengths if self.length_control else None,
            gamma=self.gamma,
            resamples=self.resamples,
        )


def _rounded(value: float) -> float:
    """The value rounded to the records' decimals, and never -0.0."""
    return round(value, DECIMALS) + 0.0
