"""The comparison of two sets of traces, made by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from factory.core.constitution import Constitution
from factory.core.records import Candidate, Combination, Critique, Sample, Score, Verdict
from factory.export.preference import PreferenceView
from factory.workbench.diff import compare
from factory.workbench.difference import Difference
from factory.workbench.edits import Edit, edits

PAIRS = PreferenceView()


def judged(
    index: int, p: float | None, *, revision: str = "A better answer.", principle: str = "kind"
) -> Sample:
    """One answer, its revision, and P(the revision is better)."""
    return Sample(
        id=f"p{index}",
        index=index,
        prompt=[{"role": "user", "content": f"Question {index}?"}],
        candidates=[
            Candidate(0, "An answer.", "generate", "policy", "c0"),
            Candidate(1, revision, "revise", "policy", "c1", parent=0, round=1),
        ],
        critiques=[Critique(0, 1, [principle], "Unkind.", "c2", "Criticize.")],
        verdicts=[Verdict("judge", 1, 0, p, 0.0, True, 1.0, [principle], [])],
    )


def compared(old: Sequence[Sample], new: Sequence[Sample], *views: Any, **more: Any) -> Difference:
    return compare(lambda: iter(old), lambda: iter(new), views, **more)


def test_equal_traces_differ_in_nothing() -> None:
    found = compared([judged(0, 0.9), judged(1, 0.2)], [judged(0, 0.9), judged(1, 0.2)], PAIRS)
    assert (found.samples, found.touched, found.critiques) == (2, 0, 0)
    assert not found.moved
    assert not found.rewritten
    [view] = found.views
    assert (view.before, view.after, view.entered, view.left) == (1, 1, [], [])
    [judge] = found.judges
    assert (judge.compared, judge.moved, judge.mean_move, judge.agreement.value) == (2, 0, None, 1)


def test_verdicts_that_move_are_listed_turned_ones_first() -> None:
    old = [judged(0, 0.5), judged(1, 0.95), judged(2, 0.9), judged(3, 0.8)]
    new = [judged(0, 0.5), judged(1, 0.55), judged(2, 0.9), judged(3, 0.4)]
    found = compared(old, new)
    assert [(m.id, m.before, m.after, m.is_turned) for m in found.moved] == [
        ("p3", 0.8, 0.4, True),
        ("p1", 0.95, 0.55, False),
    ]
    assert found.moved[0].by_how_much == pytest.approx(-0.4)
    assert found.moved[0].answers == ["A better answer.", "An answer."]
    [judge] = found.judges
    assert (judge.moved, judge.turned) == (2, 1)
    assert judge.mean_move == pytest.approx(0.4)


def test_agreement_and_kappa_are_of_pairs_with_the_same_texts() -> None:
    old = [judged(i, p) for i, p in enumerate([0.9, 0.9, 0.1, 0.1, 0.9])]
    new = [judged(i, p) for i, p in enumerate([0.8, 0.3, 0.3, 0.2])]
    new.append(judged(4, 0.1, revision="Another text."))
    [judge] = compared(old, new).judges
    assert judge.on_same_answers == 4
    assert judge.agreement.value == 0.75
    # Labels 1 1 -1 -1 and 1 -1 -1 -1: chance (2 * 1 + 2 * 3) / 16 = 0.5, (0.75 - 0.5) / (1 - 0.5).
    assert judge.kappa.value == pytest.approx(0.5)
    assert judge.kappa.low is not None


def test_an_unparsed_verdict_moves_and_has_no_size() -> None:
    found = compared([judged(0, 0.9), judged(1, None)], [judged(0, None), judged(1, None)])
    [judge] = found.judges
    assert (judge.unparsed_before, judge.unparsed_after, judge.turned) == (1, 2, 1)
    assert judge.mean_move is None
    assert judge.on_same_answers == 0
    assert judge.kappa.value is None
    assert found.moved[0].by_how_much == 0


def test_rewritten_answers_have_both_texts_and_their_principles() -> None:
    old = [judged(0, 0.9), judged(1, 0.9)]
    new = [judged(0, 0.9, revision="A far better answer.", principle="plain"), judged(1, 0.9)]
    found = compared(old, new)
    assert (found.touched, found.critiques) == (1, 1)
    [each] = found.rewritten
    assert (each.id, each.candidate, each.origin) == ("p0", 1, "revise")
    assert (each.before, each.after) == ("A better answer.", "A far better answer.")
    assert (each.principles_before, each.principles_after) == (["kind"], ["plain"])


def test_an_answer_of_one_side_alone_is_rewritten_too() -> None:
    without = judged(0, 0.9)
    without.candidates.pop()
    without.verdicts.clear()
    found = compared([without], [judged(0, 0.9)])
    assert [(r.before, r.after) for r in found.rewritten] == [(None, "A better answer.")]
    assert found.judges[0].only_after == 1


def test_pairs_enter_and_leave_with_the_other_sides_reason() -> None:
    old = [judged(0, 0.9), judged(1, 0.2), judged(2, 0.9)]
    new = [judged(0, 0.3), judged(1, 0.7), judged(2, 0.6)]
    [view] = compared(old, new, PAIRS).views
    assert (view.before, view.after) == (2, 2)
    assert [(row.id, row.why) for row in view.left] == [("p0", ["revision-not-preferred"])]
    assert [(row.id, row.why) for row in view.entered] == [("p1", ["revision-not-preferred"])]
    assert view.entered[0].texts == {"chosen": ["A better answer."], "rejected": ["An answer."]}
    assert view.drops_before == view.drops_after == {"revision-not-preferred": 1}


class Labels(PreferenceView):
    """Rows with an answer, a label and a figure that is no part of the row's identity."""

    def rows(self, sample: Sample) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        p = sample.verdicts[0].p or 0.0
        yield {"completion": [{"role": "assistant", "content": "Hi"}], "label": p > 0.5, "p": p}


