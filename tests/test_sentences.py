"""Sentences, the rule that counts them, and revisions that copy."""

from __future__ import annotations

import asyncio

import pytest

from factory.core.constitution import Constitution
from factory.core.records import Candidate, Critique, Sample
from factory.core.sentences import has_ended, sentences
from factory.scorers.rules import Sentences
from factory.stages.filter import Filter
from tests.conftest import CONSTITUTION
from tests.fakes import ScriptedModels


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("Boil it.", 1),
        ("Boil it", 1),
        ("Boil it! Then peel it.", 2),
        ("Soak it, e.g. overnight. Then rinse.", 2),
        ("- eggs\n- rice", 2),
        ("1. Boil 0.5 l of water.", 1),
        ("Dr. J. Smith of the U.S. Army wrote it.", 1),
        ("Take vitamin C. It helps.", 2),
        ('She said "Go." He went.', 2),
        ("What? No... yes!", 2),  # before a small letter nothing ends
        ("卵をゆでる。皮をむく。", 2),
        ("A line\nand another", 2),
    ],
)
def test_sentences_are_cut_where_a_reader_would(text: str, count: int) -> None:
    assert len(sentences(text)) == count


def test_a_sentence_has_ended_with_a_mark() -> None:
    ended = ["Go.", "Go!", 'She said "Go."', "Gone (at last).", "行く。"]
    assert all(has_ended(text) for text in ended)
    assert not any(has_ended(text) for text in ["Go", "Go,", "3.5 l"])


def test_the_rule_wants_whole_sentences_and_no_more_than_so_many() -> None:
    one, two = Sentences(), Sentences(maximum=2)
    texts = ["Boil it.", "Boil it. Peel it.", "Boil it. Peel", "Boil", "", "A. B. C. is it. D."]
    assert [one.score(text, 0) for text in texts] == [1, 0, 0, 0, 0, 0]
    assert [two.score(text, 0) for text in texts] == [1, 1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("text", "is_copied"),
    [
        ("Put it in boiling water for eight minutes.", True),  # the worked example's revision
        ("Put it in boiling water for eight minutes, and peel it then.", True),
        ("Put it in boiling water and salt it as you like it best.", False),
        ("Your answer is too long for me.", True),  # as the critique begins
        ("Boil it for eight minutes.", False),
    ],
)
def test_revisions_that_copy_are_dropped(text: str, is_copied: bool) -> None:
    sample = Sample("s", 0, [{"role": "user", "content": "How?"}])
    sample.candidates = [
        Candidate(0, "Your answer is too long for me.", "generate", "m", "c"),  # no revision
        Candidate(1, text, "revise", "m", "c", parent=0, round=1),
    ]
    sample.critiques = [Critique(0, 1, ["kind-words"], "Your answer is too long.", "c", "Say.")]
    models = ScriptedModels(constitution=Constitution.model_validate(CONSTITUTION))
    asyncio.run(Filter(copied=True)(sample, models))
    assert [c.drop_reason for c in sample.candidates] == [None, "copied" if is_copied else None]
