"""Samples -> prompts with an answer worth imitating, for supervised fine-tuning.

`final` is the dataset of Constitutional AI's first stage (Bai et al. 2022): all last revisions,
judged or not. `best` is best-of-n, and with `min_score` rejection sampling.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from factory.config import Config
from factory.export import schemas
from factory.export.evidence import rank
from factory.export.view import Drop, FolderName, answer, is_blank
from factory.records import Candidate, Sample

if TYPE_CHECKING:
    from datasets import Features


class SftView(Config):
    """Prompts, each with an answer."""

    kind: Literal["sft"] = "sft"
    name: FolderName | None = None
    """Folder of the dataset; None: the kind."""
    pick: Literal["final", "initial", "best", "all"] = "final"
    """`final`: the last revision of each answer. `initial`: the answers before revision.
    `best`: the one answer a prompt with the highest score. `all`: initial and revised answers."""
    score: str | None = None
    """Name of the score that `best` goes by. None: the judge's verdicts; without any, the only
    score there is, the combined one before its parts."""
    min_score: float | None = None
    """`best` must score at least this, on the score's own scale; else the prompt makes no row."""
    keep_truncated: bool = True
    """Keep answers that were cut at max_tokens. They teach a model to stop mid-sentence, but short
    runs consist of little else."""

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.score is not None and self.pick != "best":
            raise ValueError(f"score: {self.score} is for pick: best; {self.pick} needs no score")
        if self.min_score is not None and self.pick != "best":
            raise ValueError(
                f"min_score: {self.min_score:g} is for pick: best; {self.pick} needs no score"
            )
        return self

    def rows(self, sample: Sample) -> Iterator[dict[str, Any] | Drop]:
        for picked in self._picked(sample):
            yield picked if isinstance(picked, Drop) else self._row(sample, picked)

    def _row(self, sample: Sample, candidate: Candidate) -> dict[str, Any] | Drop:
        return self._unfit(candidate) or {
            "prompt": sample.prompt,
            "completion": answer(candidate),
            "origin": candidate.origin,
            "prompt_id": sample.id,
        }

    def _picked(self, sample: Sample) -> Iterator[Candidate | Drop]:
        match self.pick:
            case "final":
                for _, newest in sample.chains():
                    if not newest:
                        yield Drop("filtered")
                    yield from newest
            case "initial":
                yield from (c for c in sample.candidates if c.parent is None)
            case "all":
                yield from sample.candidates
            case "best":
                yield self._best(sample)

    def _best(self, sample: Sample) -> Candidate | Drop:
        """The best of the answers that can be used at all."""
        ranking = rank(sample, self.score)
        if isinstance(ranking, Drop):
            return ranking
        scored = [c for c in sample.kept() if c.index in ranking.scores]
        usable = [c for c in scored if self._unfit(c) is None]
        if not usable:
            return scored[0] if scored else Drop("not-scored")
        best = max(usable, key=lambda c: ranking.scores[c.index])
        if self.min_score is not None and ranking.scores[best.index] < self.min_score:
            return Drop("score-too-low")
        return best

    def chosen_among(self, sample: Sample) -> int | None:
        """n, where the sample's row is a plain best of n scored answers."""
        if self.pick != "best" or self.min_score is not None:
            return None
        ranking = rank(sample, self.score)
        return None if isinstance(ranking, Drop) else len(ranking.scores)

    def _unfit(self, candidate: Candidate) -> Drop | None:
        if candidate.drop_reason is not None:
            return Drop("filtered")
        if is_blank(candidate):
            return Drop("empty")
        if candidate.finish_reason == "length" and not self.keep_truncated:
            return Drop("truncated")
        return None

    def needs(self) -> frozenset[str]:
        if self.pick == "best":
            return frozenset({"candidates", f"score:{self.score}" if self.score else "ranking"})
        # `final` too: an answer that was never revised is its own newest.
        return frozenset({"candidates"})

    def features(self) -> Features:
        return schemas.sft()
