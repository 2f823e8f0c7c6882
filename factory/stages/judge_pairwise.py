"""Ask a judge which of two answers is better, in both orders, and read its probabilities.

Per principle and order one call: the conversation, answers A and B, the principle's question, and
the words "The better answer is (" put into the judge's mouth; p is P(A) / (P(A) + P(B)) of the next
token (Bai et al. 2022, section 4.1; both orders averaged as in RLAIF, Lee et al. 2309.00267). With
`chain_of_thought` the judge first reasons, and each p is clamped to [0.40, 0.60], as in Bai et al.

The question stands last, so the answers are read once for all principles. Two equal answers are
p = 0.5 without a call.
"""

from __future__ import annotations

from typing import Any, Literal

from factory.constitution import Principle
from factory.engines.base import Sampling
from factory.records import Candidate, Message, Reading, Sample, Verdict
from factory.stages.base import Asked, Models, Question, Stage, render, template_problem
from factory.stages.labels import read_labels

LABELS = ("A", "B")
CLAMP = (0.40, 0.60)  # Bai et al.: with reasoning, probabilities near 0 and 1 are overconfident
DECIMALS = 6  # below is float noise, which would make a winner of a tie
ANSWER = "The better answer is ("
REASON = "Let us think step by step: "
PLAIN_QUESTION = "Which answer is better?"  # without a constitution
COMPARISON = """\
Consider this conversation and two answers to its last message.

{% for message in prompt %}
{{ message.role | capitalize }}: {{ message.content }}
{% endfor %}

Answer (A):
{{ a }}

Answer (B):
{{ b }}

{{ question }} Reply with (A) or (B)."""


class PairwiseJudge(Stage):
    """Compare candidates two by two."""

    kind: Literal["judge"] = "judge"
    mode: Literal["pairwise"] = "pairwise"
    name: str = "judge"
    """Names this judge in verdicts."""
    model: str
    pairs: Literal["revision_vs_initial", "all_pairs"] = "revision_vs_initial"
    """Which candidates are compared: each initial answer with its newest revision, or all."""
    principles: int | Literal["all"] = 1
    """Principles drawn for a sample, or `all` that apply. Without a constitution: none."""
    chain_of_thought: bool = False
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=256)
    """Of the reasoning; the verdict itself is never sampled."""
    template: str = COMPARISON
    """Can use: prompt (messages), a, b, question."""

    def facts_made(self) -> frozenset[str]:
        ranking = {"ranking"} if self.pairs == "all_pairs" else set()
        return frozenset({f"verdicts:{self.pairs}", *ranking})

    def facts_needed(self) -> frozenset[str]:
        if self.pairs == "all_pairs":
            return frozenset({"candidates"})
        return frozenset({"candidates", "revisions"})

    def problem(self) -> tuple[str, str] | None:
        if self.principles != "all" and self.principles < 1:
            return "principles", f"expected 1 or more, or 'all'; found {self.principles}"
        wrong = template_problem(self.template, prompt=[], a="", b="", question="")
        return ("template", wrong) if wrong else None

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        principles: list[Principle | None] = [None]
        if models.constitution is not None:
            chosen = models.constitution.choose(
                sample.tags, self.principles, models.seed("principle", self.name)
            )
            principles = [*chosen] if chosen else [None]
        pairs = self._pairs(sample)
        told_apart = [(a, b) for a, b in pairs if a.text != b.text]
        conversations = [
            self._conversation(sample, *shown, principle)
            for a, b in told_apart
            for principle in principles
            for shown in ((a, b), (b, a))
        ]
        readings = iter(await self._read(conversations, models))
        for a, b in pairs:
            read = []
            if a.text != b.text:
                for principle in principles:
                    for is_swapped in (False, True):
                        read.append(_reading(next(readings), principle, is_swapped))
            sample.verdicts.append(verdict(self.name, a.index, b.index, read))
        return sample

    def _pairs(self, sample: Sample) -> list[tuple[Candidate, Candidate]]:
        if self.pairs == "revision_vs_initial":
            return [(revision, initial) for initial, revision in sample.revision_pairs()]
        kept = sample.kept()
        return [(a, b) for i, a in enumerate(kept) for b in kept[i + 1 :]]

    def _conversation(
        self, sample: Sample, a: Candidate, b: Candidate, principle: Principle | None
    ) -> list[Message]:
        text = render(
            self.template,
            prompt=sample.prompt,
            a=a.text,
            b=b.text,
            question=principle.compare if principle else PLAIN_QUESTION,
        )
        return [{"role": "user", "content": text}]

    async def _read(
        self, conversations: list[list[Message]], models: Models
    ) -> list[tuple[float | None, float, str, str]]:
        """(p of what is shown as A, label mass, call, reasoning) of each conversation."""
        reasons = [""] * len(conversations)
        prefixes = [ANSWER] * len(conversations)
        if self.chain_of_thought:
            thoughts = await models.ask(
                self.model,
                [
                    Question(m, self.sampling, salt=("reason", self.name, i), prefix=REASON)
                    for i, m in enumerate(conversations)
                ],
            )
            reasons = [t.completion.text.strip() for t in thoughts]
            prefixes = [f"{REASON}{reason}\n{ANSWER}" for reason in reasons]
        asked = await models.ask(
            self.model,
            [
                Question(m, GREEDY, prefix=prefix, labels=LABELS)
                for m, prefix in zip(conversations, prefixes, strict=True)
            ],
        )
        return [
            (*self._probability(answer), answer.call, reason)
            for answer, reason in zip(asked, reasons, strict=True)
        ]

    def _probability(self, answer: Asked) -> tuple[float | None, float]:
        probabilities, mass = read_labels(answer.completion, LABELS)
        if probabilities is None:
            return None, mass
        p = round(probabilities["A"], DECIMALS)
        if self.chain_of_thought:
            p = min(max(p, CLAMP[0]), CLAMP[1])
        return p, mass


