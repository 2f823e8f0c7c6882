"""Traces -> datasets: every rule and every drop reason, with answers worked out by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard
from pydantic import ValidationError

from factory.core.errors import FactoryError, RecipeError
from factory.core.records import Candidate, Critique, Message, Sample, Score, Verdict
from factory.export import write
from factory.export.export import VIEWS, export
from factory.export.kto import KtoView
from factory.export.preference import PreferenceView
from factory.export.sft import SftView
from factory.export.statistics import Numbers, RowStatistics
from factory.export.view import NOTES, Drop, Note, View
from factory.scorers.comparison import rank
from tests.viewed import contents, reasons, rows

PROMPT: list[Message] = [{"role": "user", "content": "Can I freeze rice?"}]


def initial(index: int, text: str, **more: Any) -> Candidate:
    return Candidate(index, text, "generate", "policy", f"call{index}", **more)


def revision(index: int, text: str, parent: int, round_: int = 1, **more: Any) -> Candidate:
    return Candidate(index, text, "revise", "policy", f"call{index}", parent, round_, **more)


def verdict(a: int, b: int, p: float | None, **more: Any) -> Verdict:
    defaults: dict[str, Any] = {
        "judge": "judge",
        "order_gap": 0.1,
        "is_consistent": True,
        "agreement": 1.0,
        "principle_ids": ["kind"],
        "readings": [],
    }
    return Verdict(a=a, b=b, p=p, **(defaults | more))


def sample(*candidates: Candidate, id_: str = "s0", **more: Any) -> Sample:
    return Sample(id_, 0, list(PROMPT), candidates=list(candidates), **more)


def scored(*values: float | None, name: str = "quality", texts: str = "abcdef") -> Sample:
    """A sample with one candidate and one score for each value."""
    return sample(
        *(initial(i, texts[i]) for i in range(len(values))),
        scores=[Score(name, i, value) for i, value in enumerate(values)],
    )


def revised(p: float | None = 0.8, before: str = "no", after: str = "Yes, you can.") -> Sample:
    """One answer, its revision, and the judge's P(the revision is better)."""
    return sample(initial(0, before), revision(1, after, 0), verdicts=[verdict(1, 0, p)])


def notes(view: Any, of: Sample) -> list[str]:
    found = [row.reason for row in view.rows(of) if isinstance(row, Note)]
    assert set(found) <= set(NOTES)
    return found


