"""Process reward figures and the ProcessBench reader, against answers worked by hand."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.core.errors import RecipeError
from factory.evaluation.first_error import RIGHT, best_threshold, predicted, truth
from factory.evaluation.process import ProcessReport, process_report
from factory.evaluation.step_scores import ProcessRow
from factory.sources.benchmarks import read_processbench
from factory.stats.bootstrap import Estimate
from factory.stats.ranks import Ranks, auc

pytestmark = pytest.mark.usefixtures("few_resamples")


def solution(
    scores: list[float | None],
    labels: list[bool | None],
    *,
    prompt: str = "p",
    subset: str | None = None,
    words: list[int] | None = None,
    is_right: bool | None = None,
) -> ProcessRow:
    return ProcessRow(prompt, scores, labels, subset, words or [], is_right)


# -- the area under the ROC curve ----------------------------------------------------------------


def area(values, positive, weights=None):
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    return auc(Ranks(values), np.array(positive, dtype=bool), weights)


def test_auc_counts_ties_half():
    # Right .9, .5 against wrong .5, .1: three of the four pairs are in order and one is a tie.
    assert area([0.9, 0.5, 0.5, 0.1], [True, True, False, False]) == 3.5 / 4


def test_auc_of_one_class_is_undefined():
    assert area([0.1, 0.2], [True, True]) is None
    assert area([0.1, 0.2], [True, False], [2, 0]) is None


cases = st.lists(
    st.tuples(st.integers(-4, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=15
)


@given(cases)
def test_auc_is_the_share_of_pairs_in_order(rows):
    values, positive, weights = zip(*rows, strict=True)
    pairs = [
        (w * v, (a > b) + 0.5 * (a == b))
        for a, is_a, w in rows
        for b, is_b, v in rows
        if is_a and not is_b and w and v
    ]
    found = area(values, positive, weights)
    if not pairs:
        assert found is None
    else:
        assert found == pytest.approx(sum(n * x for n, x in pairs) / sum(n for n, _ in pairs))


@given(cases)
def test_negated_scores_have_the_rest_of_the_auc(rows):
    values, positive, _ = zip(*rows, strict=True)
    found = area(values, positive)
    if found is not None:
        assert area([-v for v in values], positive) == pytest.approx(1 - found)
        assert area(values, [not is_positive for is_positive in positive]) == pytest.approx(
            1 - found
        )


# -- first errors --------------------------------------------------------------------------------


def test_the_truth_is_the_first_wrong_step():
    assert truth([True, None, False, False]) == 2
    assert truth([True, None, True]) == RIGHT
    assert truth([None, None]) is None


def test_the_first_step_below_the_threshold_is_predicted():
    assert predicted([0.9, 0.5, 0.49, 0.1], 0.5) == 2
    assert predicted([0.9, 0.5], 0.5) == RIGHT
    assert predicted([0.2, None], 0.5) == 0  # what follows the error does not matter
    assert predicted([None, 0.2], 0.5) is None
    assert predicted([0.9, None], 0.5) is None


FOUR = [
    solution([0.9, 0.2], [True, False], prompt="a"),  # found
    solution([0.1, 0.2], [True, False], prompt="b"),  # too early
    solution([0.9, 0.8, 0.1], [True, False, None], prompt="c"),  # too late
    solution([0.9, 0.6], [True, True], prompt="d"),  # no error, none found
    solution([0.9, 0.4], [True, True], prompt="e"),  # no error, one found
]


def test_f1_is_the_harmonic_mean_of_wrong_and_right_solutions():
    found = process_report(FOUR).overall
    assert (found.wrong, found.right) == (3, 2)
    assert found.on_wrong.value == pytest.approx(1 / 3)
    assert found.on_right.value == 1 / 2
    assert found.f1.value == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    assert 0 <= found.f1.low <= found.f1.value <= found.f1.high <= 1
    # Resamples of five prompts sometimes have no wrong or no right solution at all.
    assert found.f1.undefined > 0


def test_f1_of_one_kind_of_solution_is_undefined_and_of_no_hit_is_zero():
    assert process_report(FOUR[:3]).overall.f1 == Estimate(None)
    assert process_report([FOUR[1], FOUR[3]]).overall.f1.value == 0


def test_unscored_and_unlabeled_solutions_are_in_no_rate():
    more = [
        solution([None, 0.9], [True, True]),
        solution([math.nan, 0.9], [True, True]),
        solution([0.9, 0.9], [None, None]),
        solution([None], [None]),
    ]
    plain, found = process_report(FOUR).overall, process_report([*FOUR, *more]).overall
    assert (found.unscored, found.unlabelled) == (2, 2)
    assert (found.on_wrong.value, found.on_right.value) == (
        plain.on_wrong.value,
        plain.on_right.value,
    )


def test_the_published_average_is_the_mean_over_subsets():
    easy = [
        solution([0.1], [False], subset="easy", prompt="a"),
        solution([0.9], [True], subset="easy", prompt="b"),
    ]
    hard = [
        solution([0.9], [False], subset="hard", prompt="c"),
        solution([0.9], [True], subset="hard", prompt="d"),
        solution([0.9], [True], subset="hard", prompt="e"),
    ]
    found = process_report([*easy, *hard])
    assert [(s.subset, s.f1.value) for s in found.subsets] == [("easy", 1), ("hard", 0)]
    assert found.mean_f1.value == 0.5
    assert found.overall.f1.value == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert process_report(FOUR).mean_f1 == Estimate(None)


def test_the_best_threshold_is_found():
    # Wrong ones are right for thresholds in (.6, .9] and (.7, 1.0]; the right one up to .8.
    scores = [[0.9, 0.6], [1.0, 0.7], [0.8]]
    assert best_threshold(scores, [1, 1, RIGHT], 0.5) == (0.8, 1.0)


def test_a_threshold_may_equal_the_scores_it_spares():
    # (.6, .9] and up to .9: only .9 itself is both.
    assert best_threshold([[0.9, 0.6], [0.9]], [1, RIGHT], 0.95) == (0.9, 1.0)


def test_of_equally_good_thresholds_the_nearest_to_the_default_is_taken():
    assert best_threshold([[0.1], [0.9]], [0, RIGHT], 0.5) == (0.5, 1.0)


def test_there_is_no_best_threshold_without_both_kinds():
    assert best_threshold([[0.1]], [0], 0.5) is None
    report = process_report(FOUR[:3])
    assert (report.best_threshold, report.best_f1) == (None, None)


solutions = st.lists(
    st.lists(
        st.tuples(
            st.none() | st.integers(0, 8).map(lambda n: n / 8), st.sampled_from([True, False, None])
        ),
        min_size=1,
        max_size=4,
    ),
    max_size=8,
)


@given(solutions)
@settings(deadline=None)
def test_no_threshold_beats_the_best(found):
    rows = [tuple(zip(*steps, strict=True)) for steps in found]
    told = [(scores, t) for scores, labels in rows if (t := truth(labels)) is not None]
    best = best_threshold([s for s, _ in told], [t for _, t in told], 0.5)

    def f1_at(threshold: float) -> float:
        hits = [(t, predicted(scores, threshold) == t) for scores, t in told]
        wrong = [hit for t, hit in hits if t != RIGHT]
        right = [hit for t, hit in hits if t == RIGHT]
        a, b = sum(wrong) / len(wrong), sum(right) / len(right)
        return 2 * a * b / (a + b) if a + b else 0.0

    if best is not None:
        threshold, value = best
        assert f1_at(threshold) == pytest.approx(value)
        assert value == pytest.approx(max(f1_at(n / 16) for n in range(18)))


# -- steps ---------------------------------------------------------------------------------------


def test_step_figures_by_hand():
    found = process_report(
        [
            solution([0.9, 0.6, 0.3], [True, False, None], prompt="a", words=[5, 9, 1]),
            solution([0.4, None, 0.8], [True, True, True], prompt="b", words=[5, 1, 7]),
        ]
    ).steps
    # Right .9, .4, .8 at 0, 0, 2 with 5, 5, 7 words; wrong .6 at 1 with 9.
    assert (found.steps, found.wrong) == (4, 1)
    assert found.auc.value == pytest.approx(2 / 3)
    assert found.auc_earlier.value == pytest.approx(2 / 3)
    assert found.auc_shorter.value == 1
    assert found.accuracy.value == 2 / 4
    assert found.balanced_accuracy.value == pytest.approx((2 / 3 + 0) / 2)


def test_without_words_there_is_no_length_baseline():
    rows = [
        solution([0.9, 0.1], [True, False], words=[1, 2]),
        solution([0.9, 0.1], [True, False]),
    ]
    found = process_report(rows).steps
    assert (found.auc.value, found.auc_shorter) == (1, Estimate(None))


def test_the_threshold_decides_steps_and_first_errors():
    row = [solution([0.7, 0.6], [True, False])]
    assert process_report(row).steps.accuracy.value == 0.5
    assert process_report(row, threshold=0.65).steps.accuracy.value == 1
    assert process_report(row, threshold=0.65).overall.on_wrong.value == 1


def test_a_step_at_the_threshold_is_taken_to_be_right():
    assert process_report([solution([0.5], [True])]).steps.accuracy.value == 1


def test_the_lowest_step_being_the_last_is_held_against_chance():
    found = process_report(
        [
            solution([0.9, 0.5], [None, None]),
            solution([0.5, 0.5], [None, None]),  # not the last alone
            solution([0.9, 0.8, 0.1, 0.7], [None] * 4),
            solution([0.9], [None]),  # its only step
            solution([0.9, None], [None, None]),
        ]
    )
    assert found.minimum_is_last.value == pytest.approx(1 / 3)
    assert found.last_by_chance == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)


def test_final_answers_are_told_apart_by_each_way_to_sum_up():
    found = process_report(
        [
            solution([0.9, 0.8], [None] * 2, prompt="a", is_right=True),
            solution([0.5, 0.9], [None] * 2, prompt="b", is_right=True),
            solution([0.6, 0.7, 0.95], [None] * 3, prompt="c", is_right=False),
            solution([0.1], [None], prompt="d", is_right=None),
            solution([None], [None], prompt="e", is_right=True),
        ]
    ).outcomes
    # Against c: products .72 and .45 to .399, least .8 and .5 to .6, last .8 and .9 to .95,
    # means .85 and .7 to .75, steps 2 and 2 to 3.
    assert (found.solutions, found.right) == (3, 2)
    assert [
        estimate.value
        for estimate in (
            found.product,
            found.minimum,
            found.last,
            found.mean,
            found.fewer_steps,
        )
    ] == [1, 0.5, 0, 0.5, 1]


def test_products_do_not_vanish_in_long_solutions():
    rows = [
        solution([0.1] * 400, [None] * 400, prompt="a", is_right=True),
        solution([0.1] * 401, [None] * 401, prompt="b", is_right=False),
        solution([0.0], [None], prompt="c", is_right=False),
    ]
    assert process_report(rows).outcomes.product.value == 1


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"prompt p has 2 scores, 1 labels"):
        process_report([solution([0.1, 0.2], [True])])
    with pytest.raises(ValueError, match="a step at least"):
        process_report([solution([], [])])
    with pytest.raises(ValueError, match=r"score 1\.5 of prompt p is not in \[0, 1\]"):
        process_report([solution([1.5], [True])])


@given(solutions)
@settings(max_examples=25, deadline=None)
def test_every_solution_is_counted_and_every_report_can_be_written(found):
    rows = [
        solution(list(s), list(labels), prompt=str(at % 3), subset="ab"[at % 2])
        for at, (s, labels) in enumerate(zip(*steps, strict=True) for steps in found)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("factory.stats.bootstrap._RESAMPLES", 5)
        report = process_report(rows)
    every = report.overall
    assert every.wrong + every.right + every.unscored + every.unlabelled == len(rows)
    assert sum(s.wrong for s in report.subsets) == every.wrong
    assert msgspec.json.decode(msgspec.json.encode(report), type=ProcessReport) == report
    if report.best_f1 is not None:
        assert report.best_f1 >= every.f1.value - 1e-12
    assert f"on {every.wrong + every.right} solutions" in report.text()


def test_the_table_says_on_which_rows_the_best_threshold_was_found():
    text = process_report(FOUR).text()
    assert "process reward on 5 solutions, threshold 0.5" in text
    assert "F1 at best threshold (on these rows): " in text
    assert any(line.split()[:4] == ["all", "3", "2", "0.40"] for line in text.splitlines())


# -- the reader ----------------------------------------------------------------------------------


def bench(**changes) -> dict[str, object]:
    row = {
        "id": "gsm8k-7",
        "generator": "some-model",
        "problem": "1 + 1 + 1?",
        "steps": ["1 + 1 = 2", "2 + 1 = 4", "So 4"],
        "final_answer_correct": False,
        "label": 1,
    }
    return {**row, **changes}


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def test_a_first_error_becomes_step_labels(tmp_path):
    path = write(tmp_path / "x.jsonl", bench(), bench(label=-1, final_answer_correct=True))
    (wrong, right), bad = read_processbench(path)
    assert not bad
    assert (wrong.id, wrong.subset, wrong.prompt) == ("gsm8k-7", "gsm8k", "1 + 1 + 1?")
    assert (wrong.labels, wrong.is_right) == ([True, False, None], False)
    assert (right.labels, right.is_right) == ([True, True, True], True)


def test_the_truth_of_a_read_solution_is_its_label(tmp_path):
    path = write(tmp_path / "x.jsonl", *(bench(label=label) for label in (-1, 0, 1, 2)))
    assert [truth(s.labels) for s in read_processbench(path)[0]] == [-1, 0, 1, 2]


def test_an_id_without_number_names_no_subset(tmp_path):
    path = write(tmp_path / "x.jsonl", bench(id="seven"), bench(id="omni-math-3"))
    assert [s.subset for s in read_processbench(path)[0]] == [None, "omni-math"]


def test_one_json_list_is_read_too(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([bench(), 3, bench(id="math-1")], indent=1))
    found, bad = read_processbench(path)
    assert [s.id for s in found] == ["gsm8k-7", "math-1"]
    assert [(b.index, b.line, b.error) for b in bad] == [
        (1, None, "a JSON int, expected an object")
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "a JSON list, expected an object"),
        (bench(label=3), "field 'label' is 3, expected the index of a step, 0 to 2, or -1"),
        (bench(label=True), "field 'label' is True"),
        (bench(label=None), "field 'label' is missing or null"),
        (bench(steps=[]), r"field 'steps' is \[\], expected a list"),
        (bench(steps=["a", " "]), r"field 'steps\[1\]' is ' '"),
        (bench(problem=" "), "field 'problem' is ' '"),
        (bench(id=None), "field 'id' is missing or null"),
        (bench(final_answer_correct="yes"), "field 'final_answer_correct' is 'yes'"),
    ],
)
def test_a_wrong_line_is_told_with_its_number_and_reason(tmp_path, line, reason):
    found, (bad,) = read_processbench(write(tmp_path / "x.jsonl", bench(), "", line, bench()))
    assert len(found) == 2
    assert (bad.index, bad.line) == (1, 3)
    assert re.search(reason, bad.error)


def test_text_that_is_not_utf8_is_a_wrong_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(json.dumps(bench()).encode() + b'\n{"id": "\xff"}\n')
    found, (bad,) = read_processbench(path)
    assert (len(found), bad.line) == (1, 2)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.jsonl: cannot be read: No such file"):
        read_processbench(tmp_path / "none.jsonl")
    with pytest.raises(RecipeError, match="not a JSON list"):
        read_processbench(write(tmp_path / "x.json", "[{},"))
