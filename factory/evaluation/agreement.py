"""Whether a judge agrees with people: agreement, kappa, and what length explains of it.

People's word is the label of more than half of them. A comparison without such a majority, or whose p was
not read (unparsed), is counted and in no rate against it. Every comparison counts once; prompts are what
the intervals resample; a rate of nothing is None, not zero.

Read the judge's agreement beside the baselines on the same comparisons, and `with_one_person` beside
`between_people`, which is the ceiling. Which answer the judge saw first cannot be told from p, the mean
over both orders; `swap_consistency` shows how much it mattered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from factory.evaluation.tables import aligned, few_prompts
from factory.stats.bootstrap import DIFFERENCE, SHARE, Estimate, mean_of
from factory.stats.kappa import cohen_kappa, fleiss_kappa, pair_agreement

TIE, A, B = 0, 1, 2


class JudgedRow(msgspec.Struct, frozen=True):
    """One comparison, by a judge and by people."""

    prompt_id: str
    p: float | None
    """P(a is better), in [0, 1]. None: unparsed."""
    is_consistent: bool | None
    """Both orders prefer the same answer. None: unknown."""
    order_gap: float | None
    """|p as shown - p swapped|, in [0, 1]."""
    human: list[int]
    """A label a person: 1, a is better; 2, b is better; 0, a tie. Empty: nobody looked."""
    words_a: int
    words_b: int


class Agreement(msgspec.Struct, frozen=True):
    """Shares of comparisons on which each agrees with the majority, in [0, 1]."""

    comparisons: int
    judge: Estimate
    longer_wins: Estimate
    """Preferring the longer answer; equally long is a tie."""
    always_a: Estimate
    commonest: Estimate
    """Always giving the label that is the majority's most often here."""
    gain: Estimate
    """`judge` less `longer_wins`; 0: no better than length."""


class JudgeReport(msgspec.Struct, frozen=True):
    """What people's labels say of a judge."""

    comparisons: int
    prompts: int
    unparsed: int
    unlabelled: int
    """Nobody looked."""
    no_majority: int
    """People looked, and no label has more than half of them."""
    judge_ties: int
    """Of all comparisons that were read."""
    tie_band: float
    three_way: Agreement
    """Over a, b and tie: a tie is right only where the majority says so."""
    decided: Agreement
    """Over comparisons in which the majority prefers an answer: a tie is half right."""
    kappa: Estimate
    """Cohen's, of judge and majority, over the three labels."""
    with_one_person: Estimate
    """How often the judge agrees with one person, over the three labels: the mean over people."""
    between_people: Estimate
    """How often two people agree, over the three labels."""
    fleiss_kappa: Estimate
    """Among people: their agreement beyond chance; 1: perfect, 0: chance."""
    swap_consistency: Estimate
    """Share of comparisons in which both orders prefer the same answer."""
    order_gap: Estimate
    judge_prefers_longer: Estimate
    """Of comparisons of unequal length that both judge and majority decided."""
    human_prefers_longer: Estimate
    """The majority, on the same comparisons."""

    def text(self) -> str:
        three, two = self.three_way, self.decided
        table = [
            ["", f"a, b or tie ({three.comparisons:,})", f"people decided ({two.comparisons:,})"],
            ["judge", str(three.judge), str(two.judge)],
            ["longer wins", str(three.longer_wins), str(two.longer_wins)],
            ["always a", str(three.always_a), str(two.always_a)],
            ["commonest label", str(three.commonest), str(two.commonest)],
            ["judge over length", str(three.gain), str(two.gain)],
        ]
        more = [
            ["judge with one person", str(self.with_one_person)],
            ["two people (ceiling)", str(self.between_people)],
            ["Cohen's kappa, judge", str(self.kappa)],
            ["Fleiss' kappa, people", str(self.fleiss_kappa)],
            ["same choice in both orders", str(self.swap_consistency)],
            ["gap between the orders", str(self.order_gap)],
            ["judge prefers the longer", str(self.judge_prefers_longer)],
            ["people prefer the longer", str(self.human_prefers_longer)],
        ]
        return "\n".join(
            [
                f"agreement with people's majority, {self.comparisons:,} comparisons of "
                f"{self.prompts:,} prompts",
                f"left out: {self.unparsed:,} unparsed, {self.no_majority:,} without majority, "
                f"{self.unlabelled:,} unlabelled; ties of the judge: {self.judge_ties:,}",
                "",
                aligned(table),
                "",
                aligned(more),
                *few_prompts(self.prompts),
            ]
        )