def texts(view: Any, of: Sample) -> list[tuple[str, str]]:
    return [(r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in rows(view, of)]


def completions(view: Any, of: Sample) -> list[str]:
    return [row["completion"][0]["content"] for row in rows(view, of)]


# ---- preference: revision_vs_initial


def test_preferred_revision_is_chosen_over_its_initial_answer() -> None:
    [row] = rows(PreferenceView(), revised(0.75))
    assert row == {
        "prompt": PROMPT,
        "chosen": [{"role": "assistant", "content": "Yes, you can."}],
        "rejected": [{"role": "assistant", "content": "no"}],
        "preference": 0.75,
        "margin": 0.5,
        "chosen_score": 0.75,
        "rejected_score": 0.25,
        "principle_ids": ["kind"],
        "revised_by": [],
        "judged_by": ["kind"],
        "agreement": 1.0,
        "chosen_origin": "revise",
        "rejected_origin": "generate",
        "chosen_finish_reason": "stop",
        "rejected_finish_reason": "stop",
        "prompt_id": "s0",
    }


def test_a_pair_tells_what_it_was_revised_and_judged_by() -> None:
    of = chain(None, None)
    of.critiques = [
        Critique(0, 1, ["brief"], "long", call="c", request="q"),
        Critique(1, 2, ["warm", "kind"], "curt", call="c", request="q"),
    ]
    of.verdicts.append(verdict(2, 0, 0.7, judge="second", principle_ids=["warm"]))
    [row] = rows(PreferenceView(), of)
    assert row["revised_by"] == ["warm", "kind"]  # of the last round
    assert row["judged_by"] == row["principle_ids"] == ["kind", "warm"]
    [row] = rows(PreferenceView(verified=False), of)
    assert (row["revised_by"], row["judged_by"]) == (["warm", "kind"], [])
    assert row["principle_ids"] == ["brief", "warm", "kind"]  # of all rounds
    of.scores = [Score("quality", i, float(3 - i)) for i in range(3)]
    [row] = rows(PreferenceView(pairs="best_vs_worst", score="quality"), of)
    assert (row["chosen"][0]["content"], row["revised_by"], row["judged_by"]) == ("0", [], [])


def test_verdict_counts_in_either_orientation() -> None:
    of = sample(initial(0, "no"), revision(1, "yes", 0), verdicts=[verdict(0, 1, 0.25)])
    [row] = rows(PreferenceView(), of)
    assert (row["preference"], row["margin"], row["agreement"]) == (0.75, 0.5, 1.0)


def test_judges_are_averaged_over_those_that_could_be_read() -> None:
    of = revised(0.9)
    of.verdicts += [
        verdict(0, 1, 0.5, judge="second", agreement=0.5, principle_ids=["kind", "brief"]),
        verdict(1, 0, None, judge="third", agreement=None),
    ]
    [row] = rows(PreferenceView(), of)
    assert row["preference"] == pytest.approx(0.7)
    assert row["agreement"] == 0.75
    assert row["principle_ids"] == ["kind", "brief"]


def test_agreement_of_an_outvoted_judge_counts_against_the_winner() -> None:
    of = revised(0.9)
    of.verdicts.append(verdict(1, 0, 0.4, judge="second", agreement=0.75))
    [row] = rows(PreferenceView(), of)
    assert row["preference"] == pytest.approx(0.65)
    assert row["agreement"] == pytest.approx((1.0 + 0.25) / 2)


@pytest.mark.parametrize(
    ("of", "reason"),
    [
        (revised(0.5), "tie"),
        (revised(0.3), "revision-not-preferred"),
        (revised(None), "unparsed"),
        (revised(math.nan), "unparsed"),
        (revised(0.8, after="no "), "identical"),
        (revised(0.8, after=" \n"), "empty"),
        (revised(0.8, before=""), "empty"),
        (sample(initial(0, "no"), revision(1, "yes", 0)), "not-judged"),
        (sample(initial(0, "no")), "no-revision"),
        (sample(initial(0, "no"), revision(1, "yes", 0, drop_reason="short")), "filtered"),
        (sample(initial(0, "no", drop_reason="short"), revision(1, "yes", 0)), "filtered"),
    ],
)
def test_pair_that_is_not_known_better_is_dropped_with_its_reason(of: Sample, reason: str) -> None:
    assert rows(PreferenceView(), of) == []
    assert reasons(PreferenceView(), of) == [reason]


def test_judges_that_cancel_are_a_tie_whatever_the_float_noise() -> None:
    for p in (0.55, 0.6, 0.7, 0.85, 0.9):
        of = revised(p)
        of.verdicts.append(verdict(0, 1, p, judge="second"))  # means 1 - p of the revision
        assert reasons(PreferenceView(), of) == ["tie"]
    assert reasons(PreferenceView(min_margin=0.3), revised(0.65)) == ["margin-too-small"]


def test_answers_that_are_alike_but_for_float_noise_tie_by_verdicts() -> None:
    # a: (0.1 + 0.8) / 2, b: (0.9 + 0.0) / 2, c: (0.2 + 1.0) / 2
    of = sample(
        *(initial(i, "abc"[i]) for i in range(3)),
        verdicts=[verdict(0, 1, 0.1), verdict(0, 2, 0.8), verdict(2, 1, 1.0)],
    )
    ranking = rank(of, None)
    assert not isinstance(ranking, Drop)
    assert ranking.scores == {0: 0.45, 1: 0.45, 2: 0.6}


def test_margin_must_be_above_the_minimum_on_either_side() -> None:
    view = PreferenceView(min_margin=0.5)  # that is p > 0.75
    assert reasons(view, revised(0.75)) == ["margin-too-small"]
    assert reasons(view, revised(0.25)) == ["margin-too-small"]
    assert reasons(view, revised(0.125)) == ["revision-not-preferred"]
    assert rows(view, revised(0.875))[0]["margin"] == 0.75


def test_a_verdict_that_the_order_decided_makes_no_pair_where_that_is_asked_for() -> None:
    flipped = revised(0.8)
    flipped.verdicts[0].is_consistent = False
    assert len(rows(PreferenceView(), flipped)) == 1
    assert reasons(PreferenceView(consistent=True), flipped) == ["order-decided"]
    assert len(rows(PreferenceView(consistent=True), revised(0.8))) == 1
    ranked = PreferenceView(pairs="best_vs_worst", consistent=True)
    assert reasons(ranked, flipped) == ["order-decided"]
    assert len(rows(ranked, revised(0.8))) == 1


def chain(*drop_reasons: str | None) -> Sample:
    """An answer "0" and its revisions "1", "2" ..., each judged against it with p = 0.8."""
    return sample(
        initial(0, "0"),
        *(
            revision(i, str(i), i - 1, i, drop_reason=reason)
            for i, reason in enumerate(drop_reasons, 1)
        ),
        verdicts=[verdict(i, 0, 0.8) for i in range(1, len(drop_reasons) + 1)],
    )


def test_newest_kept_revision_stands_for_its_chain() -> None:
    assert texts(PreferenceView(), chain(None, None)) == [("2", "0")]
    assert texts(PreferenceView(), chain(None, "short")) == [("1", "0")]
    assert texts(PreferenceView(), chain("short", None)) == [("2", "0")]


def test_every_initial_answer_has_its_own_pair() -> None:
    of = sample(
        initial(0, "a"),
        initial(1, "b"),
        revision(2, "A", 0),
        revision(3, "B", 1),
        verdicts=[verdict(2, 0, 0.9), verdict(3, 1, 0.2)],
    )
    assert texts(PreferenceView(), of) == [("A", "a")]
    assert reasons(PreferenceView(), of) == ["revision-not-preferred"]


def test_two_revisions_of_one_answer_are_two_pairs() -> None:
    of = sample(
        initial(0, "a"),
        revision(1, "A", 0),
        revision(2, "Ä", 0),
        verdicts=[verdict(1, 0, 0.9), verdict(2, 0, 0.8)],
    )
    assert texts(PreferenceView(), of) == [("A", "a"), ("Ä", "a")]


def test_unverified_revision_is_chosen_unseen() -> None:
    view = PreferenceView(verified=False)
    of = revised(0.1)
    of.critiques = [
        Critique(0, 1, ["kind"], "rude", call="c", request="q"),
        Critique(1, 2, ["brief", "kind"], "long", call="c", request="q"),
    ]
    [row] = rows(view, of)
    assert row["chosen"][0]["content"] == "Yes, you can."
    numbers = ("preference", "margin", "chosen_score", "rejected_score", "agreement")
    assert [row[name] for name in numbers] == [None] * 5
    assert row["principle_ids"] == ["kind"]  # the critique of the revision itself led to nothing
    assert reasons(view, revised(0.9, after="no")) == ["identical"]
    assert reasons(view, revised(0.9, after="")) == ["empty"]


# ---- preference: best_vs_worst and all_pairs


def test_best_against_worst_by_score() -> None:
    view = PreferenceView(pairs="best_vs_worst", score="quality")
    [row] = rows(view, scored(2.0, 5.0, None, 1.0))
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("b", "d")
    assert (row["margin"], row["chosen_score"], row["rejected_score"]) == (4.0, 5.0, 1.0)
    assert (row["preference"], row["agreement"], row["principle_ids"]) == (None, None, [])


def test_only_score_is_used_unnamed() -> None:
    assert texts(PreferenceView(pairs="best_vs_worst"), scored(2.0, 5.0)) == [("b", "a")]


def test_repeated_score_is_averaged() -> None:
    of = scored(2.0, 3.0)
    of.scores.append(Score("quality", 0, 6.0))  # (2 + 6) / 2 = 4 > 3
    [row] = rows(PreferenceView(pairs="best_vs_worst"), of)
    assert (row["chosen"][0]["content"], row["chosen_score"], row["margin"]) == ("a", 4.0, 1.0)


@pytest.mark.parametrize("pairs", ["best_vs_worst", "all_pairs"])
@pytest.mark.parametrize(
    ("of", "reason"),
    [
        (scored(3.0, 3.0), "tie"),
        (scored(3.0, 3.25), "margin-too-small"),
        (scored(3.0, 3.5), "margin-too-small"),
        (scored(3.0, None), "too-few-scored"),
        (scored(3.0, math.nan), "too-few-scored"),
        (scored(3.0, math.inf), "too-few-scored"),
        (scored(3.0), "too-few-scored"),
        (scored(3.0, 5.0, texts="aa"), "identical"),
        (scored(3.0, 5.0, texts=" a"), "empty"),
    ],
)
def test_scored_pair_that_is_not_known_better_is_dropped(
    pairs: Any, of: Sample, reason: str
) -> None:
    view = PreferenceView(pairs=pairs, min_margin=0.5)
    assert (rows(view, of), reasons(view, of)) == ([], [reason])


def test_filtered_answer_is_in_no_pair() -> None:
    of = scored(1.0, 2.0, 3.0)
    of.candidates[2].drop_reason = "short"
    assert texts(PreferenceView(pairs="best_vs_worst"), of) == [("b", "a")]
    assert texts(PreferenceView(pairs="all_pairs"), of) == [("b", "a")]


def test_which_of_several_scores_must_be_said() -> None:
    of = scored(1.0, 2.0)
    of.scores += [Score("safety", 0, 9.0), Score("safety", 1, 3.0)]
    assert reasons(PreferenceView(pairs="all_pairs"), of) == ["several-scores"]
    assert texts(PreferenceView(pairs="all_pairs", score="safety"), of) == [("a", "b")]


def round_robin(ab: float | None, ac: float | None, bc: float | None) -> Sample:
    return sample(
        *(initial(i, "abc"[i]) for i in range(3)),
        verdicts=[
            verdict(0, 1, ab),
            verdict(2, 0, None if ac is None else 1 - ac),
            verdict(1, 2, bc),
        ],
    )


def test_best_against_worst_by_mean_of_verdicts() -> None:
    # a: (0.75 + 0.875) / 2 = 0.8125, b: (0.25 + 0.625) / 2, c: (0.125 + 0.375) / 2 = 0.25
    [row] = rows(PreferenceView(pairs="best_vs_worst"), round_robin(0.75, 0.875, 0.625))
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("a", "c")
    assert (row["chosen_score"], row["rejected_score"], row["margin"]) == (0.8125, 0.25, 0.5625)
    assert row["preference"] == 0.875  # their own verdict's
    assert row["principle_ids"] == ["kind"]


def test_best_that_loses_to_the_worst_face_to_face_is_dropped() -> None:
    # a: (1 + 0.25) / 2 = 0.625, b: (0 + 1) / 2 = 0.5, c: (0.75 + 0) / 2 = 0.375; yet c beats a
    view = PreferenceView(pairs="best_vs_worst")
    assert reasons(view, round_robin(1.0, 0.25, 1.0)) == ["contradictory"]
    assert reasons(view, round_robin(1.0, 0.5, 1.0)) == ["tie"]
    [row] = rows(view, round_robin(1.0, None, 1.0))  # a: 1, b: 0.5, c: 0
    assert (row["preference"], row["margin"], row["agreement"]) == (None, 1.0, None)


def test_all_pairs_by_score() -> None:
    view = PreferenceView(pairs="all_pairs", min_margin=0.5)
    of = scored(1.0, 3.0, 3.0, 3.5, None)
    # a<b, a<c, a<d; b and c tie; b, c and d are too close; e has no score: four pairs
    assert texts(view, of) == [("b", "a"), ("c", "a"), ("d", "a")]
    assert sorted(reasons(view, of)) == ["margin-too-small"] * 2 + ["not-scored"] * 4 + ["tie"]


def test_all_pairs_by_each_pairs_own_verdict() -> None:
    view = PreferenceView(pairs="all_pairs")
    of = round_robin(0.75, None, 0.25)
    assert texts(view, of) == [("a", "b"), ("c", "b")]
    assert [row["preference"] for row in rows(view, of)] == [0.75, 0.75]
    assert [row["margin"] for row in rows(view, of)] == [0.5, 0.5]
    assert reasons(view, of) == ["unparsed"]
    of.verdicts.pop(1)
    assert reasons(view, of) == ["not-judged"]


# ---- kto


def test_label_by_threshold_includes_the_threshold() -> None:
    view = KtoView(score="quality", threshold=3.0)
    made = rows(view, scored(2.5, 3.0, 4.0))
    assert [(r["completion"][0]["content"], r["label"], r["score"]) for r in made] == [
        ("a", False, 2.5),
        ("b", True, 3.0),
        ("c", True, 4.0),
    ]
    assert made[0]["prompt"] == PROMPT
    assert made[0]["prompt_id"] == "s0"


def test_kto_drops_by_score() -> None:
    of = scored(None, 4.0, 4.0, math.nan, texts="ab cd")
    of.candidates[1].drop_reason = "short"
    of.candidates.append(initial(4, "unseen"))
    view = KtoView(threshold=3.0)
    expected = ["unparsed", "filtered", "empty", "unparsed", "not-scored"]
    assert (rows(view, of), reasons(view, of)) == ([], expected)
    of.scores.append(Score("safety", 0, 1.0))
    assert reasons(view, of) == ["several-scores"]


def test_labels_by_pairs_go_once_to_winner_and_loser() -> None:
    made = rows(KtoView(), revised(0.75))
    assert [(r["completion"][0]["content"], r["label"], r["score"]) for r in made] == [
        ("no", False, 0.25),
        ("Yes, you can.", True, 0.75),
    ]
    assert reasons(KtoView(), revised(0.25)) == ["revision-not-preferred"]


def test_answer_that_wins_and_loses_has_no_label() -> None:
    # a beats b and c, b beats c: b wins one and loses one. a's score: (0.75 + 0.875) / 2
    view = KtoView(pairs="all_pairs")
    of = round_robin(0.75, 0.875, 0.625)
    made = rows(view, of)
    assert [(r["completion"][0]["content"], r["label"], r["score"]) for r in made] == [
        ("a", True, 0.8125),
        ("c", False, 0.25),
    ]
    assert reasons(view, of) == ["contradictory"]


def test_unverified_pairs_label_without_a_score() -> None:
    made = rows(KtoView(verified=False), revised(None))
    assert [(r["label"], r["score"]) for r in made] == [(False, None), (True, None)]


# ---- sft


def two_chains() -> Sample:
    return sample(
        initial(0, "a", finish_reason="length"),
        initial(1, "b"),
        revision(2, "A", 0),
        revision(3, "AA", 2, 2),
        scores=[Score("quality", i, v) for i, v in enumerate([9.0, 2.0, 7.0, 3.0])],
    )


def test_sft_picks() -> None:
    kept: Any = {"truncated": "keep"}
    assert completions(SftView(), two_chains()) == ["AA", "b"]
    assert completions(SftView(pick="initial", **kept), two_chains()) == ["a", "b"]
    assert completions(SftView(pick="all", **kept), two_chains()) == ["a", "b", "A", "AA"]
    assert completions(SftView(pick="all"), two_chains()) == ["b", "A", "AA"]
    assert completions(SftView(pick="best", **kept), two_chains()) == ["a"]
    assert completions(SftView(pick="best"), two_chains()) == ["A"]
    assert notes(SftView(pick="best"), two_chains()) == ["truncated"]
    assert completions(SftView(pick="revised"), two_chains()) == ["AA"]
    assert reasons(SftView(pick="revised"), two_chains()) == ["no-revision"]


def test_sft_row() -> None:
    assert rows(SftView(), revised()) == [
        {
            "prompt": PROMPT,
            "completion": [{"role": "assistant", "content": "Yes, you can."}],
            "origin": "revise",
            "finish_reason": "stop",
            "prompt_id": "s0",
        }
    ]


def test_sft_best_by_verdicts() -> None:
    assert completions(SftView(pick="best"), round_robin(0.25, 0.75, 0.75)) == ["b"]


def test_sft_drops() -> None:
    assert reasons(SftView(), sample(initial(0, " "))) == ["empty"]
    assert reasons(SftView(), sample(initial(0, "a", drop_reason="short"))) == ["filtered"]
    assert reasons(SftView(pick="initial"), sample(initial(0, "a", drop_reason="x"))) == [
        "filtered"
    ]
    assert reasons(SftView(pick="all"), chain("short")) == ["filtered"]
    assert reasons(SftView(pick="best"), scored(None)) == ["not-scored"]
    assert reasons(SftView(pick="best"), scored(1.0, texts=" ")) == ["empty"]
    of = scored(1.0)
    of.scores.append(Score("safety", 0, 1.0))
    assert reasons(SftView(pick="best"), of) == ["several-scores"]


def test_filtered_revision_gives_way_to_the_answer_before() -> None:
    assert completions(SftView(), chain(None, "short")) == ["1"]
    assert completions(SftView(), chain("short", "short")) == ["0"]
    assert notes(SftView(), chain(None, "short")) == ["revision-dropped"]
    assert notes(SftView(), chain("short", "short")) == ["revision-dropped"]
    assert notes(SftView(), chain("short", None)) == []
    assert notes(SftView(), chain(None, None)) == []


def test_a_revision_that_changed_nothing_is_not_missed() -> None:
    of = sample(initial(0, "Same text"), revision(1, "same  text", 0, drop_reason="duplicate"))
    assert (completions(SftView(), of), notes(SftView(), of)) == (["Same text"], [])


def test_revised_answers_alone_can_be_asked_for() -> None:
    view = SftView(pick="revised")
    assert (completions(view, chain("short", "short")), reasons(view, chain("short", "short"))) == (
        [],
        ["revision-dropped"],
    )
    assert completions(view, chain(None, "short")) == ["1"]
    assert notes(view, chain(None, "short")) == ["revision-dropped"]
    assert reasons(view, sample(initial(0, "a", drop_reason="x"))) == ["filtered"]


# ---- answers cut at max_tokens


def cut(which: str, **more: Any) -> Sample:
    """An answer and its revision, the `which` cut."""
    ends = {name: {"finish_reason": "length"} if name in which else {} for name in ("old", "new")}
    return sample(
        initial(0, "no", **ends["old"]),
        revision(1, "Yes, you can.", 0, **ends["new"]),
        verdicts=[verdict(1, 0, 0.8)],
        scores=[Score("quality", 0, 1.0), Score("quality", 1, 2.0)],
        **more,
    )


@pytest.mark.parametrize("which", ["old", "new", "old new"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"verified": False},
        {"pairs": "all_pairs"},
        {"pairs": "all_pairs", "score": "quality"},
        {"pairs": "best_vs_worst"},
        {"pairs": "best_vs_worst", "score": "quality"},
    ],
)
def test_a_pair_with_a_cut_answer_is_dropped_unless_kept(which: str, options: Any) -> None:
    for view in (PreferenceView, KtoView):
        assert (rows(view(**options), cut(which)), reasons(view(**options), cut(which))) == (
            [],
            ["truncated"],
        )
    ends = {"chosen_finish_reason": "new", "rejected_finish_reason": "old"}
    [row] = rows(PreferenceView(**options, truncated="keep"), cut(which))
    for column, name in ends.items():
        assert row[column] == ("length" if name in which else "stop")
    made = rows(KtoView(**options, truncated="keep"), cut(which))
    assert {r["completion"][0]["content"]: r["finish_reason"] for r in made} == {
        "no": "length" if "old" in which else "stop",
        "Yes, you can.": "length" if "new" in which else "stop",
    }


