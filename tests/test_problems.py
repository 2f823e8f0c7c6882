"""Sums worked out by hand, and problems made by rule read as a source."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.core.errors import SourceError
from factory.core.records import BadRow, Sample
from factory.math.answers import check
from factory.math.arithmetic import decimal, parse, value, write
from factory.math.equations import equations, number_in, put, without_annotations
from factory.math.worked import solve, sum_of
from factory.sources.overlap import shared_prompts
from factory.sources.reasoning_gym import Problems
from factory.sources.source import SourceConfig, open_source

needs_package = pytest.mark.skipif(
    not pytest.importorskip("importlib.util").find_spec("reasoning_gym"),
    reason="reasoning-gym is not installed",
)

# Sums ------------------------------------------------------------------------------------------


def test_a_sum_is_worked_out_one_operation_a_line() -> None:
    assert solve(parse("2 + 3 * 4 - 5"))[0] == [
        "3 * 4 = 12, which leaves 2 + 12 - 5.",
        "2 + 12 = 14, which leaves 14 - 5.",
        "14 - 5 = 9.",
        "#### 9",
    ]


def test_the_innermost_parentheses_come_first_and_a_minus_before_them_counts() -> None:
    assert solve(parse("2+3*(4 - -1) - -(2 - 7)*2"))[0] == [
        "4 - -1 = 5, which leaves 2 + 3 * 5 - -(2 - 7) * 2.",
        "2 - 7 = -5, which leaves 2 + 3 * 5 - 5 * 2.",
        "3 * 5 = 15, which leaves 2 + 15 - 5 * 2.",
        "5 * 2 = 10, which leaves 2 + 15 - 10.",
        "2 + 15 = 17, which leaves 17 - 10.",
        "17 - 10 = 7.",
        "#### 7",
    ]


def test_decimals_are_exact() -> None:
    assert solve(parse("0.1 + 0.2 - 1.250"))[0] == [
        "0.1 + 0.2 = 0.3, which leaves 0.3 - 1.25.",
        "0.3 - 1.25 = -0.95.",
        "#### -0.95",
    ]


def test_what_follows_a_wrong_result_is_computed_from_it() -> None:
    lines, answer = solve(parse("2 + 3 * 4 - 5"), {0: Fraction(13)})
    assert lines[:2] == [
        "3 * 4 = 13, which leaves 2 + 13 - 5.",
        "2 + 13 = 15, which leaves 15 - 5.",
    ]
    assert (lines[-1], answer) == ("#### 10", 10)


@pytest.mark.parametrize(
    "text", ["", "2 +", "2 3", "(2", "2)", "()", "+", "x", "2 ** 3", "a + 1", "- - 2", "1.2.3"]
)
def test_what_is_no_sum_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


@pytest.mark.parametrize("text", ["1 / 0", "1 / (2 - 2)", "1 / 3"])
def test_what_no_decimal_writes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"zero|no decimal"):
        solve(parse(text))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Fraction(7), "7"),
        (Fraction(-1, 8), "-0.125"),
        (Fraction(100), "100"),
        (Fraction(5, 2), "2.5"),
        (Fraction(0), "0"),
    ],
)
def test_a_number_is_written_as_its_shortest_decimal(number: Fraction, text: str) -> None:
    assert decimal(number) == text


SUMS = st.recursive(
    st.integers(-99, 99).map(str),
    lambda inner: st.builds(
        lambda a, op, b, wrap: wrap.format(f"{a} {op} {b}"),
        inner,
        st.sampled_from("+-*"),
        inner,
        st.sampled_from(["{}", "({})", "-({})"]),
    ),
    max_leaves=7,
)


@given(SUMS)
def test_sums_come_to_what_python_says(text: str) -> None:
    tokens = parse(text)
    assert value(tokens) == eval(text)  # of our own digits and operators
    assert parse(write(tokens)) == tokens


@given(SUMS)
def test_a_worked_solution_tells_its_sum(text: str) -> None:
    lines, answer = solve(parse(text))
    found = sum_of(lines)
    if len(lines) == 1:
        assert found is None
    else:
        assert found is not None
        assert solve(found) == (lines, answer)


@pytest.mark.parametrize(
    "lines",
    [
        ["So he has 2 + 3 = 5.", "#### 5"],
        ["2 + 3 = 6.", "#### 6"],
        ["2 + 3 = 5, which leaves 5 - 1.", "5 - 1 = 4.", "#### 5"],
        ["#### 5"],
    ],
)
def test_other_solutions_are_no_worked_sums(lines: list[str]) -> None:
    assert sum_of(lines) is None


# Equations in prose ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("Natalia sold 48/2 = 24 clips.", [24]),
        ("35 × 3 = 105, so 105 + 35 = 140 kiwi", [105, 140]),
        ("- 5 + 3 = 8 apples", [8]),
        ("1. 35 x 3 = $105", [105]),
        ("It costs $410,000 x 5/100 = $20,500.", [20500]),
        ("(2 + 3) * 4 = 20", [20]),
        ("2 + 3 * 4 = 20", []),
        ("a + 2 * 3 = 6", [6]),
        ("30% of 160 = 48", []),
        ("48=48", []),
        ("24 = 20 + 4", []),
        ("10 = 4 + 6 = 10", [10]),
        ("1/2 * 1/2 = 1/4", []),
        ("2 + 3 = 5%", []),
        ("20 / 0 = 4", []),
        ("v1.2 + 3 = 4.2", [Fraction(21, 5)]),
    ],
)
def test_right_equations_are_found_in_prose(line: str, found: list[Fraction]) -> None:
    assert [equation.shown.value for equation in equations(line)] == found


@given(st.text("0123456789 .,+-*/x=()$%", max_size=200))
def test_any_line_can_be_searched_for_equations(line: str) -> None:
    for equation in equations(line):
        assert value(equation.tokens) == equation.shown.value


@pytest.mark.parametrize(
    ("line", "new", "changed"),
    [
        ("It costs $1,200.0 now", 1300, "It costs $1,300.0 now"),
        ("#### -18", 5, "#### 5"),
        ("#### 18", -5, "#### -5"),
    ],
)
def test_a_number_is_replaced_as_it_was_written(line: str, new: int, changed: str) -> None:
    shown = number_in(line)
    assert shown is not None
    assert put(line, shown, Fraction(new)) == changed


def test_annotations_of_gsm8k_are_left_out() -> None:
    assert without_annotations("48/2 = <<48/2=24>>24 clips") == "48/2 = 24 clips"


# The source ------------------------------------------------------------------------------------


def read(task: str, limit: int = 20, start: int = 0, **options: Any) -> list[Sample | BadRow]:
    config = SourceConfig(path=f"reasoning-gym:{task}", limit=limit, options=options)
    return list(open_source(config, Path()).rows(start))


def good(rows: list[Sample | BadRow]) -> list[Sample]:
    assert all(isinstance(row, Sample) for row in rows), rows
    return [row for row in rows if isinstance(row, Sample)]


@needs_package
def test_problems_are_samples_with_worked_references() -> None:
    rows = good(read("chain_sum", min_terms=3, seed=5))
    assert [row.id for row in rows] == [f"chain_sum-5-{i}" for i in range(20)]
    for row in rows:
        assert row.tags == ["chain_sum"]
        assert row.reference is not None
        expression = row.prompt[-1]["content"].partition(": ")[2].removesuffix(" =")
        assert row.reference.splitlines()[-1] == f"#### {eval(expression)}"
        assert len(row.reference.splitlines()) >= 3


@needs_package
@pytest.mark.parametrize("task", ["chain_sum", "basic_arithmetic", "gsm_symbolic", "leg_counting"])
def test_rows_depend_on_nothing_but_their_index(task: str) -> None:
    rows = read(task)
    assert read(task) == rows
    assert read(task, start=7) == rows[7:]
    assert read(task, limit=9) == rows[:9]
    assert read(task, seed=1) != rows


@needs_package
def test_neighboring_seeds_share_no_rows() -> None:
    one, two = (
        {row.prompt[-1]["content"] for row in good(read("chain_sum", min_digits=4, seed=seed))}
        for seed in (0, 1)
    )
    assert not one & two


@needs_package
def test_prose_solutions_keep_their_lines_and_others_only_the_answer() -> None:
    for row in good(read("gsm_symbolic")):
        lines = (row.reference or "").split("\n")
        assert all(line == line.strip() != "" for line in lines)
        assert lines[-1].startswith("#### ")
        assert len(lines) > 1
    for row in good(read("leg_counting")):
        assert (row.reference or "").startswith("#### ")


@needs_package
def test_a_sum_to_whose_answer_we_do_not_come_is_a_bad_row() -> None:
    reader = Problems("reasoning-gym:basic_arithmetic", {}, 1)
    item = {"question": "7 / 2?", "answer": "3", "metadata": {"expression": "7 / 2"}}
    assert reader._row(0, item).error == "the task's answer is 3, but 7 / 2 comes to 7/2"
    item["answer"] = "3.5"
    assert reader._row(0, item).fields["reference"] == "7 / 2 = 3.5.\n#### 3.5"
    item |= {"answer": "1", "metadata": {"expression": "1 / 3 * 3"}}
    assert reader._row(0, item).fields["reference"] == "#### 1"


@needs_package
def test_the_source_counts_and_identifies_its_rows() -> None:
    config = SourceConfig(path="reasoning-gym:chain_sum", limit=7)
    source = open_source(config, Path())
    assert source.count() == 7
    other = open_source(config.model_copy(update={"options": {"seed": 3}}), Path())
    assert source.digest() != other.digest()


@needs_package
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": "reasoning-gym:chain_sum"}, r"set source\.limit"),
        ({"path": "reasoning-gym:chain_sums", "limit": 3}, "did you mean chain_sum"),
        ({"path": "reasoning-gym:", "limit": 3}, "have: ab, "),
        (
            {"path": "reasoning-gym:chain_sum", "limit": 3, "options": {"max_term": 4}},
            "max_term'.*have: .*max_terms",
        ),
        (
            {"path": "reasoning-gym:chain_sum", "limit": 3, "options": {"min_terms": 9}},
            r"source\.options: ",
        ),
        (
            {"path": "reasoning-gym:chain_sum", "limit": 3, "options": {"size": 4}},
            r"set source\.limit instead",
        ),
        (
            {"path": "reasoning-gym:chain_sum", "limit": 3, "options": {"seed": "a"}},
            "expected a whole number, found 'a'",
        ),
        (
            {"path": "reasoning-gym:chain_sum", "limit": 3, "options": {"exclude": {"seed": 1}}},
            r"exclude: expected the limit and options .* found \{'seed': 1\}",
        ),
        ({"path": "rows.jsonl", "options": {"seed": 1}}, r"source\.options is for reasoning-gym"),
        (
            {"path": "reasoning-gym:chain_sum", "limit": 3, "columns": {"prompt": "question"}},
            "no field 'question'",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_remedy(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SourceError, match=said):
        open_source(SourceConfig(**options), Path())


def test_a_missing_package_is_said_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(SourceError, match=r"pip install reasoning-gym==0\.1\.25"):
        open_source(SourceConfig(path="reasoning-gym:chain_sum", limit=1), Path())


def test_excluded_problems_are_left_out_and_others_made_from_any_row() -> None:
    small = {"min_digits": 1, "max_digits": 1, "min_terms": 2, "max_terms": 2}
    other = SourceConfig(path="reasoning-gym:chain_sum", limit=30, options={"seed": 1, **small})
    options = {"seed": 99, **small, "exclude": {"limit": 30, "seed": 1, **small}}
    config = SourceConfig(path="reasoning-gym:chain_sum", limit=30, options=options)
    source = open_source(config, Path())
    rows = [*source]
    assert source.count() == len(rows) == 30
    assert not shared_prompts(open_source(other, Path()), source)
    assert [row.id for row in source.rows(28)] == [row.id for row in rows[28:]]


def test_where_no_other_problems_are_left_each_row_says_so() -> None:
    one = {"min_digits": 1, "max_digits": 1, "min_terms": 2, "max_terms": 2}
    options = {**one, "exclude": {"limit": 1200, **one}}
    config = SourceConfig(path="reasoning-gym:chain_sum", limit=900, options=options)
    last = [*open_source(config, Path())][-1]
    assert isinstance(last, BadRow)
    assert last.error == "reasoning-gym:chain_sum makes no more problems that are not excluded"


@pytest.mark.parametrize(
    "task", ["simple_equations", "fraction_simplification", "complex_arithmetic", "mini_sudoku"]
)
def test_each_problem_takes_its_own_answer_however_it_is_said(task: str) -> None:
    for row in open_source(SourceConfig(path=f"reasoning-gym:{task}", limit=4), Path()):
        assert isinstance(row, Sample)
        assert row.reference is not None
        answer = row.reference.removeprefix("#### ")
        for said in (answer, f"#### {answer}", f"So we have it.\n\nAnswer: {answer}"):
            assert check(said, row.reference, "math")[0] is True
