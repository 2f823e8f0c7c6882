"""The effect of each principle, against figures worked out by hand."""

from __future__ import annotations

from factory.core.records import Candidate, Critique, Reading, Sample, Verdict
from factory.export.by_principle import Agreement, ByPrinciple, Principle
from factory.scorers.judge_pairwise import verdict


def sample(old: str, new: str, ids: list[str], verdicts: list[Verdict]) -> Sample:
    """One answer, revised by one critique."""
    return Sample(
        "s",
        0,
        [{"role": "user", "content": "Why?"}],
        candidates=[
            Candidate(0, old, "generate", "policy", ""),
            Candidate(1, new, "revise", "policy", "", parent=0, round=1),
        ],
        critiques=[Critique(0, 1, ids, "unkind", "", "Criticise.")],
        verdicts=verdicts,
    )


def judged(**orders: tuple[float | None, float | None]) -> Verdict:
    """The judge's verdict that answer 1 is better than answer 0: p in both orders, by principle."""
    readings = [
        Reading(id, is_swapped, p, 1.0, "")
        for id, (shown, swapped) in orders.items()
        for is_swapped, p in ((False, shown), (True, swapped))
    ]
    return verdict("judge", 1, 0, readings)


def effect(*samples: Sample) -> dict[str, Principle]:
    counted = ByPrinciple()
    for each in samples:
        counted.add(each)
    return {each.id: each for each in counted.principles()}


def test_effect_of_principles_by_hand() -> None:
    found = effect(
        # Won, p = 0.75: margin 0.5; two words more; a refusal less; both principles agree.
        sample(
            "I cannot help.",
            "It rains by day.",
            ["kind"],
            [judged(kind=(0.9, 0.7), plain=(0.8, 0.6))],
        ),
        # Lost, p = 0.4: margin -0.2; a flip; one word less; the other principle prefers it.
        sample("one two three", "one two", ["kind"], [judged(kind=(0.6, 0.1), plain=(0.6, 0.3))]),
        # Nothing changed, a tie without a reading.
        sample("same", " Same ", ["kind"], [judged()]),
    )
    kind, plain = found["kind"], found["plain"]
    assert (kind.drawn, kind.critiques, kind.changed) == (3, 3, 2)
    assert (kind.judged, kind.won, kind.tied, kind.unparsed) == (3, 1, 1, 0)
    assert kind.mean_margin is not None
    assert round(kind.mean_margin, 6) == round((0.5 - 0.2 + 0) / 3, 6)
    assert (kind.compared, kind.flips) == (2, 1)
    assert kind.words == (1 - 1 + 0) / 3
    assert kind.refusals == -1 / 3
    assert kind.agreements == {"plain": Agreement(2, 2)}
    assert (plain.drawn, plain.critiques, plain.judged, plain.mean_margin) == (2, 0, 0, None)
    assert (plain.compared, plain.flips, plain.words, plain.agreement()) == (2, 1, None, 1.0)


def test_disagreement_counts_ties_as_an_outcome_of_their_own() -> None:
    found = effect(
        sample("a", "b", ["kind"], [judged(kind=(0.9, 0.9), plain=(0.2, 0.2), short=(0.7, 0.3))])
    )
    assert found["kind"].agreements == {"plain": Agreement(1, 0), "short": Agreement(1, 0)}
    assert found["kind"].agreement() == 0.0


def test_what_could_not_be_read_is_in_no_figure() -> None:
    found = effect(
        sample("a", "b", ["kind"], [judged(kind=(None, 0.9), plain=(None, None))]),
        sample("a", "b", ["kind"], []),
    )["kind"]
    assert (found.judged, found.won, found.tied, found.unparsed) == (0, 0, 0, 1)
    assert (found.mean_margin, found.compared, found.flips, found.agreement()) == (None, 0, 0, None)


def test_each_round_belongs_to_its_own_principle() -> None:
    twice = sample("one", "one two", ["kind"], [])
    twice.candidates.append(
        Candidate(2, "one two three four", "revise", "policy", "", parent=1, round=2)
    )
    twice.critiques.append(Critique(1, 2, ["plain"], "short", "", "Criticise."))
    twice.verdicts = [verdict("judge", 2, 0, [Reading("", s, 0.9, 1.0, "") for s in (False, True)])]
    found = effect(twice)
    assert (found["kind"].words, found["plain"].words) == (1, 2)
    assert (found["kind"].judged, found["plain"].won) == (0, 1)  # the last revision is judged
    assert set(found) == {"kind", "plain"}