def test_best_and_worst_are_of_the_answers_that_ended() -> None:
    of = scored(9.0, 5.0, 3.0, 1.0)
    of.candidates[0].finish_reason = of.candidates[3].finish_reason = "length"
    view = PreferenceView(pairs="best_vs_worst")
    assert texts(view, of) == [("b", "c")]
    assert notes(view, of) == ["truncated", "truncated"]
    assert texts(PreferenceView(pairs="best_vs_worst", truncated="keep"), of) == [("a", "d")]


def test_a_cut_answer_has_no_label_and_is_no_example() -> None:
    assert reasons(KtoView(threshold=0.0), cut("new")) == ["truncated"]
    assert completions(KtoView(threshold=0.0), cut("new")) == ["no"]
    assert reasons(SftView(), cut("new")) == ["truncated"]
    assert completions(SftView(), cut("new")) == []
    [row] = rows(SftView(truncated="keep"), cut("new"))
    assert row["finish_reason"] == "length"


def test_recipes_of_older_runs_say_it_with_another_name() -> None:
    assert SftView.model_validate({"keep_truncated": True}) == SftView(truncated="keep")
    assert SftView.model_validate({"keep_truncated": False}) == SftView()
    with pytest.raises(ValidationError, match="keep_truncated"):
        SftView.model_validate({"keep_truncated": "maybe"})


