"""Ask a judge which of two answers is better, in both orders, and read its probabilities.

One call per principle and order: the conversation, answers A and B, the principle's question, and the
beginning of the judge's answer, "The better answer is (". p is P(A) / (P(A) + P(B)) of the next token
(Bai et al. 2022, section 4.1; both orders are averaged as in RLAIF, Lee et al. 2309.00267). With
`chain_of_thought` the judge first reasons, and each p is clamped to [0.40, 0.60], as in Bai et al. For
a judge that thinks by itself, or whose model shows no log-probabilities, see `labels`.

The question comes last, so that the engine's cache serves the answers for all principles. Two equal
answers have p = 0.5 without a call. Texts of people and models are quoted (`stages.base.quoted`), so
that an answer which says "Answer (B):" or names the better one stays inside its slot.

A revision is judged by the principles of its critique, with several rounds those of the last. Other
pairs are judged by principles drawn only by the seed and the sample, so that all judges of a recipe
draw the same and their agreement is about the answers (`export/statistics.py`).

With `pairs: swiss` K candidates play a Swiss tournament: K/2 pairs per round instead of K(K-1)/2 in
all. A candidate's points are the sum of its P(better). A bye and an unparsed verdict count 0.5 points
each, only in the schedule. Rank the result with `kind: rank`: winners met winners, so a mean of P is unfair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, islice
from typing import Any, Literal, NamedTuple

from pydantic import Field

from factory.core.constitution import Constitution, Principle
from factory.core.records import Candidate, Message, Reading, Sample, Verdict
from factory.engines.base import Sampling
from factory.scorers.comparison import DECIMALS
from factory.scorers.labels import EXAMPLE, QUOTED, Asking, Judging, Label, ask_labels
from factory.scorers.tournament import Pair, next_round, swiss_rounds
from factory.stages.base import (
    EXAMPLE_PROMPT,
    Estimator,
    Expected,
    Models,
    Reads,
    Stage,
    render,
    template_problem,
)

LABELS = ("A", "B")
CLAMP = (0.40, 0.60)  # Bai et al.: with reasoning, probabilities near 0 and 1 are overconfident
ANSWER = "The better answer is ("
_REASONING = Sampling(temperature=0.0, max_tokens=256)
PLAIN_QUESTION = "Which answer is better?"  # without a constitution
COMPARISON = (
    f"Consider this conversation and two answers to its last message. {QUOTED}"
    """\
Answer (A):
{{ a | quoted }}

Answer (B):
{{ b | quoted }}

