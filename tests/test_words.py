"""What counts as a word in each script, and what two spellings have in common."""

from __future__ import annotations

import asyncio
import re
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import factory
from factory.core.records import Candidate, Sample
from factory.core.words import composed, spelling, words
from factory.scorers.rules import Length
from factory.stages.filter import Filter
from tests.fakes import ScriptedModels


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        (" \n", 0),
        ("Don't panic: it's 3.14, or 1,234.50!", 6),
        ("a state-of-the-art naïve café — so to say", 8),
        ("안녕하세요 세계", 2),
        ("मैं ठीक हूँ।", 3),
        ("مرحبا بالعالم", 2),
        ("今天天气很好，我们去公园。", 11),
        ("漢字とカタカナのテスト", 6),
        ("コーヒー", 1),
        ("ﾊﾟﾝ", 1),
        ("用GPT-4写代码，很快。", 7),
        ("Hello 世界, again", 4),
        ("ครับ", 1),
        ("สวัสดีชาวโลก", 4),
        ("ພາສາລາວ", 3),
    ],
)
def test_words_are_counted_by_script(text: str, count: int) -> None:
    assert words(text) == count


@given(st.text(alphabet=st.characters(max_codepoint=0x24F), max_size=60))
def test_of_latin_text_words_are_what_stands_between_white_space(text: str) -> None:
    assert words(text) == len(text.split())


@given(st.text("ab 世界、。かナไทย'-1\n", max_size=30), st.text("ab 世界かナไทย1", max_size=30))
def test_words_of_two_texts_add_up(one: str, other: str) -> None:
    assert words(f"{one}\n{other}") == words(one) + words(other)


def test_english_is_counted_fast() -> None:
    text = "The quick brown fox doesn\u2019t jump over 3.5 lazy dogs.\n" * 50_000
    begin = time.process_time()
    words(text)
    assert len(text) / (time.process_time() - begin) > 2e6  # measured: 15 to 27 million


def test_the_rule_of_length_counts_them() -> None:
    assert Length(maximum=5).score("今天天气很好", 1) == 0
    assert Length(maximum=6).score("今天天气很好", 1) == 1


def test_a_filter_counts_them() -> None:
    reasons = []
    for most in (5, 6):
        candidates = [Candidate(0, "今天天气很好", "generate", "m", "c")]
        sample = Sample("s", 0, [{"role": "user", "content": "?"}], candidates=candidates)
        asyncio.run(Filter(max_words=most)(sample, ScriptedModels()))
        reasons.append(sample.candidates[0].drop_reason)
    assert reasons == ["too-long", None]


def test_no_other_place_counts_words() -> None:
    counted = re.compile(r"len\([^()]*(\([^()]*\))*[^()]*\.split\(\)\)")
    package = Path(factory.__file__).parent
    found = [p.name for p in package.rglob("*.py") if counted.search(p.read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CAFÉ", unicodedata.normalize("NFD", "café")),
        ("Straße", "STRASSE"),
        ("ＡＢＣ　１２", "abc 12"),
        ("ﬁn", "fin"),
        ("ｶﾞ", "ガ"),
        ("a\u00a0b", "a b"),
    ],
)
def test_one_spelling_of_what_is_written_in_several_ways(one: str, other: str) -> None:
    assert spelling(one) == spelling(other)


def test_powers_and_fractions_keep_their_meaning() -> None:
    assert spelling("x²") != spelling("x2")
    assert composed("½") == "½"