# ---- what the recipe is told


@pytest.mark.parametrize(
    ("view", "needs"),
    [
        (PreferenceView(), {"revisions", "verdicts:revision_vs_initial"}),
        (PreferenceView(verified=False), {"revisions"}),
        (PreferenceView(pairs="best_vs_worst"), {"candidates", "ranking"}),
        (PreferenceView(pairs="all_pairs", score="q"), {"candidates", "score:q"}),
        (KtoView(), {"revisions", "verdicts:revision_vs_initial"}),
        (KtoView(threshold=3), {"candidates", "score:*"}),
        (KtoView(threshold=3, score="q"), {"candidates", "score:q"}),
        (SftView(), {"candidates"}),
        (SftView(pick="best"), {"candidates", "ranking"}),
        (SftView(pick="best", score="q"), {"candidates", "score:q"}),
    ],
)
def test_needs(view: Any, needs: set[str]) -> None:
    assert view.needs() == needs


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PreferenceView(score="q"), "score: q"),
        (lambda: PreferenceView(pairs="all_pairs", verified=False), "verified: false"),
        (lambda: PreferenceView(verified=False, min_margin=0.1), "min_margin: 0.1"),
        (lambda: PreferenceView(verified=False, consistent=True), "consistent: true is for"),
        (lambda: PreferenceView(min_margin=-0.1), "greater than or equal to 0"),
        (lambda: PreferenceView(name="../elsewhere"), "pattern"),
        (lambda: KtoView(score="q"), "score: q"),
        (lambda: KtoView(threshold=1, min_margin=0.1), "min_margin: 0.1 is for pairs"),
        (lambda: KtoView(threshold=math.nan), "finite"),
        (lambda: SftView(score="q"), "score: q is for pick: best"),
    ],
)
def test_options_that_cannot_be_meant_together_are_refused(
    make: Callable[[], object], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        make()


@pytest.mark.parametrize(
    "view",
    [
        PreferenceView(verified=False),
        KtoView(threshold=3, score="q", name="kto-3"),
        SftView(pick="best"),
    ],
)
def test_resolved_recipe_reads_back_as_the_same_view(view: Any) -> None:
    assert VIEWS[view.kind].model_validate(view.model_dump()) == view


# ---- writing


def source(*samples: Sample) -> Callable[[], Iterator[Sample]]:
    return lambda: iter(samples)


def many(n: int) -> Callable[[], Iterator[Sample]]:
    def samples() -> Iterator[Sample]:
        for i in range(n):
            of = revised(0.75)
            of.id = f"s{i}"
            yield of

    return samples


def load(folder: Path) -> Any:
    from datasets import load_from_disk

    return load_from_disk(str(folder))


ALL_VIEWS: list[View] = [PreferenceView(), SftView(), KtoView()]


def test_dataset_loads_with_its_features_and_rows_in_order(tmp_path: Path) -> None:
    reports = export(ALL_VIEWS, many(2_500), tmp_path, {})
    assert [(r.view, r.rows, r.prompts) for r in reports] == [
        ("preference", 2_500, 2_500),
        ("sft", 2_500, 2_500),
        ("kto", 5_000, 2_500),
    ]
    for view in ALL_VIEWS:
        data = load(tmp_path / view.kind)
        assert data.features.arrow_schema == view.features().arrow_schema
        assert data[0] == rows(view, next(many(1)()))[0]
    assert load(tmp_path / "preference")["prompt_id"][:] == [f"s{i}" for i in range(2_500)]


def test_rows_have_exactly_the_columns_of_their_features() -> None:
    for view in ALL_VIEWS:
        for row in rows(view, revised()):
            assert list(row) == list(view.features())


def test_big_dataset_is_cut_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "SHARD_BYTES", 1)
    monkeypatch.setattr(write, "BATCH_ROWS", 10)
    export([SftView()], many(25), tmp_path, {})
    names = sorted(path.name for path in (tmp_path / "sft").glob("*.arrow"))
    assert names == [f"data-0000{i}-of-00003.arrow" for i in range(3)]
    assert load(tmp_path / "sft")["prompt_id"][:] == [f"s{i}" for i in range(25)]


