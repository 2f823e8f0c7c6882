"""Records that traces are made of: a prompt and everything learned about it.

Every record can be traced to the model calls behind it: `call` is the ledger key of that call, in
hexadecimal. Records hold nothing that depends on timing (seconds, cache hits, order of arrival), so
that two runs of one recipe write the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypedDict

import msgspec


class Message(TypedDict):
    """One turn of a conversation. `role`: system, user or assistant."""

    role: str
    content: str


class Candidate(msgspec.Struct):
    """An answer to the prompt."""

    index: int
    """Position in `Sample.candidates`."""
    text: str
    origin: str
    """Name of the stage that made it: `generate`, `revise` or a user's own."""
    model: str
    """Recipe name of the model that wrote it."""
    call: str
    parent: int | None = None
    """Index of the candidate that this one revises. None: an initial answer."""
    round: int = 0
    """0: an initial answer. r >= 1: made by the r-th revision."""
    finish_reason: str = "stop"
    """`stop`: ended by itself. `length`: cut at max_tokens."""
    output_tokens: int = 0
    drop_reason: str | None = None
    """Reason for which a filter dropped it. None: kept. Dropped candidates stay in the trace."""
    reasoning: str | None = None
    """The model's thought before `text`. None: it did not think."""
    reasoning_tokens: int = 0
    """Of the output tokens, those of the thought."""


class Critique(msgspec.Struct):
    """A model's critique of a candidate by some principles."""

    candidate: int
    round: int
    """Revision round that it is for, from 1."""
    principle_ids: list[str]
    text: str
    call: str
    request: str
    """The user's turn that asked for it. A revision continues the same conversation."""
    few_shot: int = 0
    """Number of worked examples of the constitution at the start of that conversation."""
    reasoning: str | None = None
    """The critic's thought before `text`. None: it did not think."""


class Reading(msgspec.Struct):
    """One reading of a judge: one principle, one order of the two answers."""

    principle_id: str
    is_swapped: bool
    """True: `Verdict.b` was shown first, as answer A."""
    p: float | None
    """P(`Verdict.a` is better), in [0, 1], regardless of the order shown. None: unparsed."""
    label_mass: float
    """Total probability that the judge gave to the labels, in [0, 1]. Small: it did not answer."""
    call: str
    """Call that read the label; of several draws, the first one's. Empty: its thought never ended."""
    reasoning: str = ""
    """Text that the judge thought or wrote, of all draws."""
    reasoning_call: str = ""
    """Call that wrote `reasoning`, if another call read the label; of the first draw."""
    estimator: str = "logprob"
    """`logprob`: p is read from the labels' probabilities. `sampled`: it is a share of verdicts."""
    draws: int = 1
    """Number of thoughts or verdicts drawn for p, unparsed ones included."""
    variance: float | None = None
    """Variance of p: the draws' variance divided by their number. None: fewer than two were read."""
    calls: list[str] = []
    """All calls, where there are several draws."""


class Verdict(msgspec.Struct):
    """A judge's comparison of candidates `a` and `b`, always in both orders."""

    judge: str
    """Name of the judge stage."""
    a: int
    b: int
    p: float | None
    """P(`a` is better than `b`), in [0, 1]: mean over orders and principles. None: unparsed."""
    order_gap: float | None
    """Mean over principles of |p as shown - p swapped|, in [0, 1]; 0: order does not matter."""
    is_consistent: bool | None
    """True: both orders, each averaged over principles, prefer the same answer."""
    agreement: float | None
    """Share of readings that prefer the winner, in [0, 1]. 0.5 for a tie."""
    principle_ids: list[str]
    readings: list[Reading]
    variance: float | None = None
    """Variance of p, computed from the readings' variances. None: nothing was drawn twice."""


class Score(msgspec.Struct):
    """A number given to one candidate by a judge, a reward model, a verifier or a ranking."""

    name: str
    candidate: int
    value: float | None
    """Higher is better. None: unparsed, never zero."""
    detail: str = ""
    calls: list[str] = []
    low: float | None = None
    """Lower end of the interval around `value`, with `high`; set only by some stages (see `rank`)."""
    high: float | None = None
    estimator: str = ""
    """For a judge's score: `logprob` or `sampled`, as in `Reading`."""
    draws: int = 1
    variance: float | None = None
    """Variance of `value` over draws of the judge. None: fewer than two were read."""


class StepLabels(msgspec.Struct):
    """One scorer's scores and labels for the steps of a candidate's solution. Lists are per step."""

    name: str
    """Name of the scorer, which views refer to: `steps: prm`."""
    candidate: int
    steps: list[str]
    """The solution's steps, in order, at least one, without the white space between them."""
    scores: list[float | None]
    """P(the step is correct), in [0, 1]. None: unknown, e.g. after the first error."""
    labels: list[bool | None]
    """True: correct. None: unknown."""
    calls: list[str] = []


