"""The interface of a view: a pure function from one sample to rows of a dataset.

A view is a frozen config (a part of the recipe) with three methods. It never calls a model and
looks at one sample at a time, so any view can be made again from the traces at no cost. It gives a
reason for every row it drops, and a note for a row that may surprise the reader.

Cut answers: trainers put an end token after every answer. A row with an answer that was cut at
max_tokens would teach a model to stop mid-sentence; such a pair would teach that complete beats cut.
So views that train on answers drop cut ones, unless `truncated: keep` is set. Rows then mark them
(`finish_reason`), and the trainer leaves the end token off. An answer that was cut before its thought
ended has no text and is always dropped.

Thoughts are left out, unless a view says `reasoning: keep`. Its rows then hold the thought in the
message's key `REASONING`, and `export` puts it into the form that the model's own chat template
trains (`factory.engines.thought_form`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

import msgspec
from pydantic import Field

from factory.core.records import Candidate, Drop, Sample

if TYPE_CHECKING:
    from factory.export.features import Features
    from factory.export.report import People

FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=100)]
"""A folder's name without dots (temporary ones begin so) or slashes: a view stays inside its run."""

REASONS = {
    "contradictory": "the evidence points both ways",
    "differs-in-reasoning-only": "both answers are the same text after different thoughts, which "
    "`reasoning: drop` leaves out",
    "empty": "an answer is blank",
    "filtered": "a filter stage dropped the answer",
    "identical": "both answers are the same text",
    "margin-too-small": "better by no more than `min_margin`",
    "no-labels": "no step of the answer could be labeled",
    "no-reference": "the prompt has no reference answer",
    "no-revision": "the answer was never revised",
    "no-steps": "the answer has no labeled steps",
    "not-judged": "no judge compared the two",
    "not-scored": "the answer has no score",
    "order-decided": "the judge's choice changed with the order shown, and `consistent` is set",
    "reviewed-both-bad": "people find both answers bad",
    "reviewed-tie": "people find neither answer better",
    "reviewers-disagree": "no choice has more than half of the people who looked",
    "revision-dropped": "a filter dropped the revision, and `pick: revised` takes no other answer",
    "revision-not-preferred": "the judge prefers the initial answer",
    "score-too-low": "even the best answer scores below `min_score`",
    "several-scorers": "more than one stage labeled the steps and none named: set `steps`",
    "several-scores": "more than one score and none named: set `score`",
    "tie": "neither answer is better",
    "too-few-scored": "too few answers have a score",
    "truncated": "cut off at max_tokens",
    "unparsed": "the judge's answer could not be read",
}
"""Drop reasons of the built-in views. The keys must not change: manifests hold them."""


NOTES = {
    "differs-in-reasoning-only": "both answers are the same text after different thoughts",
    "revision-dropped": "a filter dropped the revision, and the answer before it stands in the row",
    "truncated": "an answer cut at max_tokens was left out of a choice or a list of several",
}
"""Notes of the built-in views. The keys must not change: manifests hold them."""

Truncated = Literal["drop", "keep"]
Reasoning = Literal["drop", "keep"]
REASONING = "reasoning"
"""Key of the thought in the messages of a view that keeps thoughts."""


class Note(msgspec.Struct, frozen=True):
    """A remark on a row, counted beside the drops."""

    reason: str
    """A key of `NOTES` (a user's own view may have others)."""


class View(Protocol):
    """A dataset that is made from the traces."""

    @property
    def kind(self) -> str: ...

    @property
    def name(self) -> str | None:
        """The dataset's folder; None: its kind."""

    def rows(self, sample: Sample) -> Iterator[dict[str, Any] | Drop | Note]:
        """The sample's rows (a value for each feature), a drop for each row not made, and notes."""

    def needs(self) -> frozenset[str]:
        """Facts that the recipe's stages must make: `candidates`, `revisions`,
        `verdicts:revision_vs_initial`, `score:<name>`, `score:*` (any one score), or `ranking`
        (any one score, or verdicts over all pairs).
        """

    def features(self) -> Features: ...

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


@runtime_checkable
class Chooses(Protocol):
    """A view whose row may be a choice among several answers."""

    def chosen_among(self, sample: Sample) -> int | None:
        """n, if the sample's row is a plain best of n scored answers; else None."""


@runtime_checkable
class AppliesDecisions(Protocol):
    """A view that follows people's decisions."""

    def people(self) -> People:
        """What became of the decisions, after the last sample."""


@runtime_checkable
class WritesBeside(Protocol):
    """A view that writes another file beside its dataset."""

    def write_beside(self, folder: Path) -> None:
        """Write the file, once the dataset is in place in `folder`."""


def folder_of(view: View) -> str:
    return view.name or view.kind


def answer(candidate: Candidate, reasoning: Reasoning = "drop") -> list[dict[str, Any]]:
    """The candidate as TRL's completion: a list of one assistant message."""
    message: dict[str, Any] = {"role": "assistant", "content": candidate.text}
    if reasoning == "keep":
        message[REASONING] = (candidate.reasoning or "").strip() or None
    return [message]


def unfit(candidate: Candidate, truncated: Truncated) -> Drop | None:
    """The reason why no trainer should see this answer, regardless of its scores. None: it may."""
    if candidate.drop_reason is not None:
        return Drop("filtered")
    if not candidate.text.strip():  # cut before its thought ended
        return Drop("truncated" if candidate.finish_reason == "length" else "empty")
    if truncated == "drop" and candidate.finish_reason == "length":
        return Drop("truncated")
    return None