def judge_report(rows: Sequence[JudgedRow], *, tie_band: float = 0.0) -> JudgeReport:
    """`tie_band`: in [0, 0.5).

    Raises `ValueError` for a p outside [0, 1], or a label that is not 0, 1 or 2.
    """
    _check(rows, tie_band)
    read = [(row, _label(row.p, tie_band)) for row in rows if row.p is not None]
    both = [(row, label, m) for row, label in read if (m := majority(row.human)) is not None]
    unequal = [
        (row, label, m, _longer(row))
        for row, label, m in both
        if TIE not in {label, m, _longer(row)}
    ]
    several = [row for row in rows if len(row.human) >= 2]
    return JudgeReport(
        comparisons=len(rows),
        prompts=len({row.prompt_id for row in rows}),
        unparsed=len(rows) - len(read),
        unlabelled=sum(not row.human for row in rows),
        no_majority=sum(bool(row.human) and majority(row.human) is None for row in rows),
        judge_ties=sum(label == TIE for _, label in read),
        tie_band=tie_band,
        three_way=_agreement(both, 0.0),
        decided=_agreement([case for case in both if case[2] != TIE], 0.5),
        kappa=cohen_kappa(
            [row.prompt_id for row, _, _ in both],
            [label for _, label, _ in both],
            [m for _, _, m in both],
        ),
        with_one_person=_share(
            (row, row.human.count(label) / len(row.human)) for row, label in read if row.human
        ),
        between_people=_share((row, pair_agreement(row.human)) for row in several),
        fleiss_kappa=fleiss_kappa(
            [row.prompt_id for row in several], [row.human for row in several]
        ),
        swap_consistency=_share(
            (row, row.is_consistent) for row in rows if row.is_consistent is not None
        ),
        order_gap=_share((row, row.order_gap) for row in rows if row.order_gap is not None),
        judge_prefers_longer=_share((row, label == longer) for row, label, _, longer in unequal),
        human_prefers_longer=_share((row, m == longer) for row, _, m, longer in unequal),
    )


def majority(human: Sequence[int]) -> int | None:
    """The label of more than half of the people. None: there is none."""
    return next((label for label in set(human) if 2 * human.count(label) > len(human)), None)


def _share(cases: Iterable[tuple[JudgedRow, float]]) -> Estimate:
    """The mean over rows of a value in [0, 1]."""
    cases = list(cases)
    return mean_of([row.prompt_id for row, _ in cases], [value for _, value in cases], SHARE)


def _agreement(cases: Sequence[tuple[JudgedRow, int, int]], tie_credit: float) -> Agreement:
    """Of (row, judge's label, majority). `tie_credit`: what a wrong tie is worth."""

    def credit(label: int, truth: int) -> float:
        return 1.0 if label == truth else tie_credit * (label == TIE)

    truths = [truth for _, _, truth in cases]
    commonest = max((TIE, A, B), key=truths.count)
    judge = [credit(label, truth) for _, label, truth in cases]
    longer = [credit(_longer(row), truth) for row, _, truth in cases]
    gain = [a - b for a, b in zip(judge, longer, strict=True)]
    rows = [row for row, _, _ in cases]
    return Agreement(
        comparisons=len(cases),
        judge=_share(zip(rows, judge, strict=True)),
        longer_wins=_share(zip(rows, longer, strict=True)),
        always_a=_share((row, truth == A) for row, _, truth in cases),
        commonest=_share((row, truth == commonest) for row, _, truth in cases),
        gain=mean_of([row.prompt_id for row in rows], gain, DIFFERENCE),
    )


def _label(p: float, tie_band: float) -> int:
    is_tie = abs(p - 0.5) <= tie_band + 1e-12  # as 0.45 and 0.55 are at a band of 0.05
    return TIE if is_tie else A if p > 0.5 else B


def _longer(row: JudgedRow) -> int:
    return TIE if row.words_a == row.words_b else A if row.words_a > row.words_b else B


def _check(rows: Sequence[JudgedRow], tie_band: float) -> None:
    if not 0 <= tie_band < 0.5:
        raise ValueError(f"tie_band {tie_band} is not in [0, 0.5)")
    for row in rows:
        if row.p is not None and not 0 <= row.p <= 1:
            raise ValueError(f"p {row.p} of prompt {row.prompt_id} is not in [0, 1]")
        if wrong := [label for label in row.human if label not in {TIE, A, B}]:
            raise ValueError(f"label {wrong[0]} of prompt {row.prompt_id} is not 0, 1 or 2")
