"""PRM800K lines of every kind, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.core.errors import RecipeError, SourceError
from factory.sources import prm800k
from factory.sources.prm800k import BadLine, Dropped, ProcessRow, from_view, is_prm800k, read, write

REAL = Path(__file__).parents[2] / "shared/data/process/prm_steps_dev.jsonl"


def step(*completions: tuple[str, Any], chosen: int | None = 0, human: Any = None) -> dict:
    return {
        "completions": [{"text": t, "rating": r, "flagged": None} for t, r in completions],
        "human_completion": human,
        "chosen_completion": chosen,
    }


def line(*steps: dict, finish: str = "solution", **more: Any) -> dict:
    return {
        "labeler": "340d89bc",
        "timestamp": "2023-01-22T04:34:27.052924",
        "generation": 9,
        "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {
            "problem": "What is 1 + 1?",
            "ground_truth_solution": "It is 2.",
            "ground_truth_answer": "2",
            "pre_generated_steps": ["a"],
            "pre_generated_answer": "3",
            "pre_generated_verifier_score": 0.01,
        },
        "label": {"steps": list(steps), "total_time": 278270, "finish_reason": finish},
        **more,
    }


def found(tmp_path: Path, *lines: dict | bytes) -> list[ProcessRow | Dropped | BadLine]:
    file = tmp_path / "prm.jsonl"
    raw = [given if isinstance(given, bytes) else json.dumps(given).encode() for given in lines]
    file.write_bytes(b"\n".join(raw))
    return list(read(file))


def row(steps: list[str], ratings: list[int | None], **more: Any) -> ProcessRow:
    return ProcessRow("What is 1 + 1?", steps, ratings, answer="2", line=1, **more)


# -- what becomes a row --------------------------------------------------------------------------


def test_a_solution_is_one_row(tmp_path):
    given = line(step(("a", 1)), step(("b", 0)), step(("c", 1)))
    assert found(tmp_path, given) == [row(["a", "b", "c"], [1, 0, 1])]


def test_a_solution_stopped_at_its_error_ends_with_it(tmp_path):
    """Phase 2: nothing is chosen at the error; alternatives to it were rated too. Every rating of
    the line stands in exactly one row."""
    given = line(
        step(("a", 0)),
        step(("good", 0), ("wrong", -1), ("better", 1), ("worse", -1), chosen=None),
        finish="found_error",
    )
    more: dict[str, Any] = {"finish_reason": "found_error", "shared": [0]}
    assert found(tmp_path, given) == [
        row(["a", "wrong"], [0, -1], finish_reason="found_error"),
        row(["a", "good"], [None, 0], **more),
        row(["a", "better"], [None, 1], **more),
        row(["a", "worse"], [None, -1], **more),
    ]


def test_alternatives_share_the_prefix_and_the_chosen_one_goes_on(tmp_path):
    given = line(
        step(("a0", -1), ("a1", 1), chosen=1),
        step(("b0", 1), ("b1", None), ("b2", 0), chosen=0),
        step(("c0", 1)),
    )
    assert found(tmp_path, given) == [
        row(["a1", "b0", "c0"], [1, 1, 1]),
        row(["a0"], [-1]),
        Dropped(1, "alternative without a rating"),
        row(["a1", "b2"], [None, 0], shared=[1]),
    ]


@pytest.mark.parametrize(
    "human",
    [{"text": "mine", "rating": None, "source": "human", "flagged": False}, {"text": "mine"}],
)
def test_a_step_the_labeler_wrote_goes_on_and_is_right(tmp_path, human):
    given = line(step(("a", -1), ("b", -1), chosen=None, human=human), step(("c", 1)))
    assert found(tmp_path, given) == [
        row(["mine", "c"], [1, 1]),
        row(["a"], [-1]),
        row(["b"], [-1]),
    ]


def test_a_flagged_step_of_the_labelers_own_is_not_known_to_be_right(tmp_path):
    human = {"text": "mine", "rating": None, "flagged": True}
    given = line(step(("a", -1), chosen=None, human=human), step(("c", 1)))
    assert found(tmp_path, given)[0] == row(["mine", "c"], [None, 1])


def test_a_chosen_step_without_a_rating_stays_unknown(tmp_path):
    given = line(step(("a", None)), step(("b", 1)))
    assert found(tmp_path, given) == [row(["a", "b"], [None, 1])]


def test_phase_1_has_no_ground_truth_and_may_give_up(tmp_path):
    given = line(step(("a", 1)), step(("b", -1), chosen=None), finish="give_up", generation=None)
    given["question"] = {"problem": "What is 1 + 1?"}
    expected = row(["a", "b"], [1, -1], finish_reason="give_up")
    expected.answer = None
    assert found(tmp_path, given) == [expected]


def test_a_step_without_completions_ends_the_solution(tmp_path):
    empty = {"completions": None, "human_completion": None, "chosen_completion": None}
    assert found(tmp_path, line(step(("a", 1)), empty)) == [row(["a"], [1])]
    assert found(tmp_path, line(step(("a", 1)), empty, step(("b", 1)))) == [
        row(["a"], [1]),
        Dropped(1, "steps after one where nothing was chosen"),
    ]


def test_a_blank_step_is_left_out_and_counted(tmp_path):
    given = line(step(("a", 1)), step((" ", 1), ("b", -1)), step(("c", 1)))
    assert found(tmp_path, given) == [
        row(["a", "c"], [1, 1]),
        Dropped(1, "blank step"),
        row(["a", "b"], [None, -1], shared=[1]),
    ]


# -- what does not -------------------------------------------------------------------------------


def test_lines_are_dropped_by_rule_with_the_reason(tmp_path):
    rated = step(("a", 1))
    assert found(
        tmp_path,
        line(rated, is_quality_control_question=True),
        line(rated, is_initial_screening_question=True),
        line(rated, finish="bad_problem"),
        line(step(("a", None))),
        line(),
    ) == [
        Dropped(1, "quality control"),
        Dropped(2, "initial screening"),
        Dropped(3, "bad problem"),
        Dropped(4, "no rating on the solution's path"),
        Dropped(5, "no rating on the solution's path"),
    ]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            line(step(("a", 1), ("b", 2))),
            "label.steps[0].completions[1].rating: 2; a rating is -1, 0, 1 or null",
        ),
        (line(step(("a", "1"))), "Expected `int | null`, got `str`"),
        (line(step(("a", 0.5))), "Expected `int | null`, got `float`"),
        (line(step(("a", True))), "Expected `int | null`, got `bool`"),
        (line(step((None, 1))), "Expected `str`, got `null`"),
        (line(step(("a", 1), chosen=1)), "label.steps[0].chosen_completion: 1, of 1 completions"),
        (line(step(("a", 1), chosen=-1)), "label.steps[0].chosen_completion: -1, of 1"),
        (
            line(step(("a", -1), chosen=None, human={"text": "b", "rating": 5})),
            "label.steps[0].human_completion.rating: 5",
        ),
        (line(step(("a", 1)), finish="bored"), "label.finish_reason: expected found_error"),
        (line(step(("a", 1)), question={"problem": " "}), "question.problem is blank"),
        (line(step(("a", 1)), question={}), "missing required field `problem`"),
        ({"question": {"problem": "a"}}, "missing required field `label`"),
        (b'{"question": ', "not JSON"),
        (b"[1]", "not an object"),
        (b'{"question": "\xff"}', "not UTF-8: byte 0xff at byte offset 14"),
    ],
)
def test_a_line_of_another_shape_is_quarantined_and_the_next_is_read(tmp_path, given, reason):
    bad, good = found(tmp_path, given, line(step(("a", 1))))
    assert isinstance(bad, BadLine)
    assert bad.line == 1
    assert reason in bad.reason
    assert bad.raw
    assert good == ProcessRow("What is 1 + 1?", ["a"], [1], "2", line=2)


def test_a_bad_line_is_kept_to_a_length(tmp_path):
    (bad,) = found(tmp_path, b'{"question": "' + b"x" * 5000)
    assert isinstance(bad, BadLine)
    assert len(bad.raw) == prm800k.RAW_CHARS


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SourceError, match="cannot be read"):
        list(read(tmp_path / "none.jsonl"))


def test_it_is_recognised_by_its_first_readable_line(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("not json\n" + json.dumps(line(step(("a", 1)))))
    assert is_prm800k(file)
    file.write_text('{"prompt": "a", "completions": ["b"], "labels": [true]}\n')
    assert not is_prm800k(file)
    file.write_text("")
    assert not is_prm800k(file)


# -- writing -------------------------------------------------------------------------------------


def test_a_written_line_is_of_the_published_shape(tmp_path):
    file = tmp_path / "out.jsonl"
    assert write([row(["a", "b", "ü"], [1, None, -1])], file, "prm") == 1
    (written,) = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert written == {
        "labeler": "prm",
        "timestamp": None,
        "generation": None,
        "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {
            "problem": "What is 1 + 1?",
            "ground_truth_solution": None,
            "ground_truth_answer": "2",
        },
        "label": {
            "steps": [
                {
                    "completions": [{"text": text, "rating": rating, "flagged": False}],
                    "human_completion": None,
                    "chosen_completion": chosen,
                }
                for text, rating, chosen in [("a", 1, 0), ("b", None, 0), ("ü", -1, None)]
            ],
            "total_time": None,
            "finish_reason": "found_error",
        },
    }


def test_steps_after_the_first_error_are_unknown_and_the_solution_has_one(tmp_path):
    write([row(["a", "b", "c"], [1, -1, None])], tmp_path / "out.jsonl")
    label = json.loads((tmp_path / "out.jsonl").read_text())["label"]
    assert label["finish_reason"] == "found_error"


def test_only_a_first_error_at_the_end_is_not_chosen(tmp_path):
    file = tmp_path / "out.jsonl"
    write([row(["a", "b"], [-1, -1]), row(["a", "b"], [-1, 0])], file)
    labels = [json.loads(text)["label"] for text in file.read_text().splitlines()]
    assert [label["finish_reason"] for label in labels] == ["found_error", "solution"]
    assert [[s["chosen_completion"] for s in label["steps"]] for label in labels] == [[0, 0]] * 2


ratings = st.lists(st.sampled_from([-1, 0, 1, None]), min_size=1, max_size=6).filter(
    lambda given: any(rating is not None for rating in given)
)


@given(st.lists(ratings, min_size=1, max_size=4))
def test_what_is_written_is_read_back(tmp_path_factory, given):
    file = tmp_path_factory.getbasetemp() / "round.jsonl"
    rows = [
        ProcessRow("Why?", [f"step\n{n}" for n in range(len(each))], each, None, line=number)
        for number, each in enumerate(given, start=1)
    ]
    for each in rows:
        known = [rating for rating in each.ratings if rating is not None]
        each.finish_reason = "found_error" if known[-1] == -1 else "solution"
    write(rows, file)
    assert list(read(file)) == rows


def test_the_file_is_whole_or_what_it_was(tmp_path):
    file = tmp_path / "out.jsonl"
    file.write_text("before")

    def broken():
        yield row(["a"], [1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(broken(), file)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert file.read_text() == "before"
    with pytest.raises(RecipeError, match="cannot be written: No such file"):
        write([], tmp_path / "none" / "out.jsonl")


def test_a_row_of_a_view_becomes_a_process_row():
    user = {"role": "user", "content": "Why?"}
    system = {"role": "system", "content": "Be brief."}
    given = {"prompt": [user], "completions": ["a", "b", "c"], "labels": [True, False, None]}
    assert from_view(given) == ProcessRow("Why?", ["a", "b", "c"], [1, -1, None])
    assert from_view(given | {"prompt": "Why?", "labels": [1, 0, -1]}).ratings == [1, 0, -1]
    assert from_view(given | {"prompt": [system, user]}).prompt == "System: Be brief.\n\nUser: Why?"
    with pytest.raises(ValueError, match="3 completions and 1 labels"):
        from_view(given | {"labels": [True]})
    with pytest.raises(ValueError, match=r"found 0\.5"):
        from_view(given | {"labels": [0.5, 1, 1]})


@pytest.mark.skipif(not REAL.exists(), reason="the data is not here")
def test_a_real_file_is_read_whole_and_written_back(tmp_path):
    given = list(read(REAL))
    rows = [each for each in given if isinstance(each, ProcessRow)]
    assert (len(rows), sum(each.ratings[-1] == -1 for each in rows)) == (3000, 2330)
    assert [each for each in given if not isinstance(each, ProcessRow)] == [
        Dropped(1322, "blank step")
    ] * 3
    write(rows, tmp_path / "out.jsonl", "prmbench")
    assert list(read(tmp_path / "out.jsonl")) == rows
    pairs = zip(
        REAL.read_text().splitlines(),
        (tmp_path / "out.jsonl").read_text().splitlines(),
        strict=True,
    )
    different = [n for n, (a, b) in enumerate(pairs, 1) if json.loads(a) != json.loads(b)]
    assert different == [1322]
