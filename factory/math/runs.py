"""The words of a sentence that together are a number or a formula: `5 or 6`, `x = 5`, `12 km/h`.

Its mathematics is folded (`factory/math/folding.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from factory.math.latex import TIMES
from factory.math.units import ATTACHED, PERCENT, is_attached, sized

_MATH_WORD = re.compile(
    r"(?:[\ue000-\uf8ff0-9½¼¾⅐-⅞⁰¹²³⁴-⁹⁺⁻]|[-+*/^=<>≤≥±≈%()\[\]{}|.,;:!_÷×·√π∞°'−–—$€£¥₹₩₽฿]|\\[a-zA-Z]+|\\[{},%$;]"
    r"|\?|(?<![A-Za-z])[A-Za-z](?![A-Za-z'’])|(?:sqrt|pi|sin|cos|tan|log|ln|exp|inf)(?![a-z])"
    r"|[eE][-+]?(?=[0-9]))++"
)
_OPERATOR = re.compile(r"[-+*/^=<>≤≥±≈÷×·−]+")
_QUANTITY = re.compile(
    r"[\ue000-\uf8ff0-9½¼¾⅐-⅞π∞]|\\[a-zA-Z]|[A-Za-z]\s*=|=\s*[A-Za-z]|[a-z]\("
    r"|(?<![A-Za-z])[A-Za-z]\s*[+*/^]|[+*/^]\s*[A-Za-z](?![A-Za-z])"
    r"|(?<![A-Za-z])[b-hj-zB-HJ-Z]\s*-\s*[b-hj-zB-HJ-Z(\\]"
)
_CONNECTORS = frozenset({"and", "or", "&", "to", "through", "till"})


NO_SPACES = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Scripts that write numbers without white space around them."""
_JOINED = re.compile(
    rf"(?<=[{NO_SPACES}])(?=[-0-9$\ue000-\uf8ff])|(?<=[0-9%\ue000-\uf8ff])(?=[{NO_SPACES}])"
)
_FULL_WIDTH = str.maketrans(
    {
        "（": " (",
        **{c: f"{plain} " for c, plain in zip("。，、；：！？）", ".,,;:!?)", strict=True)},
    }
)


class Run(NamedTuple):
    """Words side by side that together are a number or a formula."""

    begin: int
    end: int
    """Positions among the sentence's words, `end` past the last."""
    text: str


def words_of(sentence: str) -> list[str]:
    """The words of a sentence; what makes another number of one, as `percent` does, in signs."""
    sentence = re.sub(r"([0-9]) and a half\b", r"\1 1/2", sentence)
    sentence = TIMES.sub("*", sentence)
    if not sentence.isascii():
        sentence = _JOINED.sub(" ", sentence.translate(_FULL_WIDTH))
    sentence = PERCENT.sub(r"\1%", sized(sentence))
    sentence = re.sub(r"(?<![\w)\]}])[–—](?=[0-9])", "-", sentence)
    sentence = re.sub(r"\b(?:negative|minus) (?=[0-9\ue000-\uf8ff])", "-", sentence)
    sentence = re.sub(r"\b(?:is equal to|equals)\b", "=", sentence)
    return sentence.split()


def runs_of(words: Sequence[str]) -> list[Run]:
    is_math = [_is_math(words, i) for i in range(len(words))]
    runs: list[Run] = []
    at = 0
    while at < len(words):
        if not is_math[at]:
            at += 1
            continue
        end = at
        while True:
            while end < len(words) and is_math[end]:
                end += 1
                is_done = ATTACHED.fullmatch(_bare(words[end - 1])) and not (
                    end < len(words) and _OPERATOR.match(words[end])
                )
                if words[end - 1].endswith((":", ";")) or is_done:
                    break
            joins = end < len(words) - 1 and words[end].lower() in _CONNECTORS and is_math[end + 1]
            if joins and not ATTACHED.fullmatch(_bare(words[end - 1])):
                end += 1
                continue
            break
        text = re.sub(r"^\s*[=≈]\s*", "", " ".join(words[at:end]))
        if _QUANTITY.search(text):
            runs.append(Run(at, end, text))
        at = end
    return runs


def _bare(word: str) -> str:
    return word.strip(".,;:!?。、，；：！？")


def _is_math(words: Sequence[str], i: int) -> bool:
    word = words[i]
    if is_attached(_bare(word)):
        return True
    if not _MATH_WORD.fullmatch(word):
        return False
    if _bare(word).isalpha() and _bare(word).isascii():  # "a" and "I" are words, but for "x = 5"
        before = words[i - 1] if i else ""
        after = words[i + 1] if i + 1 < len(words) else ""
        return bool(_OPERATOR.fullmatch(before) or _OPERATOR.match(after))
    if re.fullmatch(r"[-–—.,;:!()'\"]+", word) is None:
        return True
    # A dash between formulas, or before one, is none of a sentence.
    return word == "-" and i + 1 < len(words) and _MATH_WORD.fullmatch(words[i + 1]) is not None
