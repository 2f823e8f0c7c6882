r"""The final answer of a text: its place, and the words around it that belong to it.

In this order: the last `\boxed{}` (several that stand side by side are one answer); what follows the
last "answer is", "Answer:" and the like, to the end of its sentence; else the end of the text: the
last number or formula of the last sentence that has one. Of an equation the answer is the last side;
that is `factory/math/answers.py`'s matter, as is whether it is right. Only where the sides have units or
currency signs, `$5 * 4 = $20`, is the last side all that is read.

A number is taken whole, with all that makes it another number: "2 2/3", "5 or 6", "3 to 4",
"5 hours and 30 minutes", "5 million", "-7%", "more than 5". Where the whole cannot be read as one
answer, `formula` is None. A unit or currency is taken off; after a comma or "because" comes a remark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from factory.math.folding import FOLDED, PROSE_MACRO, closing, fold, unfold
from factory.math.runs import NO_SPACES, Run, runs_of, words_of
from factory.math.units import MONTHS, NO_UNIT, UNITS, is_formula, without_unit


class Final(NamedTuple):
    """A final answer."""

    text: str
    """Its words, LaTeX without dollars."""
    formula: str | None
    """The number or formula in it, without unit. None: it has none."""
    unit: str = ""
    is_explicit: bool = False
    """Boxed, or said to be the answer, or all that the text says."""


_BOX = re.compile(r"\\f?boxed\s*(?=[{\s0-9a-zA-Z])")
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$,;]|\\[()\[\], ]|\band\b|\bor\b|\\text\{[^{}]*\}|[a-zA-Z]\s*=)*"
)
_MARK = re.compile(
    r"(?<!/)\b(?:answer|result)\b[*_)\s]*(?:(?:to|of|for|in|here|choice|option)\b[^.?!\n:=]{0,100}?)?[*_\s]*"
    r"(?:\b(?:is|are|was|equals|becomes|(?:would|will|should|must) be|comes? (?:out )?to)\b|[:=：])"
    r"|^[#*_ \t]*(?:final[ \t]+)?answer[*_ \t]*$"
    r"|答案[是为為：:]|答え[は：:]|정답[은:]"
    r"|\b(?:respuesta|réponse|antwort|resposta|risposta)(?:\s+\w+)?\s*(?:\bes\b|\best\b|\bist\b|\blautet\b"
    r"|\bé\b|\bè\b|:)|\bответ\s*[:—-]",
    re.IGNORECASE | re.MULTILINE,
)
SENTENCE_END = re.compile(r"(?<=[.!?])(?=[\s*_\"')\]]*(?:\s|$))|\n|(?<=[。！？।؟])")
_SHORTENED = re.compile(r"\b(approx|ca|vs|no|eq|Mr|Mrs|Ms|Dr|St)\.(?=\s)")
_ANNOTATION = re.compile(r"<<[^<>\n]*>>")
"""A calculator's note in GSM8K's solutions: 48/2 = <<48/2=24>>24."""
_REMARK = re.compile(r"(?<=[0-9%])\s+\([-+*/0-9., =×÷]*\)\s*$")
"""A reason in brackets after a number: 17 (14 + 9 - 6)."""
_WHICH_IS = re.compile(r"\b(?:which|that) (?:is|equals|gives|makes|comes to)\b|\bi\.e\.,?\s")
_FULL_WIDTH_DIGITS = str.maketrans("０１２３４５６７８９．", "0123456789.")
_EQUALS = re.compile(r"(?<![<>!≤≥])=")
_BULLET = re.compile(r"\A\s*[-*•+]\s+")
_ITEM = re.compile(r"^[ \t]*\(?\d{1,2}[.)][ \t]+(?=\S)", re.MULTILINE)
EMPHASIS = re.compile(
    r"(?<![0-9a-zA-Z)])\*\*|\*\*(?![0-9a-zA-Z(])|(?<!\S)\*(?=\S)|(?<=[^\s*])\*(?!\S)|`|(?<!\w)__|__(?!\w)"
)
_FILLER = frozenset(
    """
    about approximately around roughly approx equal to equals exactly simply just therefore thus
    indeed actually then now so only the a total of number value integer set point interval given
    by
    """.split()  # noqa: SIM905
)
_CLAUSE = re.compile(
    r"because|since|as|so|which|where|when|given|for|if|in|on|at|after|from|with|by|that|is|are|was"
    r"|per|each|every"
)
_NOT_IT = re.compile(
    r"(?:\b(?:more|less|fewer|greater|other|larger|smaller|higher|lower) than|\bnot|\bnever|n't|n’t"
    r"|\bbetween|\bcannot be)\s*$",
    re.IGNORECASE,
)
_MONTH = re.compile(rf"\b(?:{MONTHS})\.?\s*$")
_PART_OF = re.compile(
    r"\b(?:half|thirds?|fourths?|quarters?|fifths?|tenths?|root|percent) of(?: the)?$"
    r"|\b(?:twice|double|triple|thrice)$",
    re.IGNORECASE,
)
"""Before a number: half of 10 is another."""
_OF_WHAT = re.compile(
    r"\b(?:in|for|on|of|with|to|after|before|than|from|over|within|by|per|every|at|during)\b"
)
_NEW_CLAUSE = re.compile(
    r"[,;:.!?(]|\b(?:so|is|are|was|were|and|or|but|then|which|that|has|have|had|gives?|makes?|gets?"
    r"|leaves?|leaving|because|since|thus|total|therefore|if)\b",
    re.IGNORECASE,
)
_WORKED = re.compile(r"(?:\A|[0-9)}%][^=]*)=\s*[$€£]?[0-9][0-9.,]*(?<![.,])%?$")
"""An equation of numbers, worked out."""
_OPERATION = re.compile(
    r"(?:\w+ ){0,2}(?:[–\u2212]|times|plus|(?:divided|multiplied) by|out of|to the power(?: of)?)"
    r"|of(?: the)?|over|mod|modulo|choose|r|(?:with )?(?:a )?remainder(?: of)?",
    re.IGNORECASE,
)
"""Between two numbers: 5 times 3 is neither."""


def final_answer(text: str, *, is_marked: bool = False) -> Final | None:
    """The number or formula that a text ends with; None: none. `is_marked`: the text follows a mark."""
    text = text.translate(_FULL_WIDTH_DIGITS)
    if (boxed := _boxed(text)) is not None:
        return _whole(boxed) if boxed.strip() else None
    text = _ANNOTATION.sub("", text)
    if (whole := _only(text)) is not None:
        return whole
    folded, pieces = fold(PROSE_MACRO.sub(r" \1 ", EMPHASIS.sub("", text)))
    folded = _SHORTENED.sub(r"\1", folded)
    if len(_ITEM.findall(folded)) > 1:  # an enumeration; one alone may be the answer
        folded = _ITEM.sub("", folded)
    starts = _marks(folded) or [0] * is_marked
    for start in reversed(starts):
        span = _sentence(folded[start:])
        if not span.endswith("?") and (found := _after_mark(span, pieces)) is not None:
            return found
    for sentence in reversed(SENTENCE_END.split(folded)):
        found = _last_of(_BULLET.sub("", sentence, count=1), pieces)
        if found is not None:
            return found
    return None


def _boxed(text: str) -> str | None:
    r"""The contents of the last `\boxed{}`. "": it is not closed. None: there is none."""
    boxes = [*_BOX.finditer(text)]
    if not boxes:
        return None
    found: list[tuple[int, int, str]] = []
    for box in boxes:
        at = box.end()
        if text[at : at + 1] == "{":
            end = closing(text, at)
            inside = "" if end is None else text[at + 1 : end]
            found.append((box.start(), len(text) if end is None else end + 1, inside))
        else:
            bare = re.compile(r"\S+?(?=[$.,\s]|$)").match(text, at)
            found.append((box.start(), bare.end() if bare else at, bare[0] if bare else ""))
    joined = [found[-1][2]]
    for (_, end, inside), (begin, _, _) in zip(found[-2::-1], found[:0:-1], strict=True):
        if begin < end or not _BETWEEN_BOXES.fullmatch(text, end, begin):
            break
        if not re.search(r"[,;=]|and|or", text[end:begin]):
            break
        joined.insert(0, inside)
    return ", ".join(dict.fromkeys(item.strip() for item in joined))


def _whole(text: str) -> Final:
    """All of the text is the answer."""
    text = text.strip()
    formula, unit = _read(_undelimited(text))
    shown = PROSE_MACRO.sub(r"\1", text) if PROSE_MACRO.fullmatch(text) else text
    return Final(shown, formula, unit, True)


def _only(text: str) -> Final | None:
    """A short text that is the answer and nothing else."""
    text = EMPHASIS.sub("", text.strip()).strip()
    if "\n" in text or len(text) > 200:
        return None
    bare = _REMARK.sub("", _undelimited(text.rstrip(".")))
    formula, unit = without_unit(bare)
    return Final(bare, formula, unit, True) if formula is not None and is_formula(formula) else None


def _marks(text: str) -> list[int]:
    """Positions of the marks' ends. "The result is" and "the answer was" may be said of a step: they count
    after "final", as a label of a line, and where no number follows their sentence."""
    return [found.end() for found in _MARK.finditer(text) if not _is_of_a_step(found)]


def _is_of_a_step(mark: re.Match[str]) -> bool:
    if not re.match("result|.*was$", mark[0], re.IGNORECASE | re.DOTALL):
        return False
    before = mark.string[max(0, mark.start() - 10) : mark.start()]
    is_label = mark[0].endswith((":", "：")) and re.search(r"(?:\A|\n)[\s#*_]*\Z", before)
    if is_label or re.search(r"final[\s*_]*\Z", before, re.IGNORECASE):
        return False
    rest = mark.string[mark.end() :].lstrip(" \t\n*_:：")
    end = SENTENCE_END.search(rest, 1)
    if _BULLET.match(rest) or end is None:
        return False
    return re.search(rf"[0-9]|{FOLDED.pattern}", rest[end.start() :]) is not None


def _sentence(rest: str) -> str:
    """The sentence after a mark; if it is a list, all of its lines."""
    rest = rest.lstrip(" \t\n*_:：").replace("\ufffc", "")
    lines = rest.split("\n")
    if _BULLET.match(lines[0]):
        listed = [line for line in lines if line.strip()]
        items = []
        for line in listed:
            if not _BULLET.match(line):
                break
            items.append(_BULLET.sub("", line, count=1).strip().rstrip(".,;"))
        return ", ".join(items)
    end = SENTENCE_END.search(rest, 1) if rest else None
    return rest[: end.start()].strip() if end else rest.strip()


def _undelimited(text: str) -> str:
    folded, pieces = fold(text.strip())
    return pieces[0].strip() if len(folded) == 1 and pieces else text.strip()


def _after_mark(span: str, pieces: Sequence[str]) -> Final | None:
    """The answer at the beginning of what follows a mark; else the last of its sentence."""
    again = _WHICH_IS.search(span)  # "14 + 9 - 6, which is 17"
    if again and again.start() and (found := _after_mark(span[again.end() :], pieces)):
        return found
    words = words_of(span)
    runs = runs_of(words)
    if not runs:
        return None
    first = runs[0]
    before = [word.strip(",:*").lower() for word in words[: first.begin]]
    if not all(word in _FILLER or not word for word in before):
        found = _last_of(span, pieces)
        return found._replace(is_explicit=len(runs) == 1) if found else None
    after = range(first.end, len(words))
    remark = next((i for i in after if _is_remark(words[i - 1], words[i])), len(words))
    rest = words[first.end : remark]
    if any(_has_digit(word) for word in rest):
        return Final(unfold(" ".join(words[first.begin : remark]), pieces), None, "", True)
    return _final(first, " ".join(rest), pieces)._replace(is_explicit=True)


def _is_remark(before: str, word: str) -> bool:
    """A remark about the answer begins with this word."""
    is_clause = _CLAUSE.fullmatch(word.lower().strip(",")) is not None
    return is_clause or word.startswith(("(", "–", "—")) or before.endswith((",", ";", ":"))


def _has_digit(word: str) -> bool:
    if re.fullmatch(r"[A-Za-zµ°/]+(?:\^?\{?[23]\}?|[²³])[.,;:!?)]*", word):
        return False  # cm^2
    return any(c.isdigit() for c in word) or FOLDED.search(word) is not None


def _last_of(sentence: str, pieces: Sequence[str]) -> Final | None:
    """The last number or formula of a sentence. The words around it may make it another."""
    words = words_of(sentence)
    runs = runs_of(words)
    last = runs[-1] if runs else Run(0, 0, "")
    is_unread = any(_has_digit(word) for word in words[last.end :])
    if (count := _worked_out(words, runs, pieces)) < len(runs):
        words, runs = words[: runs[count].begin], runs[:count]
        last = runs[-1]
    before = " ".join(words[: last.begin])
    if not runs and not is_unread:
        return None
    if (
        is_unread
        or _NOT_IT.search(before)
        or _MONTH.search(before)
        or _is_operand(words, runs)
        or (
            len(runs) > 1
            and not words[last.begin].startswith("=")
            and _is_compound(words[runs[-2].end : last.begin])
        )
    ):
        return Final(unfold(sentence, pieces).strip(" .:;!,"), None)
    parts = _split_list(last.text)
    if len(parts) > 1 and any("=" in part for part in parts):
        last = last._replace(text=parts[-1])
    return _final(last, " ".join(words[last.end :][:2]), pieces)


def _worked_out(words: Sequence[str], runs: Sequence[Run], pieces: Sequence[str]) -> int:
    """Number of runs that lead to the answer. Runs after an equation may only say what it is of,
    as in `120/24 = 5 hours to read 120 pages`."""
    for count in range(len(runs), 0, -1):
        run = runs[count - 1]
        shown = unfold(" ".join(words[run.begin : run.end]), pieces)
        if "=" in shown:
            return count if _WORKED.search(shown) else len(runs)
        between = " ".join(words[runs[count - 2].end : run.begin]) if count > 1 else ""
        if not _OF_WHAT.search(between) or _NEW_CLAUSE.search(between):
            break
    return len(runs)


def _is_operand(words: Sequence[str], runs: Sequence[Run]) -> bool:
    """The last number is still to be worked with, by what the words before it say."""
    if not runs or "=" in "".join(words[runs[-1].begin : runs[-1].end]):
        return False
    between = words[runs[-2].end if len(runs) > 1 else 0 : runs[-1].begin]
    if _PART_OF.search(" ".join(between)):
        return True
    return len(runs) > 1 and _OPERATION.fullmatch(" ".join(between)) is not None


def _split_list(text: str) -> list[str]:
    """At commas that are followed by a space and stand in no bracket."""
    parts, depth, begin = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth <= 0 and text[i + 1 : i + 2] == " ":
            parts.append(text[begin:i])
            begin = i + 1
    return [*parts, text[begin:]]


def _is_compound(between: Sequence[str]) -> bool:
    """True for the words between the two numbers of "5 hours and 30 minutes"."""
    names = [word.strip(",.").lower() for word in between]
    if len(names) == 1 and re.fullmatch(f"[{NO_SPACES}]{{1,2}}", names[0]):
        return True
    return 0 < len(names) <= 2 and names[0] in UNITS and names[1:] in ([], ["and"])


def _final(run: Run, after: str, pieces: Sequence[str]) -> Final:
    shown = unfold(run.text, pieces).strip()
    shown = re.sub(r"[.,;:?。、，；：？]+$", "", shown)
    if not run.text.rstrip().endswith(tuple(map(chr, range(0xE000, 0xF900)))):
        shown = re.sub(r"(?<=[\w)])!+$", "", shown)
    shown = _REMARK.sub("", _balanced(shown))
    if no_unit := NO_UNIT.match(after.lstrip(" -")):
        return Final(f"{shown} {no_unit[0]}", None)
    formula, unit = _read(shown)
    named = re.match(r"[\s-]*([A-Za-zµ°]+[²³]?)", after)
    return Final(shown, formula, unit or (named[1] if named else ""))


def _read(shown: str) -> tuple[str | None, str]:
    """(the formula, its unit). Of an equation with units or currency, `$5 * 4 = $20`, it is the last side."""
    formula, unit = without_unit(shown)
    if formula is None or "=" not in formula or is_formula(formula) or _is_several(shown):
        return formula, unit
    last, its_unit = without_unit(_EQUALS.split(shown)[-1].strip())
    return (last, its_unit) if last is not None and is_formula(last) else (formula, unit)


def _is_several(text: str) -> bool:
    return len(_split_list(text)) > 1 or re.search(r";|\b(?:and|or)\b", text) is not None


def _balanced(text: str) -> str:
    """The text without the unmatched bracket of a remark: `9 = 17)`, `(3 + 4`."""
    if text.endswith(")") and text.count("(") < text.count(")") and "[" not in text:
        return text[:-1]
    if text.startswith("(") and text.count("(") > text.count(")") and "]" not in text:
        return text[1:]
    return text


# -- Answers that are words -------------------------------------------------------------------------


def last_words(text: str) -> tuple[str, bool]:
    """(what the text says last: the box, what follows the last mark, or the last sentence; whether
    that is said to be the answer, or is all that the text says)."""
    if (boxed := _boxed(text)) is not None:
        return said_by(boxed), True
    text = PROSE_MACRO.sub(r"\1", EMPHASIS.sub("", text))
    marks = _marks(text)
    if marks and (span := _sentence(text[marks[-1] :])):
        return said_by(span), True
    sentences = [s for s in SENTENCE_END.split(text) if said_by(s)]
    return (said_by(sentences[-1]), len(sentences) == 1) if sentences else ("", False)


def after_mark(line: str) -> str | None:
    """The text after the last mark of a line. None: there is no mark."""
    marks = _marks(line)
    return line[marks[-1] :] if marks else None


def said_by(text: str) -> str:
    return PROSE_MACRO.sub(r"\1", text).strip(" .:;!,*\"'$。！\n")