def test_a_row_is_another_by_its_label_and_not_by_its_evidence() -> None:
    old = [judged(0, 0.9), judged(1, 0.9)]
    new = [judged(0, 0.1), judged(1, 0.8)]
    [view] = compared(old, new, Labels()).views
    assert ([row.id for row in view.left], [row.id for row in view.entered]) == (["p0"], ["p0"])


def test_words_and_refusals_are_of_the_newest_answers() -> None:
    old = [judged(0, 0.9, revision="one two three"), judged(1, 0.9, revision="one two three")]
    new = [judged(0, 0.9, revision="I can't help with that."), judged(1, 0.9, revision="one")]
    found = compared(old, new)
    assert (found.words.before, found.words.after, found.words.change.value) == (3, 3, 0)
    assert (found.refusals.before, found.refusals.after) == (0, 0.5)
    assert found.refusals.change.low is not None
    assert found.cut.after == 0


def test_samples_of_one_side_alone_are_counted_and_not_compared() -> None:
    old = [judged(0, 0.9), judged(2, 0.9), judged(3, 0.9)]
    new = [judged(1, 0.9), judged(2, 0.9)]
    found = compared(old, new)
    assert (found.samples, found.only_before, found.only_after) == (1, 2, 1)


def test_scores_are_compared_by_their_ranks() -> None:
    def scored(index: int, value: float | None) -> Sample:
        sample = judged(index, 0.9)
        sample.scores = [Score("rm", 1, value)]
        return sample

    old = [scored(i, v) for i, v in enumerate([1.0, 2.0, 3.0, None])]
    new = [scored(i, v) for i, v in enumerate([2.0, 4.0, 3.0, None])]
    found = compared(old, new)
    [score] = found.scores
    assert (score.name, score.compared, score.moved) == ("rm", 3, 2)
    assert (score.before, score.after) == (2, 3)
    assert score.correlation.value == pytest.approx(0.5)  # ranks 1 2 3 and 1 3 2
    assert [(m.id, m.b) for m in found.moved] == [("p1", None), ("p0", None)]


def test_a_combined_score_moves_without_touching_a_sample() -> None:
    def scored(index: int, value: float) -> Sample:
        sample = judged(index, 0.9)
        sample.scores = [Score("rm", 1, value)]
        return sample

    combined = [Combination("all", {"rm": 1.0})]
    old, new = [scored(0, 1.0), scored(1, 2.0)], [scored(0, 1.0), scored(1, 5.0)]
    found = compared(old, new, combinations=combined)
    assert found.touched == 1
    assert {score.name for score in found.scores} == {"rm", "all"}


# Edits of a constitution --------------------------------------------------------------------------


def constitution(*principles: dict[str, Any], **more: Any) -> Constitution:
    return Constitution(name="c", version="1", principles=principles, **more)


def principle(id: str, **changed: Any) -> dict[str, Any]:
    texts = {name: f"{name} {id}" for name in ("title", "critique", "revision", "compare")}
    return {"id": id, **texts, **changed}


def test_edits_are_found_field_by_field() -> None:
    old = constitution(principle("a"), principle("b"), principle("c"))
    new = constitution(principle("b"), principle("a", compare="Which?", weight=2), principle("d"))
    assert edits(old, new) == [
        Edit("principle a", "compare", "compare a", "Which?"),
        Edit("principle a", "weight", "1.0", "2.0"),
        Edit("principle d", "", None, "title d"),
        Edit("principle c", "", "title c", None),
    ]


def test_examples_are_edits_too_and_no_constitution_is_an_empty_one() -> None:
    worked = dict.fromkeys(("prompt", "answer", "critique", "revision"), "Hi")
    new = constitution(principle("a"), examples=[worked])
    assert edits(constitution(principle("a")), new) == [Edit("example 1", "", None, "Hi")]
    assert edits(None, new)[0] == Edit("principle a", "", None, "title a")
    assert edits(None, None) == []
