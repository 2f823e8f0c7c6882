"""Agreement of a judge with people, against answers worked by hand."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.core.errors import SampleError
from factory.evaluation.agreement import JudgedRow, JudgeReport, judge_report, majority
from factory.sources.benchmarks import human_label
from factory.stats.bootstrap import Estimate
from factory.stats.kappa import cohen_kappa, fleiss_kappa, pair_agreement

pytestmark = pytest.mark.usefixtures("few_resamples")


def judged(
    p: float | None,
    human: list[int],
    *,
    prompt: str = "p",
    consistent: bool | None = True,
    gap: float | None = None,
    words: tuple[int, int] = (10, 10),
) -> JudgedRow:
    return JudgedRow(prompt, p, consistent, gap, human, *words)


# -- kappa ---------------------------------------------------------------------------------------


def test_cohens_kappa_by_hand():
    # Agreement 4/5; chance .4 x .2 + .4 x .6 + .2 x .2 = .36.
    found = cohen_kappa(list("abcde"), [1, 1, 2, 2, 0], [1, 2, 2, 2, 0])
    assert found.value == pytest.approx((0.8 - 0.36) / (1 - 0.36))


def test_cohens_kappa_of_labellers_as_good_as_chance_is_zero():
    assert cohen_kappa(list("abcd"), [1, 1, 2, 2], [1, 2, 1, 2]).value == 0


def test_kappa_of_a_single_label_is_undefined():
    assert cohen_kappa(["a", "b"], [1, 1], [1, 1]) == Estimate(None)
    assert fleiss_kappa(["a", "b"], [[1, 1], [1, 1]]) == Estimate(None)
    assert fleiss_kappa([], []) == Estimate(None)


def test_fleiss_kappa_by_hand():
    # Agreement (1 + 0 + 1 + 1) / 4; of the labels 3/8 are 1 and 5/8 are 2: chance 34/64.
    found = fleiss_kappa(list("abcd"), [[1, 1], [1, 2], [2, 2], [2, 2]])
    assert found.value == pytest.approx((0.75 - 34 / 64) / (1 - 34 / 64))


def test_fleiss_kappa_of_a_textbook_table():
    # Fourteen raters, ten items, five categories: 0.210 in the usual worked example.
    counts = """
        0 0 0 0 14
        0 2 6 4 2
        0 0 3 5 6
        0 3 9 2 0
        2 2 8 1 1
        7 7 0 0 0
        3 2 6 3 0
        2 5 3 2 2
        6 5 2 1 0
        0 2 2 3 7
    """
    rows = [[int(n) for n in line.split()] for line in counts.strip().splitlines()]
    items = [[label for label, n in enumerate(row) for _ in range(n)] for row in rows]
    assert fleiss_kappa(range(10), items).value == pytest.approx(0.210, abs=0.0005)


def test_items_may_have_different_numbers_of_labels():
    assert pair_agreement([1, 1, 2]) == 1 / 3
    # Agreement (1/3 + 1) / 2; of five labels two are 1 and three are 2: chance .52.
    found = fleiss_kappa(["a", "b"], [[1, 1, 2], [2, 2]])
    assert found.value == pytest.approx((2 / 3 - 0.52) / 0.48)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_kappa_is_symmetric_and_blind_to_the_names_of_labels(pairs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("factory.stats.bootstrap._RESAMPLES", 2)
        clusters = range(len(pairs))
        one, other = zip(*pairs, strict=True)
        found = cohen_kappa(clusters, one, other).value
        assert cohen_kappa(clusters, other, one).value == pytest.approx(found)
        renamed = cohen_kappa(clusters, [-x for x in one], [-x for x in other]).value
        assert renamed == pytest.approx(found)


# -- the report ----------------------------------------------------------------------------------


def test_the_majority_is_more_than_half():
    assert majority([1, 1, 2]) == 1
    assert majority([0]) == 0
    assert majority([1, 2]) is None
    assert majority([1, 1, 2, 0]) is None
    assert majority([]) is None


ROWS = [
    judged(0.9, [1, 1, 2], prompt="a", words=(20, 10)),  # a, a; longer a
    judged(0.8, [2, 2, 2], prompt="b", words=(20, 10)),  # a, b; longer a
    judged(0.1, [2, 2, 0], prompt="c", words=(20, 10)),  # b, b; longer a
    judged(0.5, [2, 2, 1], prompt="d", words=(10, 20)),  # tie, b; longer b
    judged(0.5, [0, 0, 1], prompt="e"),  # tie, tie; as long
    judged(0.7, [1, 2], prompt="f"),  # no majority
    judged(None, [1, 1], prompt="g", consistent=None),  # unparsed
    judged(0.7, [], prompt="h"),  # unlabelled
]


def test_what_has_no_majority_or_was_not_read_is_counted_and_left_out():
    found = judge_report(ROWS)
    assert (found.comparisons, found.unparsed, found.unlabelled, found.no_majority) == (8, 1, 1, 1)
    assert (found.three_way.comparisons, found.decided.comparisons) == (5, 4)
    assert found.judge_ties == 2


def test_three_way_a_tie_is_right_only_where_people_say_tie():
    found = judge_report(ROWS).three_way
    assert found.judge.value == 3 / 5
    assert found.longer_wins.value == 3 / 5  # a, d, and e as a tie
    assert found.always_a.value == 1 / 5
    assert found.commonest.value == 3 / 5  # b
    assert found.gain.value == 0


def test_where_people_decided_a_tie_is_half():
    found = judge_report(ROWS).decided
    assert found.judge.value == (1 + 0 + 1 + 0.5) / 4
    assert found.longer_wins.value == 2 / 4
    assert found.always_a.value == 1 / 4
    assert found.commonest.value == 3 / 4
    assert found.gain.value == 0.125


def test_a_judge_is_held_against_one_person_and_people_against_each_other():
    found = judge_report(ROWS)
    # Of a to f: 2/3, 0, 2/3, 0, 2/3 and 1/2 of the people agree with the judge.
    assert found.with_one_person.value == pytest.approx((2 / 3 * 3 + 0.5) / 6)
    # Of a to g, pairs of people that agree: 1/3, 1, 1/3, 1/3, 1/3, 0, 1.
    assert found.between_people.value == pytest.approx((4 * 1 / 3 + 2) / 7)
    # Judge a a b tie tie, majority a b b b tie: 3/5 against .4 x .2 + .2 x .6 + .4 x .2.
    assert found.kappa.value == pytest.approx((0.6 - 0.28) / (1 - 0.28))


def test_the_tie_band_makes_ties_on_both_sides():
    rows = [judged(0.55, [0]), judged(0.45, [0]), judged(0.56, [1]), judged(0.44, [2])]
    found = judge_report(rows, tie_band=0.05)
    assert (found.judge_ties, found.three_way.judge.value) == (2, 1)


def test_swap_consistency_and_gap_are_of_what_is_known():
    found = judge_report(
        [
            judged(0.9, [], gap=0.1),
            judged(0.6, [], consistent=False, gap=0.5),
            judged(None, [], consistent=None),
        ]
    )
    assert found.swap_consistency.value == 1 / 2
    assert found.order_gap.value == pytest.approx(0.3)


def test_the_liking_for_length_is_compared_on_the_same_comparisons():
    found = judge_report(
        [
            judged(0.9, [1], words=(20, 10)),  # both the longer
            judged(0.9, [2], words=(20, 10)),  # the judge the longer
            judged(0.1, [1], words=(10, 20)),  # the judge the longer
            judged(0.1, [2], words=(20, 10)),  # both the shorter
            judged(0.5, [1], words=(20, 10)),  # the judge is undecided
            judged(0.9, [0], words=(20, 10)),  # people are undecided
            judged(0.9, [1]),  # as long
        ]
    )
    assert found.judge_prefers_longer.value == 3 / 4
    assert found.human_prefers_longer.value == 1 / 4


def test_no_comparisons_are_no_error():
    found = judge_report([])
    assert found.decided.judge == Estimate(None)
    assert "0 comparisons of 0 prompts" in found.text()


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"p 1\.2 of prompt p is not in \[0, 1\]"):
        judge_report([judged(1.2, [1])])
    with pytest.raises(ValueError, match="label 3 of prompt p"):
        judge_report([judged(0.2, [3])])
    with pytest.raises(ValueError, match=r"tie_band 0\.5"):
        judge_report([], tie_band=0.5)


def test_the_table_shows_judge_and_baselines_side_by_side():
    lines = judge_report(ROWS).text().splitlines()
    assert lines[0] == "agreement with people's majority, 8 comparisons of 8 prompts"
    assert lines[1].startswith("left out: 1 unparsed, 1 without majority, 1 unlabelled")
    assert any(line.split()[:2] == ["judge", "0.60"] and " 0.62 (" in line for line in lines)


comparisons = st.lists(
    st.builds(
        JudgedRow,
        st.sampled_from("abc"),
        st.none() | st.integers(0, 8).map(lambda n: n / 8),
        st.none() | st.booleans(),
        st.none() | st.just(0.25),
        st.lists(st.integers(0, 2), max_size=4),
        st.integers(0, 3),
        st.integers(0, 3),
    ),
    max_size=10,
)


def swapped(row: JudgedRow) -> JudgedRow:
    return msgspec.structs.replace(
        row,
        p=None if row.p is None else 1 - row.p,
        human=[{0: 0, 1: 2, 2: 1}[label] for label in row.human],
        words_a=row.words_b,
        words_b=row.words_a,
    )


def same(one: Estimate, other: Estimate) -> bool:
    return one.value == pytest.approx(other.value, abs=1e-12)


@given(comparisons, st.sampled_from([0.0, 0.125, 0.2]))
@settings(max_examples=25, deadline=None)
def test_swapping_a_and_b_changes_nothing_but_always_a(rows, tie_band):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("factory.stats.bootstrap._RESAMPLES", 5)
        one = judge_report(rows, tie_band=tie_band)
        other = judge_report([swapped(row) for row in rows], tie_band=tie_band)
    for name in ("kappa", "fleiss_kappa", "between_people", "with_one_person"):
        assert same(getattr(one, name), getattr(other, name))
    for kind in ("three_way", "decided"):
        for name in ("judge", "longer_wins", "commonest", "gain"):
            assert same(getattr(getattr(one, kind), name), getattr(getattr(other, kind), name))
    assert same(one.judge_prefers_longer, other.judge_prefers_longer)
    if one.decided.comparisons:
        assert one.decided.always_a.value == pytest.approx(1 - other.decided.always_a.value)
    assert msgspec.json.decode(msgspec.json.encode(one), type=JudgeReport) == one


# -- people's labels as files have them ----------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (1, 1),
        (2, 2),
        (0, 0),
        ("1", 1),
        ("A", 1),
        (" b ", 2),
        ("[[A]]", 1),
        ("Model_B", 2),
        ("model b", 2),
        ("chosen", 1),
        ("rejected", 2),
        ("Tie", 0),
        ("tie (bothbad)", 0),
        (None, None),
        ("", None),
    ],
)
def test_common_ways_to_write_a_label_are_read(value, label):
    assert human_label(value) == label


@pytest.mark.parametrize("value", [3, -1, 0.5, 1.0, True, False, "yes", ["a"]])
def test_anything_else_is_refused_and_not_guessed(value):
    with pytest.raises(SampleError, match=r"human label .* is not known; write 1 or 'a'"):
        human_label(value)