def test_shard_that_ends_with_the_rows_leaves_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "SHARD_BYTES", 1)
    monkeypatch.setattr(write, "BATCH_ROWS", 10)
    export([SftView()], many(20), tmp_path, {})
    assert len(list((tmp_path / "sft").glob("*.arrow"))) == 2
    assert len(load(tmp_path / "sft")) == 20


def test_files_tell_their_features_as_datasets_tells_them(tmp_path: Path) -> None:
    export(ALL_VIEWS, many(1), tmp_path, {})
    for view in ALL_VIEWS:
        theirs = load(tmp_path / view.kind).features.arrow_schema
        assert theirs.serialize() == view.features().arrow_schema.serialize()  # metadata as well


def test_dataset_is_written_without_importing_what_is_slow_to_import(tmp_path: Path) -> None:
    code = "import sys; from tests.test_export import *; "
    code += "export([PreferenceView(), SftView()], many(3), Path(sys.argv[1]), {}); "
    code += "print(sorted({'datasets', 'transformers', 'torch'} & {*sys.modules}))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == "[]\n"


def test_view_without_rows_still_loads_with_its_features(tmp_path: Path) -> None:
    reports = export(ALL_VIEWS, source(), tmp_path, {})
    for view, report in zip(ALL_VIEWS, reports, strict=True):
        data = load(tmp_path / view.kind)
        assert len(data) == 0
        assert data.features.arrow_schema == view.features().arrow_schema
        assert (report.rows, report.length, report.spreads) == (0, None, {})


