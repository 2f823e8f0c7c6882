from __future__ import annotations

import pytest

from factory.workbench.word_diff import Piece, marked, word_diff


def shown(old: str, new: str) -> str:
    return "".join(text for _, text in marked(word_diff(old, new)))


def test_words_in_common_are_kept_and_others_marked() -> None:
    assert word_diff("the cat sat down", "the dog sat") == [
        Piece("same", "the "),
        Piece("removed", "cat "),
        Piece("added", "dog "),
        Piece("same", "sat "),
        Piece("removed", "down"),
    ]
    assert shown("the cat sat down", "the dog sat") == "the [-cat-] {+dog+} sat [-down-]"


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("a b", "a b c", "a b {+c+}"),
        ("one\ntwo", "one three\ntwo", "one\n{+three+}\ntwo"),
        ("same  here", "same here", "same  here"),
        ("", "new", "{+new+}"),
        ("", "", ""),
        ("我喜欢猫。", "我爱猫。", "我[-喜欢-] {+爱+}猫。"),
    ],
)
def test_marked_texts(old: str, new: str, text: str) -> None:
    assert shown(old, new) == text


def test_texts_with_little_in_common_are_shown_whole() -> None:
    assert shown("a b c d the e f", "u v the w x y z") == "[-a b c d the e f-] {+u v the w x y z+}"
