"""What counts as a right answer under each check; nothing a model can write raises or hangs."""

from __future__ import annotations

import threading
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.math.answers import How, check, number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18),
        ("-18.0", -18),
        ("\u22127", -7),
        ("$1,234.50", Fraction(2469, 2)),
        ("-$5.", -5),
        ("$-5", -5),
        ("50%", 50),
        (".5", Fraction(1, 2)),
        ("138/583", Fraction(138, 583)),
        ("1.23e+4", 12300),
        ("3 / 4", Fraction(3, 4)),
        ("1,234,567", 1234567),
        ("12,34,567", 1234567),
        ("1.234.567", 1234567),
        ("1 234 567", 1234567),
    ],
)
def test_a_number_is_read_as_people_write_it(text: str, value: Fraction) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "1,5",
        "1,23,4",
        "2 2/3",
        "3:45",
        "2024-05-01",
        "",
        "x",
        "18 apples",
        "1/0",
        "1 2",
        "9" * 5000,
        "--5 5",
        ".",
    ],
)
def test_what_is_no_number_is_none(text: str) -> None:
    assert number(text) is None


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("48 / 2 = 24\n#### 24", "He has\n#### 24", (True, "24")),
        ("#### 18.0", "18", (True, "18.0")),
        ("#### $1,234", "#### 1234", (True, "$1,234")),
        ("#### 5%.", "5", (True, "5")),
        ("#### 17", "18", (False, "17")),
        ("#### -18", "18", (False, "-18")),
        ("#### 17\nNo, wait.\n#### 18", "18", (True, "18")),
        ("#### 18\nHuman: 5 more?", "18", (True, "18")),
        ("#### x = 18 clips", "#### 18", (True, "18")),
        ("#### 0", "0", (True, "0")),
        ("#### \\frac{1}{2}", "1", (False, "\\frac{1}{2}")),
        ("#### 2 2/3", "2", (False, "2 2/3")),
        ("#### 10^{3}", "10", (False, "10^{3}")),
        ("#### 2.5 million", "2500000", (True, "2.5 million")),
        ("#### 14 + 9 - 6", "17", (False, "14 + 9 - 6")),
        ("#### 6 - 9", "-3", (False, "6 - 9")),
        ("#### 2^3", "8", (False, "2^3")),
        ("#### 6 - 9 = -3", "-3", (True, "-3")),
        ("#### 1/2", "0.5", (True, "1/2")),
        ("#### 5 or 6", "5", (None, "")),
        ("#### 7 out of 10", "7", (None, "")),
        ("#### 2024-05-01", "2024", (None, "")),
        ("#### 3:45", "3", (None, "")),
        ("#### 1,5", "15", (None, "")),
        ("The answer is 18.", "18", (None, "")),
        ("#### eighteen", "18", (None, "")),
        ("####", "18", (None, "")),
        ("", "18", (None, "")),
    ],
)
def test_gsm8k_compares_the_numbers_after_the_last_mark(
    answer: str, reference: str, expected: tuple[bool | None, str]
) -> None:
    assert check(answer, reference, "gsm8k") == expected


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("so \\boxed{\\frac{1}{2}}.", "0.5", (True, "\\frac{1}{2}")),
        ("It is 0.5", "\\frac12", (True, "0.5")),
        ("The answer is 18.", "work\n#### 18", (True, "18")),
        ("The answer is 19.", "work\n#### 18", (False, "19")),
        ("First 3, then $x^2+2x+1$", "(x+1)^2", (True, "x^2+2x+1")),
        ("$\\sqrt{8}$", "2\\sqrt{2}", (True, "\\sqrt{8}")),
        ("$(1,2)$", "(1,2)", (True, "(1,2)")),
        ("15\n#### 16", "15", (False, "16")),
        ("I do not know.", "18", (None, "")),
        ("", "18", (None, "")),
        ("####", "18", (None, "")),
    ],
)
def test_math_compares_what_the_answer_ends_with(
    answer: str, reference: str, expected: tuple[bool | None, str]
) -> None:
    assert check(answer, reference, "math") == expected