def test_columns_that_are_all_null_keep_their_type(tmp_path: Path) -> None:
    view = PreferenceView(verified=False)
    export([view], source(revised()), tmp_path, {})
    data = load(tmp_path / "preference")
    assert data.features.arrow_schema == view.features().arrow_schema
    assert data[0]["margin"] is None


def test_same_traces_write_the_same_bytes(tmp_path: Path) -> None:
    first = export(ALL_VIEWS, many(1_200), tmp_path / "one", {"run_name": "r"})
    second = export(ALL_VIEWS, many(1_200), tmp_path / "two", {"run_name": "r"})
    assert first == second
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 12


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    one, two, again = (
        export([SftView()], many(n), tmp_path / str(n), {})[0].fingerprint for n in (3, 4, 3)
    )
    assert one == again != two
    state = json.loads((tmp_path / "3" / "sft" / "state.json").read_text())
    assert state["_fingerprint"] == one


def fail_after(n: int) -> Callable[[], Iterator[Sample]]:
    def samples() -> Iterator[Sample]:
        yield from many(n)()
        raise RuntimeError("power cut")

    return samples


def test_failure_on_the_way_leaves_the_old_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "BATCH_ROWS", 10)
    export(ALL_VIEWS, many(5), tmp_path, {})
    before = contents(tmp_path)
    with pytest.raises(RuntimeError, match="power cut"):
        export(ALL_VIEWS, fail_after(25), tmp_path, {})
    assert contents(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kto", "preference", "sft"]


def test_failing_swap_puts_the_old_dataset_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export([SftView()], many(5), tmp_path, {})
    rename = Path.rename

    def fail_at_the_swap(self: Path, target: Path) -> Path:
        if self.name == ".sft.tmp":
            raise OSError("disk gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_at_the_swap)
    with pytest.raises(OSError, match="disk gone"):
        export([SftView()], many(7), tmp_path, {})
    assert len(load(tmp_path / "sft")) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["sft"]


def test_what_a_killed_writer_left_is_made_good(tmp_path: Path) -> None:
    export([SftView()], many(5), tmp_path, {})
    (tmp_path / "sft").rename(tmp_path / ".sft.old")  # killed between the two renames
    (tmp_path / ".sft.tmp").mkdir()
    (tmp_path / ".sft.tmp" / "data-00000.arrow").write_text("half")
    with pytest.raises(RuntimeError, match="power cut"):
        export([SftView()], fail_after(3), tmp_path, {})
    assert len(load(tmp_path / "sft")) == 5
    export([SftView()], many(7), tmp_path, {})
    assert len(load(tmp_path / "sft")) == 7
    assert [p.name for p in tmp_path.iterdir()] == ["sft"]


def test_what_the_source_has_besides_is_a_column(tmp_path: Path) -> None:
    def samples() -> Iterator[Sample]:
        for place, sample in enumerate(many(3)()):
            sample.extra = '{"topic":"x"}' if place else None
            yield sample

    export(ALL_VIEWS, samples, tmp_path, {})
    for view in ALL_VIEWS:
        data = load(tmp_path / view.kind)
        assert set(data["extra"][:]) == {None, '{"topic":"x"}'}
        assert "the source's other columns" in (tmp_path / view.kind / "README.md").read_text()


def test_folder_that_is_no_dataset_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "thesis.tex").write_text("years of work")
    with pytest.raises(FactoryError, match="is not replaced"):
        export([SftView()], many(1), tmp_path, {})
    assert (tmp_path / "sft" / "thesis.tex").read_text() == "years of work"


def test_two_views_need_two_folders(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="2 views would write"):
        export([SftView(), SftView(pick="all")], many(1), tmp_path, {})
    named = export([SftView(), SftView(pick="all", name="every")], many(1), tmp_path, {})
    assert [(r.view, r.rows) for r in named] == [("sft", 1), ("every", 2)]


@pytest.mark.parametrize("view", ALL_VIEWS)
def test_trl_takes_the_rows_as_they_are(view: Any, tmp_path: Path) -> None:
    from trl.data_utils import is_conversational, maybe_extract_prompt

    export([view], many(2), tmp_path, {})
    for row in load(tmp_path / view.kind):
        assert is_conversational(row)
        assert maybe_extract_prompt(row)["prompt"] == PROMPT


# ---- statistics and card


def mixed() -> list[Sample]:
    """Three pairs, one tie, one unparsed verdict, one flip."""
    made = [
        revised(0.75, "one", "one two three"),  # chosen longer, 3 to 1 words
        revised(0.875, "one two three four", "one"),  # shorter, 1 to 4
        revised(1.0, "one two", "three four"),  # equal, 2 to 2
        revised(0.5, "a", "b"),
        revised(None, "a", "b"),
    ]
    made[1].verdicts[0].is_consistent = False
    for of, gap in zip(made, [0.0, 0.5, 0.1, 0.2], strict=False):
        of.verdicts[0].order_gap = gap
    made[4].verdicts[0].order_gap = None
    made[4].verdicts[0].is_consistent = None
    return made


def test_statistics_by_hand(tmp_path: Path) -> None:
    [report] = export([PreferenceView()], source(*mixed()), tmp_path, {})
    assert (report.rows, report.prompts) == (3, 3)
    assert report.drops == {"tie": 1, "unparsed": 1}
    assert report.length is not None
    assert (report.length.pairs, report.length.chosen_longer, report.length.same_length) == (
        3,
        1,
        1,
    )
    assert report.length.share_longer == pytest.approx(1 / 3)
    assert report.length.mean_words_chosen == pytest.approx((3 + 1 + 2) / 3)
    assert report.length.mean_words_rejected == pytest.approx((1 + 4 + 2) / 3)
    judge = report.judges["judge"]
    assert (judge.verdicts, judge.unparsed, judge.flips) == (5, 1, 1)
    assert judge.flip_rate == 0.25
    assert judge.mean_order_gap == pytest.approx((0.0 + 0.5 + 0.1 + 0.2) / 4)
    margin = report.spreads["margin"]  # 0.5, 0.75, 1.0
    assert (margin.count, margin.mean, margin.min, margin.max) == (3, 0.75, 0.5, 1.0)
    assert (margin.q1, margin.median, margin.q3) == (0.625, 0.75, 0.875)


def test_agreement_of_two_judges_by_hand(tmp_path: Path) -> None:
    # small: a a b tie; large, of the same pairs in the other order: a b b tie.
    made = []
    for small, large in [(0.9, 0.2), (0.8, 0.7), (0.1, 0.6), (0.5, 0.5)]:
        of = revised(small)
        of.verdicts[0].judge = "small"
        of.verdicts.append(verdict(0, 1, large, judge="large"))
        made.append(of)
    made[0].verdicts.append(verdict(1, 0, None, judge="third"))
    [report] = export([PreferenceView()], source(*made), tmp_path, {})
    [found] = report.agreements
    assert (found.first, found.second, found.comparisons) == ("large", "small", 4)
    assert found.share == 0.75
    # chance: (2 * 1 + 1 * 2 + 1 * 1) / 16 = 5/16; kappa = (3/4 - 5/16) / (11/16) = 7/11
    assert found.kappa == pytest.approx(7 / 11)
    card = (tmp_path / "preference" / "README.md").read_text(encoding="utf-8")
    assert "| `large`, `small` | 4 | 75.0% | 0.64 |" in card


def test_judges_that_always_say_the_same_word_have_no_kappa(tmp_path: Path) -> None:
    of = revised(0.9)
    of.verdicts.append(verdict(1, 0, 0.8, judge="second"))
    [report] = export([PreferenceView()], source(of), tmp_path, {})
    assert [(a.share, a.kappa) for a in report.agreements] == [(1.0, None)]


def test_notes_and_cut_answers_are_in_the_card(tmp_path: Path) -> None:
    facts = {"cut": {"generate": [3, 8], "critique": [0, 4], "judge": [0, 0]}}
    [report] = export([SftView()], source(chain("short"), cut("new")), tmp_path, facts)
    assert (report.rows, report.drops, report.notes) == (
        1,
        {"truncated": 1},
        {"revision-dropped": 1},
    )
    card = (tmp_path / "sft" / "README.md").read_text(encoding="utf-8")
    assert "| `revision-dropped` | a filter dropped the revision, and" in card
    assert "| `truncated` | cut off at max_tokens | 1 |" in card
    assert "| `generate` | 8 | 3 (37.5%) |\n| `critique` | 4 | 0 (0.0%) |\n\n" in card
    assert "More than 10% in `generate`: raise `sampling.max_tokens` there" in card


def test_judge_is_only_reported_where_the_view_rests_on_it(tmp_path: Path) -> None:
    views: list[View] = [
        SftView(),
        PreferenceView(verified=False),
        KtoView(threshold=2.0, name="scored"),
    ]
    of = revised()
    of.scores = [Score("quality", 0, 1.0), Score("quality", 1, None)]
    sft, unverified, kto = export(views, source(of), tmp_path, {})
    assert (sft.judges, unverified.judges, kto.judges) == ({}, {}, {})
    assert (sft.scores, unverified.scores) == ({}, {})
    assert (kto.scores["quality"].scores, kto.scores["quality"].unparsed) == (2, 1)


def test_share_of_good_labels(tmp_path: Path) -> None:
    [report] = export([KtoView(threshold=3.0)], source(scored(1, 2, 3, 9)), tmp_path, {})
    assert report.shares == {"label": 0.5}


def test_quartiles_of_many_values_stay_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.export.statistics.RESERVOIR", 2_000)
    numbers = Numbers()
    for i in range(100_001):
        numbers.add(i / 100_000)
    spread = numbers.spread()
    assert (spread.count, spread.min, spread.max) == (100_001, 0.0, 1.0)
    assert spread.mean == pytest.approx(0.5)
    for found, true in ((spread.q1, 0.25), (spread.median, 0.5), (spread.q3, 0.75)):
        assert found == pytest.approx(true, abs=0.05)  # 4 standard errors


def test_numbers_are_found_in_the_features() -> None:
    statistics = RowStatistics(KtoView().features())
    statistics.add(rows(KtoView(threshold=1.0), scored(2.0, texts="a"))[0])
    assert list(statistics.spreads()) == ["completion words", "score"]


FACTS: dict[str, Any] = {
    "run_name": "quickstart",
    "factory_version": "0.1.0",
    "constitution": {"name": "harmless", "version": "1.2.0", "digest": "abc123"},
    "models": {"policy": {"model": "smollm2", "fingerprint": "f00d"}},
    "tokens": {"prompt": 12_345, "cached": 6_789, "output": 1_000},
    "counts": {"samples": 5, "quarantined": 1},
    "recipe": "name: quickstart\nnote: |\n  ```\n  </details>\n",
}


def test_card_says_what_the_data_is_and_where_it_comes_from(tmp_path: Path) -> None:
    export([PreferenceView()], source(*mixed()), tmp_path, FACTS)
    card = (tmp_path / "preference" / "README.md").read_text(encoding="utf-8")
    read = DatasetCard(card)
    assert read.data.to_dict() == {
        "pretty_name": "quickstart preference",
        "tags": ["factory", "synthetic", "rlaif", "trl", "dpo"],
        "size_categories": ["n<1K"],
    }
    for line in (
        "3 rows from 3 prompts of the run `quickstart`.",
        "Fewer than 2,000 pairs",
        'data = load_from_disk("preference")',
        "trainer = DPOTrainer(",
        "| `tie` | neither answer is better | 1 |",
        "| `judge` | 5 | 1 | 1 (25.0%) | 0.200 |",
        "longer one in 33.3% of pairs (1 of 3; 1 of equal length)",
        "chosen 2.0 words, rejected 2.3",
        "| `margin` | 3 | 0.75 | 0.5 | 0.625 | 0.75 | 0.875 | 1 |",
        "constitution `harmless`, version `1.2.0`, digest `abc123`",
        "model `policy`: `smollm2`, fingerprint `f00d`",
        "5 samples, 1 quarantined",
        "12,345 prompt tokens, 1,000 output tokens",
        "````yaml\nname: quickstart",  # a longer fence than any within
    ):
        assert line in read.text


def test_card_holds_no_text_of_a_model(tmp_path: Path) -> None:
    export(ALL_VIEWS, source(revised(0.9, "XYZZY before", "XYZZY after")), tmp_path, {})
    for kind in (view.kind for view in ALL_VIEWS):
        assert "XYZZY" not in (tmp_path / kind / "README.md").read_text(encoding="utf-8")


def test_names_in_the_card_cannot_act_as_markdown(tmp_path: Path) -> None:
    of = revised(0.9)
    of.verdicts[0].judge = "evil`|\n# <b>"
    export([PreferenceView()], source(of), tmp_path, {})
    card = (tmp_path / "preference" / "README.md").read_text(encoding="utf-8")
    assert "| `evil   # <b>` | 1 |" in card
