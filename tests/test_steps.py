from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.math.steps import Split, split_steps


def test_lines_are_steps_and_blank_ones_are_none() -> None:
    assert split_steps("Half of 48 is 24.\n\n  48 + 24 = 72.\r\n#### 72\n", "newline") == [
        "Half of 48 is 24.",
        "48 + 24 = 72.",
        "#### 72",
    ]


def test_paragraphs_keep_their_lines() -> None:
    assert split_steps("a = 1\nb = 2\n \n\nc = 3\n", "blank_line") == ["a = 1\nb = 2", "c = 3"]


# Numbered --------------------------------------------------------------------------------------


def test_steps_begin_at_the_word_step() -> None:
    text = "Step 1: add.\nSee step 1.\n**Step 2:** halve.\n### step 3\nDone."
    assert split_steps(text, "numbered") == [
        "Step 1: add.\nSee step 1.",
        "**Step 2:** halve.",
        "### step 3\nDone.",
    ]


def test_steps_begin_at_numbers() -> None:
    text = "1. Add 2.5\n2.5 is more than 2\n2) Halve\n**3.** Stop"
    assert split_steps(text, "numbered") == [
        "1. Add 2.5\n2.5 is more than 2",
        "2) Halve",
        "**3.** Stop",
    ]


def test_numbers_within_steps_that_are_named_so_begin_none() -> None:
    text = "Step 1: two things\n1. one\n2. other\nStep 2: end"
    assert split_steps(text, "numbered") == [
        "Step 1: two things\n1. one\n2. other",
        "Step 2: end",
    ]


def test_what_stands_before_the_first_number_belongs_to_the_first_step() -> None:
    assert split_steps("Let us see.\n\n1. Add\n2. Halve", "numbered") == [
        "Let us see.\n\n1. Add",
        "2. Halve",
    ]


def test_a_text_without_numbers_is_one_step() -> None:
    assert split_steps("Add.\nHalve.", "numbered") == ["Add.\nHalve."]


# Sentences -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("It is 3.5 m. Half is 1.75 m!", ["It is 3.5 m.", "Half is 1.75 m!"]),
        ("Take e.g. Mr. Lee. He pays.", ["Take e.g. Mr. Lee.", "He pays."]),
        ('He said "go." Then (he left.) Why? So.', ['He said "go."', "Then (he left.)", "Why?", "So."]),
        ("5! = 120 and 5! is even. 3! Yes.", ["5! = 120 and 5! is even.", "3!", "Yes."]),
        ("1. Add two. 2. Halve.", ["1. Add two.", "2. Halve."]),
        ("so y = 2. x is 4. $z$ is 5", ["so y = 2.", "x is 4.", "$z$ is 5"]),
        ("no mark\nnext line. End", ["no mark", "next line.", "End"]),
        ("Wait... Now.", ["Wait...", "Now."]),
        ("...", ["..."]),
        ("Hmm… let me see. Wait… Then", ["Hmm… let me see.", "Wait…", "Then"]),
        ("今天很好。我们走吧！你呢？好……走。", ["今天很好。", "我们走吧！", "你呢？", "好……", "走。"]),
        ("他说：“好。”然后走了。。。", ["他说：“好。”", "然后走了。。。"]),
        ("你好!我走了?好的, 3.5元.", ["你好!", "我走了?", "好的, 3.5元."]),
        ("これはペン！？そうです。", ["これはペン！？", "そうです。"]),
        ("यह एक है। वह दो है॥ठीक", ["यह एक है।", "वह दो है॥", "ठीक"]),
        ("هل هذا صحيح؟نعم", ["هل هذا صحيح؟", "نعم"]),
        ("ሰላም።እንዴት ነህ።", ["ሰላም።", "እንዴት ነህ።"]),
    ],
)  # fmt: skip
def test_sentences(text: str, steps: list[str]) -> None:
    assert split_steps(text, "sentence") == steps


# All ways --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", get_args(Split))
@pytest.mark.parametrize("text", ["", " \n\t\r\n "])
def test_a_blank_text_has_no_steps(text: str, how: Split) -> None:
    assert split_steps(text, how) == []


PIECES = [
    "Step 1",
    "1. ",
    "2) ",
    "a",
    "Z.",
    "e.g. ",
    "3.5",
    "5! ",
    "? ",
    "**",
    "$x$",
    "é",
    "\u2028",
]


@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(st.sampled_from([*PIECES, " ", "\n", "\r\n", "\n\n"]), max_size=20).map("".join),
    ),
    st.sampled_from(get_args(Split)),
)
def test_steps_hold_all_text_but_white_space(text: str, how: Split) -> None:
    steps = split_steps(text, how)
    assert "".join("".join(steps).split()) == "".join(text.split())
    assert all(step and step == step.strip() for step in steps)


@given(st.lists(st.text(alphabet="ab .1", min_size=1).map(str.strip).filter(bool), min_size=1))
def test_lines_joined_are_split_again(steps: list[str]) -> None:
    assert split_steps("\n".join(steps), "newline") == steps
    assert split_steps("\n\n".join(steps), "blank_line") == steps