class Sample(msgspec.Struct):
    """One prompt and everything learned about it. Each stage adds to it."""

    id: str
    """The source's id, or a hash of the prompt. Seeds derive from it."""
    index: int
    """Row of the source, from 0."""
    prompt: list[Message]
    """The conversation to answer; the last message is the user's."""
    tags: list[str] = []
    reference: str | None = None
    """The reference answer, if the source has one."""
    candidates: list[Candidate] = []
    critiques: list[Critique] = []
    verdicts: list[Verdict] = []
    scores: list[Score] = []
    step_labels: list[StepLabels] = []
    extra: str | None = None
    """The row's other columns, as the text of a JSON object without nulls; None: there are none."""

    def kept(self) -> list[Candidate]:
        """Candidates that no filter dropped."""
        return [c for c in self.candidates if c.drop_reason is None]

    def answered(self) -> list[Candidate]:
        """Kept candidates with a text, to criticize and score; one whose thought never ended has none."""
        return [c for c in self.kept() if c.text.strip()]

    def heads(self) -> list[Candidate]:
        """Answered candidates that have no revision: the newest of each chain."""
        revised = {c.parent for c in self.candidates}
        return [c for c in self.answered() if c.index not in revised]

    def root(self, candidate: Candidate) -> Candidate:
        """The initial answer that `candidate` descends from (itself, if it is one)."""
        while candidate.parent is not None:
            candidate = self.candidates[candidate.parent]
        return candidate

    def chains(self) -> Iterator[tuple[Candidate, list[Candidate]]]:
        """Each initial answer with the newest kept answers of its chain of revisions.

        Newest: no kept answer descends from it. So if a revision was dropped, the one before counts,
        in the end the initial answer. Empty list: all were dropped.
        """
        superseded: set[int] = set()
        for candidate in self.kept():
            parent = candidate.parent
            while parent is not None and parent not in superseded:
                superseded.add(parent)
                parent = self.candidates[parent].parent
        newest: dict[int, list[Candidate]] = {
            c.index: [] for c in self.candidates if c.parent is None
        }
        for candidate in self.kept():
            if candidate.index not in superseded:
                newest[self.root(candidate).index].append(candidate)
        for index, answers in newest.items():
            yield self.candidates[index], answers

    def revision_pairs(self) -> Iterator[tuple[Candidate, Candidate]]:
        """(initial answer, newest revision) of each chain in which both are kept and have a text."""
        answered = {c.index for c in self.answered()}
        for initial, newest in self.chains():
            if initial.index in answered:
                for revision in newest:
                    if revision is not initial and revision.index in answered:
                        yield initial, revision

    def critique_of(self, revision: Candidate) -> Critique | None:
        """The critique that a revision answers. None: it is no revision, or had no critique.

        An answer with several critiques in one round has as many revisions, in the same order. An
        empty critique has none.
        """
        if revision.parent is None:
            return None
        critiques = [c for c in self.critiques if c.candidate == revision.parent]
        siblings = [c.index for c in self.candidates if c.parent == revision.parent]
        if len(siblings) < len(critiques):
            critiques = [c for c in critiques if c.text]
        place = siblings.index(revision.index)
        return critiques[min(place, len(critiques) - 1)] if critiques else None

    def prompt_text(self) -> str:
        """The prompt as text: each turn with its role. The text of a turn may look like another turn;
        where that matters, quote the contents of `prompt` instead."""
        return "\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in self.prompt)

    def conversation(self, candidate: Candidate) -> list[Message]:
        """The prompt with this candidate as the assistant's answer."""
        return [*self.prompt, {"role": "assistant", "content": candidate.text}]


class BadRow(msgspec.Struct):
    """A source row that is not a prompt. It is quarantined, never skipped silently."""

    index: int
    """Row of the source, from 0."""
    line: int | None
    """Line of the file, from 1 (text formats)."""
    error: str
    raw: str = ""
    """The row as read, cut to 2,000 characters."""


class Failure(msgspec.Struct):
    """One line of `quarantine.jsonl`."""

    index: int
    line: int | None
    id: str | None
    stage: str
    """`source`, or the label of the stage that failed: `judge-2`."""
    error: str
    raw: str
    is_permanent: bool


def to_row(sample: Sample) -> dict[str, Any]:
    """The sample as plain dicts and lists, for Arrow."""
    row: dict[str, Any] = msgspec.to_builtins(sample)
    return row


def from_row(row: dict[str, Any]) -> Sample:
    """The inverse of `to_row`."""
    return msgspec.convert(row, Sample)


class Drop(msgspec.Struct, frozen=True):
    """A dataset's row that was considered and dropped."""

    reason: str
    """A key of `factory.export.view.REASONS`. A user's own view may have others."""


How = Literal["weights", "minimum", "mean_minus_variance"]
"""Methods of combining several scores into one."""


class Combination(msgspec.Struct, frozen=True):
    """A score that is combined from others."""

    name: str
    """Name of the combined score. A view that names no score prefers it to its parts, if these are
    named after it: `reward/helpful` of `reward`."""
    parts: dict[str, float]
    """Name of a score -> its weight (for `weights`). At least one."""
    how: How = "weights"
    penalty: float = 1.0
    """Weight of the variance in `mean_minus_variance`, at least 0."""
    standardize: bool = msgspec.field(default=True, name="standardise")
    """True: standardize each part first. False: combine raw values, which must be on one scale."""