{{ question }} Reply with (A) or (B)."""
)


def _default_principles(fields: dict[str, Any]) -> int | Literal["same"]:
    return "same" if fields.get("pairs") == "revision_vs_initial" else 1


class PairwiseJudge(Stage):
    """Compare pairs of candidates."""

    kind: Literal["judge"] = "judge"
    mode: Literal["pairwise"] = "pairwise"
    name: str = "judge"
    """Name of this judge in verdicts."""
    model: str
    pairs: Literal["revision_vs_initial", "all_pairs", "swiss"] = "revision_vs_initial"
    """The pairs to compare. `revision_vs_initial`: each initial answer with its newest revision.
    `all_pairs`: all with all. `swiss`: a Swiss tournament, of candidates with similar points so far."""
    rounds: int | None = Field(None, ge=1, le=10_000)
    """Rounds of the Swiss tournament, which ends once all have met. None: log2(candidates), rounded up."""
    principles: int | Literal["same", "all"] = Field(default_factory=_default_principles)
    """Principles to judge by, each in both orders. `same`: those of the revision's critique, the default
    for revision_vs_initial. A number: that many, the critique's own first and the others drawn; 1 is
    the default for other pairs. `all`: all that apply. Without a constitution: none."""
    chain_of_thought: bool = False
    estimator: Estimator = "auto"
    """Method of reading the judge. `logprob`: by the labels' probabilities, after the thought if it
    thinks. `sampled`: by the shares of `samples` written verdicts. `auto`: `logprob` if its model shows
    log-probabilities, else `sampled`."""
    samples: int | None = Field(None, ge=1, le=10_000)
    """Thoughts or written verdicts drawn in each order; p is their mean. None: 4 verdicts, 1 thought."""
    sampling: Sampling | None = None
    """Sampling of thoughts and of written verdicts; label probabilities are not sampled. None:
    temperature 1, at most 2048 tokens; with `chain_of_thought` temperature 0, at most 256."""
    template: str = COMPARISON
    """The question to the judge. Can use: conversation (text), prompt (messages), a, b, question.
    `{{ a | quoted }}` puts "> " before each line, so that an answer cannot imitate the template."""

    def facts_made(self) -> frozenset[str]:
        ranking = {"ranking"} if self.pairs != "revision_vs_initial" else set()
        return frozenset({f"verdicts:{self.pairs}", f"judge:{self.name}", *ranking})

    def facts_needed(self) -> frozenset[str]:
        if self.pairs == "revision_vs_initial":
            return frozenset({"candidates", "revisions"})
        return frozenset({"candidates"})

    def problem(self) -> tuple[str, str] | None:
        if isinstance(self.principles, int) and self.principles < 1:
            return "principles", f"expected 1 or more, 'same' or 'all'; found {self.principles}"
        if self.principles == "same" and self.pairs != "revision_vs_initial":
            return "principles", (
                f"'same' is of the critique behind a revision, and pairs: {self.pairs} compares "
                "other answers too; say a number, or 'all'"
            )
        if self.rounds is not None and self.pairs != "swiss":
            return "rounds", f"rounds: {self.rounds} is for pairs: swiss; found pairs: {self.pairs}"
        example = EXAMPLE | {"a": "Hi", "b": "Ho", "question": "Which?"}
        return self._asking().problem() or template_problem(self.template, **example)

    def judging(self) -> Judging:
        first, second = (Candidate(i, text, "", "", "") for i, text in enumerate(("Hi!", "What?")))
        sample = Sample("", 0, EXAMPLE_PROMPT, candidates=[first, second])
        messages = self._conversation(sample, _Showing(first, second, None, False))
        return Judging(self.model, messages, LABELS, ANSWER, self._asking())

    def _asking(self) -> Asking:
        return Asking(
            self.estimator, self.samples, self.sampling, self.chain_of_thought, _REASONING
        )

    def expected_calls(self, sample: Expected) -> float:
        pairs = sample.answers
        if self.pairs == "all_pairs":
            pairs = math.comb(sample.texts, 2)
        elif self.pairs == "swiss":
            pairs = sample.texts // 2 * (self.rounds or swiss_rounds(sample.texts))
        principles = sample.principles if self.principles == "all" else self.principles
        orders = 2 * (1 if principles == "same" else principles)
        return pairs * orders * self.judging().calls()

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        if self.pairs == "swiss":
            verdicts = await self._tournament(sample, models)
        elif self.pairs == "all_pairs":
            verdicts = await self._judge(sample, list(combinations(sample.answered(), 2)), models)
        else:
            pairs = [(revision, initial) for initial, revision in sample.revision_pairs()]
            verdicts = await self._judge(sample, pairs, models)
        sample.verdicts += verdicts
        return sample

    def _principles(
        self, sample: Sample, answers: Sequence[Candidate], models: Models
    ) -> dict[int, list[Principle | None]]:
        """Index of each answer that is `a` of a pair -> the principles to judge the pair by. [None]: no
        principle applies, so the plain question is asked."""
        constitution = models.constitution
        if constitution is None:
            return {answer.index: [None] for answer in answers}
        count = 1 if self.principles == "same" else self.principles
        # Not of this stage's name: judges are compared on what they were asked alike.
        drawn = constitution.choose(sample.tags, count, models.seed("principle", "judge"))
        found: dict[int, list[Principle | None]] = {}
        for answer in answers:
            own = self._own(sample, answer, constitution)
            if own and self.principles == "same":
                found[answer.index] = [*own]
                continue
            others = [p for p in drawn if p not in own]
            chosen = [*own, *others][: None if count == "all" else count]
            found[answer.index] = [*chosen] if chosen else [None]
        return found

    def _own(
        self, sample: Sample, answer: Candidate, constitution: Constitution
    ) -> list[Principle]:
        """The principles that a revision was written for, if it is judged as a revision."""
        is_of_revisions = self.pairs == "revision_vs_initial"
        critique = sample.critique_of(answer) if is_of_revisions else None
        if critique is None:
            return []
        by_id = {p.id: p for p in constitution.principles}
        return [by_id[i] for i in critique.principle_ids if i in by_id]

    async def _tournament(self, sample: Sample, models: Models) -> list[Verdict]:
        """All verdicts of the tournament. The calls of a round are made together."""
        points = {candidate.index: 0.0 for candidate in sample.answered()}
        rounds: list[list[Pair]] = []
        verdicts: list[Verdict] = []
        for number in range(self.rounds or swiss_rounds(len(points))):
            met = next_round(points, rounds, models.seed("swiss", self.name, number))
            if not met:
                break
            pairs = [(sample.candidates[a], sample.candidates[b]) for a, b in met]
            judged = await self._judge(sample, pairs, models)
            gained = dict.fromkeys(points, 0.5)
            for v in judged:
                if v.p is not None:
                    gained[v.a], gained[v.b] = v.p, 1 - v.p
            points = {index: points[index] + gained[index] for index in points}
            rounds.append(met)
            verdicts += judged
        return verdicts

    async def _judge(
        self, sample: Sample, pairs: list[tuple[Candidate, Candidate]], models: Models
    ) -> list[Verdict]:
        """The verdict on each pair. All calls are made together."""
        principles = self._principles(sample, [a for a, _ in pairs], models)
        showings = [
            _Showing(a, b, principle, is_swapped)
            for a, b in pairs
            if a.text != b.text
            for principle in principles[a.index]
            for is_swapped in (False, True)
        ]
        answers = await ask_labels(
            models,
            self.model,
            [self._conversation(sample, showing) for showing in showings],
            LABELS,
            prefix=ANSWER,
            asking=self._asking(),
            salt=lambda i, draw: ("reason", self.name, *showings[i].salt(draw)),
        )
        read = [self._reading(*each) for each in zip(showings, answers, strict=True)]
        readings = iter(read)
        verdicts = []
        for a, b in pairs:
            count = 2 * len(principles[a.index]) if a.text != b.text else 0
            verdicts.append(verdict(self.name, a.index, b.index, list(islice(readings, count))))
        return verdicts

    def _conversation(self, sample: Sample, showing: _Showing) -> list[Message]:
        a, b, principle, is_swapped = showing
        text = render(
            self.template,
            conversation=sample.prompt_text(),
            prompt=sample.prompt,
            a=b.text if is_swapped else a.text,
            b=a.text if is_swapped else b.text,
            question=principle.compare if principle else PLAIN_QUESTION,
        )
        return [{"role": "user", "content": text}]

    def _reading(self, showing: _Showing, answer: Label) -> Reading:
        clamps = self.chain_of_thought and answer.read == Reads("logprob", thinks=False)

        def value(probabilities: Mapping[str, float]) -> float:
            p = probabilities["A"]
            return min(max(p, CLAMP[0]), CLAMP[1]) if clamps else p

        p, variance = answer.mean(value), answer.variance(value)
        if p is not None:
            p = round(1.0 - p if showing.is_swapped else p, DECIMALS)
        first = answer.draws[0]
        return Reading(
            principle_id=showing.principle.id if showing.principle else "",
            is_swapped=showing.is_swapped,
            p=p,
            label_mass=answer.mass,
            call=first.call,
            reasoning=answer.reasoning,
            reasoning_call=first.reasoning_call,
            estimator=answer.read.estimator,
            draws=len(answer.draws),
            variance=None if variance is None else round(variance, DECIMALS),
            calls=answer.calls if len(answer.draws) > 1 else [],
        )


class _Showing(NamedTuple):
    """Two answers in one order, to be compared by one principle."""

    a: Candidate
    b: Candidate
    principle: Principle | None
    is_swapped: bool

    def salt(self, draw: int) -> tuple[object, ...]:
        principle = self.principle and self.principle.id
        # The first has no number: it was the only one in ledgers of before.
        number = (draw,) if draw else ()
        return (self.a.index, self.b.index, principle, self.is_swapped, *number)


def verdict(judge: str, a: int, b: int, readings: list[Reading]) -> Verdict:
    """Combine readings, which are pairs of both orders, one pair per principle.

    A principle is left out if one of its orders is unparsed. If none is left, the verdict is unparsed.
    Without readings the two answers are equal: a tie.
    """
    fields: dict[str, Any] = {"judge": judge, "a": a, "b": b, "readings": readings}
    if not readings:
        return Verdict(
            **fields, p=0.5, order_gap=0.0, is_consistent=True, agreement=0.5, principle_ids=[]
        )
    both: list[tuple[float, float]] = []
    ids: list[str] = []
    variances: list[float | None] = []
    for first, second in zip(readings[::2], readings[1::2], strict=True):
        if first.p is not None and second.p is not None:
            both.append((first.p, second.p))
            ids.append(first.principle_id)
            variances += [first.variance, second.variance]
    if not both:
        return Verdict(
            **fields, p=None, order_gap=None, is_consistent=None, agreement=None, principle_ids=[]
        )
    flat = [value for values in both for value in values]
    p = _mean(flat)
    shown, swapped = _mean(flat[::2]), _mean(flat[1::2])
    return Verdict(
        **fields,
        p=p,
        order_gap=_mean([abs(first - second) for first, second in both]),
        is_consistent=(shown - 0.5) * (swapped - 0.5) > 0 or shown == swapped == 0.5,
        agreement=_mean([_on_side(value, p) for value in flat]),
        principle_ids=[i for i in ids if i],
        variance=_variance(variances),
    )


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), DECIMALS)


def _variance(variances: list[float | None]) -> float | None:
    """Variance of the mean of independent readings. None: one of them has an unknown variance."""
    known = [v for v in variances if v is not None]
    if len(known) < len(variances):
        return None
    return round(sum(known) / len(known) ** 2, DECIMALS)


def _on_side(value: float, p: float) -> float:
    """1 if a reading prefers the same answer as the verdict p, 0.5 if one of them is a tie, else 0."""
    lean = (value - 0.5) * (p - 0.5)
    return 0.5 if lean == 0 else float(lean > 0)
