"""People's decisions applied to pairs, and read as gold, with answers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from factory.cli.runs import export as export_command
from factory.core.errors import RecipeError
from factory.core.records import Candidate, Message, Sample
from factory.evaluation.eval_judge import evaluate_judge, judge_columns
from factory.evaluation.people import open_comparisons
from factory.evaluation.scorer import judge_of
from factory.export.decisions import (
    Decision,
    by_pair,
    consensus,
    content_hash,
    in_order,
    line_of,
    newest,
    path_of,
    read_file,
)
from factory.export.preference import PreferenceView
from factory.export.reviewed import Reviewed
from factory.export.view import REASONS, Drop, Note
from factory.review.agreement import figure
from factory.sources.benchmarks import Labels
from tests.reviewing import judged, made_run
from tests.test_evaluate import JUDGE, Scripted, likes_long
from tests.test_evaluate import recipe as scorer_recipe


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.stats.bootstrap._RESAMPLES", 50)


PROMPT: list[Message] = [{"role": "user", "content": "Is 0 a number?"}]
YES, NO = "Yes, to number 0.", "No, not to number 0."


def decision(of: Sample, better: str | None, **more: Any) -> Decision:
    """`better`: the text of the better answer, or another label."""
    (prompt_id, a, b), first, second = in_order(of, of.candidates[0], of.candidates[1])
    texts = {first.text: "a", second.text: "b"}
    fields: dict[str, Any] = {"reviewer": "anna", "label": texts.get(better or "", better)}
    return Decision(
        **{"prompt_id": prompt_id, "a": a, "b": b, "prompt": of.prompt},
        **{"response_a": first.text, "response_b": second.text},
        **(fields | more),
    )


def applied(of: Sample, *decisions: Decision, **view: Any) -> tuple[list[Any], Reviewed]:
    """What the view makes of the sample: (chosen, rejected, reviewed, edited) or a reason."""
    reviews: dict[str, list[Decision]] = {}
    for one in decisions:
        reviews.setdefault(one.reviewer or "", []).append(one)
    rules = PreferenceView(**({"pairs": "all_pairs"} | view))
    reviewed = Reviewed(rules, {name: newest(made) for name, made in reviews.items()})
    made: list[Any] = []
    for row in reviewed.rows(of):
        if isinstance(row, Drop):
            assert row.reason in REASONS
            made.append(row.reason)
        elif not isinstance(row, Note):
            assert list(row) == list(reviewed.features())
            texts = (row["chosen"][0]["content"], row["rejected"][0]["content"])
            made.append((*texts, row["reviewed"], row["edited"]))
    return made, reviewed


def counts(reviewed: Reviewed) -> dict[str, int]:
    """Those that are not zero."""
    return {name: n for name, n in msgspec.structs.asdict(reviewed.people()).items() if n}


# -- one reviewer


def test_an_agreeing_decision_keeps_the_row_and_the_judges_figures() -> None:
    of = judged(0, 0.75)
    made, reviewed = applied(of, decision(of, YES))
    assert made == [(YES, NO, True, False)]
    assert counts(reviewed) == {"reviewers": 1, "decided": 1, "rows": 1, "confirmed": 1}
    [row] = reviewed.rows(of)
    assert isinstance(row, dict)
    assert (row["preference"], row["margin"]) == (0.75, 0.5)


def test_a_contrary_decision_swaps_the_answers_and_leaves_the_judges_figures_out() -> None:
    of = judged(0, 0.75)
    made, reviewed = applied(of, decision(of, NO))
    assert made == [(NO, YES, True, False)]
    assert counts(reviewed) == {"reviewers": 1, "decided": 1, "rows": 1, "swapped": 1}
    [row] = reviewed.rows(of)
    assert isinstance(row, dict)
    figures = ("preference", "margin", "chosen_score", "rejected_score", "agreement")
    assert [row[name] for name in figures] == [None] * 5
    assert row["judged_by"] == ["kind-words"]


@pytest.mark.parametrize(
    ("label", "reason"), [("tie", "reviewed-tie"), ("both_bad", "reviewed-both-bad")]
)
def test_a_pair_without_a_better_answer_is_dropped(label: str, reason: str) -> None:
    of = judged(0, 0.75)
    made, reviewed = applied(of, decision(of, label))
    assert made == [reason]
    assert counts(reviewed) == {"reviewers": 1, "decided": 1, "dropped": 1}


def test_an_edited_text_is_chosen_over_the_other_answer() -> None:
    of = judged(0, 0.75)
    of.candidates[1].finish_reason = "length"
    made, reviewed = applied(of, decision(of, NO, edit="No."), truncated="keep")
    assert made == [("No.", YES, True, True)]
    [row] = reviewed.rows(of)
    assert isinstance(row, dict)
    assert (row["chosen_origin"], row["chosen_finish_reason"]) == ("edit", "stop")
    agreeing, reviewed = applied(of, decision(of, YES, edit="Yes."), truncated="keep")
    assert agreeing == [("Yes.", NO, True, True)]
    [row] = reviewed.rows(of)
    assert isinstance(row, dict)
    assert row["margin"] is None  # the judge never saw this text


@pytest.mark.parametrize(
    ("p", "view", "reason"),
    [
        (0.5, {}, "tie"),
        (0.55, {"min_margin": 0.2}, "margin-too-small"),
        (None, {"pairs": "revision_vs_initial"}, "unparsed"),
    ],
)
def test_people_decide_pairs_that_the_view_drops(
    p: float | None, view: dict[str, Any], reason: str
) -> None:
    of = judged(0, p)
    of.candidates[1].parent = 0
    assert applied(of, **view)[0] == [reason]
    made, reviewed = applied(of, decision(of, NO), **view)
    assert made == [(NO, YES, True, False)]
    assert counts(reviewed) == {"reviewers": 1, "decided": 1, "rows": 1, "rescued": 1}


def test_a_revision_that_the_judge_refused_may_be_chosen_by_people() -> None:
    of = judged(0, 0.75)
    of.candidates[1].parent = 0
    by_revision = {"pairs": "revision_vs_initial"}
    assert applied(of, **by_revision)[0] == ["revision-not-preferred"]
    assert applied(of, decision(of, NO), **by_revision)[0] == [(NO, YES, True, False)]


def test_an_undone_or_skipped_decision_changes_nothing() -> None:
    of = judged(0, 0.75)
    for label in ("undone", "skip"):
        made, _ = applied(of, decision(of, NO), decision(of, label))
        assert made == [(YES, NO, False, False)]


def test_the_newest_decision_counts() -> None:
    of = judged(0, 0.75)
    assert applied(of, decision(of, NO), decision(of, YES))[0] == [(YES, NO, True, False)]


# -- texts that changed


def test_a_decision_about_texts_that_are_gone_is_stale_and_applied_to_no_others() -> None:
    before, now = judged(0, 0.75), judged(0, 0.75, YES, "No!")
    made, reviewed = applied(now, decision(before, NO))
    assert made == [(YES, "No!", False, False)]
    assert counts(reviewed) == {"reviewers": 1, "decided": 1, "stale": 1}


def test_the_same_answers_to_another_prompt_are_other_texts() -> None:
    before, now = judged(0, 0.75), judged(0, 0.75)
    now.prompt = [{"role": "user", "content": "Is nought a number?"}]
    assert counts(applied(now, decision(before, NO))[1])["stale"] == 1


def test_texts_that_the_view_does_not_pair_are_not_stale() -> None:
    of = judged(0, 0.75)
    of.candidates[1].drop_reason = "too long"
    made, reviewed = applied(of, decision(of, NO))
    assert made == ["too-few-scored"]
    assert counts(reviewed) == {"reviewers": 1, "decided": 1, "elsewhere": 1}


def test_candidates_may_change_places() -> None:
    before, now = judged(0, 0.75), judged(0, 0.25, NO, YES)
    assert applied(now, decision(before, NO))[0] == [(NO, YES, True, False)]


def test_a_hash_is_of_the_prompt_and_the_text() -> None:
    other = [Message(role="system", content="Is 0 a number?")]
    assert len({content_hash(PROMPT, YES), content_hash(PROMPT, NO), content_hash(other, YES)}) == 3


# -- several reviewers


def said(*labels: str, **more: Any) -> Any:
    of = judged(0, 0.75)
    return consensus(decision(of, label, reviewer=str(i)) for i, label in enumerate(labels))


def test_more_than_half_of_the_reviewers_decide() -> None:
    assert said("a", "a", "b").label == "a"
    assert said("a", "b").label is None
    assert said("a", "b", "tie").label is None
    assert said("tie", "tie", "b").label == "tie"
    assert said("skip", "b").label == "b"
    assert said("skip") is None


def test_reviewers_who_disagree_drop_the_pair() -> None:
    of = judged(0, 0.75)
    made, reviewed = applied(of, decision(of, NO), decision(of, YES, reviewer="bo"))
    assert made == ["reviewers-disagree"]
    assert counts(reviewed) == {"reviewers": 2, "decided": 1, "dropped": 1}


def test_of_several_edits_the_newest_of_the_majority_counts() -> None:
    of = judged(0, 0.75)
    votes = [
        decision(of, NO, reviewer="1", edit="No 1.", at="2026-01-02T00:00:00Z"),
        decision(of, NO, reviewer="2", edit="No 2.", at="2026-01-01T00:00:00Z"),
        decision(of, YES, reviewer="3", edit="Yes 3.", at="2026-01-03T00:00:00Z"),
    ]
    found = consensus(votes)
    assert found is not None
    assert (found.edit, found.reviewers) == ("No 1.", 3)


def test_kappa_of_two_reviewers_by_hand() -> None:
    first = {(f"p{i}", "x", "y"): label for i, label in enumerate([1, 1, 2, 2, 0, 0])}
    second = {(f"p{i}", "x", "y"): label for i, label in enumerate([1, 2, 0, 2, 0])}
    found = figure("bo", first, second)  # the sixth pair is the first one's alone
    assert (found.pairs, found.same.value) == (5, 3 / 5)
    # first: 1 .4, 2 .4, 0 .2; second: 1 .2, 2 .4, 0 .4
    chance = 0.4 * 0.2 + 0.4 * 0.4 + 0.2 * 0.4
    assert found.kappa.value == pytest.approx((0.6 - chance) / (1 - chance))


# -- files


def test_a_line_that_was_cut_is_no_decision(tmp_path: Path) -> None:
    of = judged(0, 0.75)
    whole = line_of(decision(of, YES))
    path = tmp_path / "decisions.jsonl"
    for cut in (0, 1, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole + whole[:cut])
        assert read_file(path) == [decision(of, YES)]
    path.write_bytes(whole + whole[:-1])  # only the end of the line is missing
    assert len(read_file(path)) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{}", r"decisions\.jsonl:2: no decision \(Object missing required field `prompt_id`"),
        (b"nonsense", r":2: no decision \(JSON is malformed"),
        (
            b'{"prompt_id":"p","a":"2","b":"1","label":"a"}',
            ":2: a is '2' and b is '1', expected two",
        ),
        (
            b'{"prompt_id":"p","a":"1","b":"2","label":"c"}',
            ":2: no decision .*Invalid enum value 'c'",
        ),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(line_of(decision(judged(0, 0.5), YES)) + line + b"\n")
    with pytest.raises(RecipeError, match=message):
        read_file(path)


# -- the datasets


def written(run: Path, *decisions: Decision) -> None:
    for (name, *_), made in by_name(decisions).items():
        path = path_of(run, name)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"".join(map(line_of, made)))


def by_name(decisions: tuple[Decision, ...]) -> dict[tuple[str], list[Decision]]:
    found: dict[tuple[str], list[Decision]] = {}
    for one in decisions:
        found.setdefault((one.reviewer or "",), []).append(one)
    return found


def test_export_reviewed_leaves_the_run_and_tells_what_became_of_the_decisions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from datasets import load_from_disk

    samples = [judged(i, 0.75) for i in range(4)]
    run = made_run(tmp_path / "run", samples)
    gone = judged(3, 0.75, "Once there", "And there")
    better = ["No, not to number 0.", "Yes, to number 1.", "tie"]
    written(run, *map(decision, samples, better), decision(gone, "tie"))
    export_command(run, is_reviewed=True)
    data = load_from_disk(run / "reviewed" / "preference")
    assert data["prompt_id"][:] == ["p0", "p1", "p3"]
    assert data["reviewed"][:] == [True, True, False]
    assert [row[0]["content"] for row in data["chosen"]] == [
        "No, not to number 0.",
        "Yes, to number 1.",
        "Yes, to number 3.",
    ]
    assert not (run / "datasets").exists()
    card = (run / "reviewed" / "preference" / "README.md").read_text()
    assert "People chose in 2 of them; the other answers" in card
    assert "| a row, chosen and rejected swapped | 1 |" in card
    assert "| none: the texts are no longer in the run | 1 |" in card
    assert "| `reviewed-tie` | people find neither answer better | 1 |" in card
    told = " ".join(capsys.readouterr().out.split())
    assert "people: 2 rows by people's decision (1 as the run had them, 1 swapped" in told
    assert "1 stale: their texts are no longer in the run" in told


def test_export_reviewed_without_a_decision_says_what_to_do(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [judged(0, 0.75)])
    with pytest.raises(RecipeError, match=r"--reviewed: nobody has decided a pair of .* review "):
        export_command(run, is_reviewed=True)


def test_export_reviewed_needs_a_view_of_pairs(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [judged(0, 0.75)])
    written(run, decision(judged(0, 0.75), YES))
    with pytest.raises(RecipeError, match="the recipe has no view of pairs; add"):
        export_command(run, is_reviewed=True, set_=["views=[{kind: sft}]"])


# -- gold for `factory eval judge`


def measured(data: Path, folder: Path) -> Any:
    by = judge_of(scorer_recipe(folder, JUDGE, task="generate"))
    rows = open_comparisons(str(data))
    return evaluate_judge(rows, by, folder / "work", engines={"m": Scripted(likes_long)}).report


def test_decisions_are_gold_for_a_judge(tmp_path: Path) -> None:
    samples = [judged(i, 0.75, f"{i}: a long answer", f"{i}: short") for i in range(4)]
    better = ["0: a long answer", "1: short", "both_bad", "skip"]
    run = made_run(tmp_path / "run", samples)
    written(
        run,
        *map(decision, samples, better),
        decision(samples[0], "undone"),
        decision(samples[0], "0: a long answer"),
        decision(samples[0], "0: short", reviewer="bo"),
    )
    # By anna alone: the judge likes the long answer: right once, wrong once and at the tie.
    report = measured(path_of(run, "anna"), tmp_path)
    assert report.comparisons == 3
    assert report.three_way.judge.value == pytest.approx(1 / 3)
    # By both, the first pair has no majority.
    for data in (run, run / "reviews"):
        report = measured(data, tmp_path)
        assert (report.comparisons, report.no_majority) == (3, 1)
        assert report.between_people.value == 0


def test_a_reviewed_export_is_gold_where_people_looked(tmp_path: Path) -> None:
    samples = [judged(i, 0.75, f"No. {i}: a long answer", f"No. {i}: short") for i in range(8)]
    better = [f"No. {i}: short" if i < 2 else f"No. {i}: a long answer" for i in range(6)]
    run = made_run(tmp_path / "run", samples)
    written(run, *map(decision, samples, better))
    export_command(run, is_reviewed=True)
    report = measured(run / "reviewed" / "preference", tmp_path)
    assert (report.comparisons, report.unlabelled) == (8, 2)
    assert report.decided.judge.value == pytest.approx(4 / 6)
    assert report.decided.always_a.value not in (0.0, 1.0)  # sides follow the texts


def test_pairs_that_a_judge_chose_are_no_gold(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [judged(0, 0.75)])
    export_command(run)
    with pytest.raises(RecipeError, match="was chosen by a judge or by scores, not by people"):
        open_comparisons(str(run / "datasets" / "preference"))


def test_other_rows_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p", "response_a": "x", "response_b": "y", "label": "a"}\n')
    rows = open_comparisons(str(path))
    assert judge_columns(rows, {}).labels == ("label",)
    [row] = rows.read()
    assert Labels().read(row["label"]) == 1
    same_names = {"prompt_id": "1", "a": "one", "b": "two", "label": "a", "prompt": []}
    path.write_text(json.dumps(same_names) + "\n")
    assert "a" in open_comparisons(str(path)).features


def test_by_pair_is_in_the_order_of_names() -> None:
    of = judged(0, 0.5)
    votes = {name: newest([decision(of, YES, reviewer=name)]) for name in ("bo", "anna")}
    [made] = by_pair(votes).values()
    assert [d.reviewer for d in made] == ["anna", "bo"]
    assert isinstance(of.candidates[0], Candidate)