def test_only_the_end_of_a_long_answer_is_searched() -> None:
    assert check("It is 18. " + "Hmm ... " * 1000, "18", "math") == (None, "")
    assert check("Hmm ... " * 1000 + "It is 18.", "18", "math") == (True, "18")


def test_an_answer_that_algebra_never_finishes_is_unparsed_and_the_next_is_checked() -> None:
    assert check("$9^{9^{9^{9}}}$", "18", "math") == (None, "")
    assert check("It is 7", "7", "math") == (True, "7")


def test_math_works_outside_the_main_thread() -> None:
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(check("It is 7", "7", "math")))
    thread.start()
    thread.join()
    assert got == [(True, "7")]


def test_a_reference_without_mathematics_is_the_datas_fault() -> None:
    with pytest.raises(ValueError, match="no formula or number in the reference '&&&'"):
        check("18", "&&&", "math")


@pytest.mark.parametrize("reference", ["", " \n", "work\n####", "####  "])
def test_a_blank_reference_is_refused(reference: str) -> None:
    for how in ("math", "gsm8k", "exact", "pattern"):
        with pytest.raises(ValueError, match="holds no answer"):
            check("18", reference, how, "x")


@pytest.mark.parametrize("reference", ["eighteen", "He has 5 of 12", "1/0"])
def test_a_gsm8k_reference_is_one_number(reference: str) -> None:
    with pytest.raises(ValueError, match="is not one number"):
        check("#### 5", reference, "gsm8k")


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("  New\n York ", "new york", True),
        ("York", "New York", False),
        ("I think so.\n#### Yes", "yes", True),
        (" ", "yes", None),
        ("caf\u00e9", "cafe\u0301", True),
        ("cafe\u0301", "CAF\u00c9", True),
        ("\uff21\uff22", "ab", True),
        ("x\u00b2", "x2", False),
    ],
)
def test_exact_compares_words(answer: str, reference: str, expected: bool | None) -> None:
    assert check(answer, reference, "exact")[0] is expected


@pytest.mark.parametrize(
    ("answer", "reference", "pattern", "expected"),
    [
        ("(A) no, answer: (B)", "b", r"\((\w)\)", (True, "B")),
        ("(A) no, answer: (B)", "A", r"\((\w)\)", (False, "B")),
        ("total 18.0 apples", "18", r"[\d.]+", (True, "18.0")),
        ("none", "18", r"\d+", (None, "")),
        ("x", "18", r"x(\d)?", (None, "")),
    ],
)
def test_pattern_compares_its_last_match(
    answer: str, reference: str, pattern: str, expected: tuple[bool | None, str]
) -> None:
    assert check(answer, reference, "pattern", pattern) == expected


WEIRD = st.one_of(
    st.text(max_size=80),
    st.text("0123456789.,$%-+/ e#\n=xX(){}\\^", max_size=300),
    st.builds(
        lambda part, n: part * n, st.text(" -$,.0/e#", min_size=1, max_size=4), st.just(9999)
    ),
)


@settings(max_examples=150, deadline=2000)
@given(WEIRD, st.sampled_from(["gsm8k", "exact", "pattern"]))
def test_no_answer_raises_or_takes_long(answer: str, how: How) -> None:
    is_right, read = check(answer, "#### 18", how, r"\d+")
    assert (is_right is None) == (read == "")


@settings(max_examples=60, deadline=None)
@given(st.text("0123456789.,$%-+/ e#\n=x(){}\\", max_size=40) | st.text(max_size=30))
def test_no_answer_raises_under_math(answer: str) -> None:
    is_right, _ = check(answer, "18", "math")
    assert is_right in (True, False, None)


@given(st.integers(-(10**9), 10**9), st.integers(-3, 3))
def test_gsm8k_is_right_just_where_the_numbers_are_equal(value: int, off: int) -> None:
    assert check(f"so\n#### {value + off:,}", f"#### {value}", "gsm8k")[0] is (off == 0)


@pytest.mark.parametrize(
    "answer",
    ["#### Step 3: subtract\n20 - 2 = 18\n\nThe answer is 18.", "#### Final answer\n\n18"],
)
def test_a_heading_is_not_the_answer(answer: str) -> None:
    assert check(answer, "18", "math")[0] is True