GREEDY = Sampling(temperature=0.0, max_tokens=1)


def _reading(
    read: tuple[float | None, float, str, str], principle: Principle | None, is_swapped: bool
) -> Reading:
    p, mass, call, reasoning = read
    if p is not None and is_swapped:
        p = round(1.0 - p, DECIMALS)
    return Reading(
        principle_id=principle.id if principle else "",
        is_swapped=is_swapped,
        p=p,
        label_mass=mass,
        call=call,
        reasoning=reasoning,
    )


def verdict(judge: str, a: int, b: int, readings: list[Reading]) -> Verdict:
    """Combine readings that come in pairs of orders, a principle each.

    A principle of which one order is unparsed is left out; with none left the verdict is unparsed.
    No readings at all: the two answers are equal, a tie.
    """
    fields: dict[str, Any] = {"judge": judge, "a": a, "b": b, "readings": readings}
    both = [
        (first, second)
        for first, second in zip(readings[::2], readings[1::2], strict=True)
        if first.p is not None and second.p is not None
    ]
    ids = [first.principle_id for first, _ in both if first.principle_id]
    if not readings:
        return Verdict(
            **fields, p=0.5, order_gap=0.0, is_consistent=True, agreement=0.5, principle_ids=[]
        )
    if not both:
        return Verdict(
            **fields, p=None, order_gap=None, is_consistent=None, agreement=None, principle_ids=[]
        )
    ps = [(r.p or 0.0, s.p or 0.0) for r, s in both]
    shown = sum(p for p, _ in ps) / len(ps)
    swapped = sum(q for _, q in ps) / len(ps)
    p = round((shown + swapped) / 2, DECIMALS)
    flat = [value for pair in ps for value in pair]
    return Verdict(
        **fields,
        p=p,
        order_gap=sum(abs(first - second) for first, second in ps) / len(ps),
        is_consistent=(shown - 0.5) * (swapped - 0.5) > 0 or shown == swapped == 0.5,
        agreement=sum(_on_side(value, p) for value in flat) / len(flat),
        principle_ids=ids,
    )


def _on_side(value: float, p: float) -> float:
    """1 if a reading prefers the same answer as the verdict p, 0.5 if either has no preference."""
    lean = (value - 0.5) * (p - 0.5)
    return 0.5 if lean == 0 else float(lean > 0)
