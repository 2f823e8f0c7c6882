"""Samples -> prompts with an answer to imitate, for supervised fine-tuning.

`final` is the dataset of Constitutional AI's first stage (Bai et al. 2022): all last revisions,
judged or not. `best` is best-of-n, and with `min_score` rejection sampling.

If a filter dropped the last revision, `final` takes the answer before it, in the end the first one,
and adds a note, since the revisions were to replace that answer. `revised` takes only revisions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import model_validator

from factory.core.config import Config
from factory.core.records import Candidate, Sample
from factory.export.features import Features
from factory.export.schemas import SFT
from factory.export.view import Drop, FolderName, Note, Reasoning, Truncated, answer, unfit
from factory.scorers.comparison import rank


class SftView(Config):
    """Prompts, each with an answer."""

    kind: Literal["sft"] = "sft"
    name: FolderName | None = None
    """Folder of the dataset; None: the kind."""
    pick: Literal["final", "revised", "initial", "best", "all"] = "final"
    """`final`: the last revision of each answer that no filter dropped; the answer itself, if it was
    never revised or all its revisions were dropped. `revised`: the same of revised answers only.
    `initial`: the answers before revision. `best`: the answer of each prompt with the highest score.
    `all`: initial and revised answers."""
    score: str | None = None
    """Name of the score that `best` uses. None: the judge's verdicts; without verdicts, the only score
    (the combined one, if there is one)."""
    min_score: float | None = None
    """`best` must score at least this, on the score's own scale; else the prompt is dropped."""
    truncated: Truncated = "drop"
    """Answers that were cut at max_tokens: `drop` or `keep`."""
    reasoning: Reasoning = "drop"
    """The thought before an answer: `drop`, or `keep` as the model's own chat template trains it."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_name(cls, data: Any) -> Any:
        """Accept `keep_truncated`, the option's name in recipes of older runs."""
        if not isinstance(data, dict) or not isinstance(data.get("keep_truncated"), bool):
            return data
        rest = {name: value for name, value in data.items() if name != "keep_truncated"}
        return {"truncated": "keep" if data["keep_truncated"] else "drop", **rest}

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.score is not None and self.pick != "best":
            raise ValueError(f"score: {self.score} is for pick: best; {self.pick} needs no score")
        if self.min_score is not None and self.pick != "best":
            raise ValueError(
                f"min_score: {self.min_score:g} is for pick: best; {self.pick} needs no score"
            )
        return self

    def rows(self, sample: Sample) -> Iterator[dict[str, Any] | Drop | Note]:
        for picked in self._picked(sample):
            if not isinstance(picked, Candidate):
                yield picked
                continue
            reason = unfit(picked, self.truncated)
            if reason is not None:
                yield reason
                continue
            if self.pick in ("final", "revised") and _stands_in(sample, picked):
                yield Note("revision-dropped")
            yield {
                "prompt": sample.prompt,
                "completion": answer(picked, self.reasoning),
                "origin": picked.origin,
                "finish_reason": picked.finish_reason,
                "prompt_id": sample.id,
            }

    def _picked(self, sample: Sample) -> Iterator[Candidate | Drop | Note]:
        match self.pick:
            case "final":
                for _, newest in sample.chains():
                    if not newest:
                        yield Drop("filtered")
                    yield from newest
            case "revised":
                for initial, newest in sample.chains():
                    if not newest:
                        yield Drop("filtered")
                    elif newest[0] is not initial:
                        yield from newest
                    else:
                        is_revised = any(c.parent == initial.index for c in sample.candidates)
                        yield Drop("revision-dropped" if is_revised else "no-revision")
            case "initial":
                yield from (c for c in sample.candidates if c.parent is None)
            case "all":
                yield from sample.candidates
            case "best":
                yield from self._best(sample)

    def _best(self, sample: Sample) -> Iterator[Candidate | Drop | Note]:
        """The best of the usable answers."""
        ranking = rank(sample, self.score)
        if isinstance(ranking, Drop):
            yield ranking
            return
        scored = [c for c in sample.kept() if c.index in ranking.scores]
        reasons = {c.index: unfit(c, self.truncated) for c in scored}
        usable = [c for c in scored if reasons[c.index] is None]
        if not usable:
            yield scored[0] if scored else Drop("not-scored")
            return
        best = max(usable, key=lambda c: ranking.scores[c.index])
        if self.min_score is not None and ranking.scores[best.index] < self.min_score:
            yield Drop("score-too-low")
            return
        cut = sum(reason == Drop("truncated") for reason in reasons.values())
        yield from (Note("truncated") for _ in range(cut))
        yield best

    def chosen_among(self, sample: Sample) -> int | None:
        """n, if the sample's row is a plain best of n scored answers; else None."""
        if self.pick != "best" or self.min_score is not None:
            return None
        ranking = rank(sample, self.score)
        return None if isinstance(ranking, Drop) else len(ranking.scores)

    def needs(self) -> frozenset[str]:
        if self.pick == "best":
            return frozenset({"candidates", f"score:{self.score}" if self.score else "ranking"})
        # `final` too: the newest version of an answer that was never revised is the answer itself.
        return frozenset({"candidates"})

    def features(self) -> Features:
        return SFT


def _stands_in(sample: Sample, answer: Candidate) -> bool:
    """True if a filter dropped a revision of this answer with another text. (A revision that changed
    nothing is dropped as a duplicate and does not count.)"""
    line = {answer.index}
    for candidate in sample.candidates:  # parents come first
        if candidate.parent in line:
            line.add(candidate.index)
            if candidate.text.lower().split() != answer.text.lower().split():
                return True
    return False
