r"""Where a text gives its final answer, and how much of the words around it belongs to it.

In this order: the last `\boxed{}` (several that stand side by side are one answer); what follows the
last "answer is", "Answer:" and the like, to the end of its sentence; else the end of the text: the
last number or formula of the last sentence that has one. Of an equation the answer is the last side;
that is `factory/answers.py`'s matter, as is whether it is right.

A number is taken whole, with all that makes it another number: "2 2/3", "5 or 6", "3 to 4",
"5 hours and 30 minutes", "5 million", "-7%", "more than 5". Where the whole is not one answer that
can be read, `formula` is None. A unit or currency is taken off; what follows a comma or "because"
is a remark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from factory.formula import DIGITS, EXPONENT, MAX_CHARS, TIMES, UnreadError, parse


class Final(NamedTuple):
    """A final answer."""

    text: str
    """Its words, LaTeX without dollars."""
    formula: str | None
    """What of them is the number or formula, without unit. None: they are no such thing."""
    unit: str = ""
    is_explicit: bool = False
    """Boxed, or said to be the answer, or all that the text says."""


_CURRENCY = "$€£¥₹₩₽฿"
_BOX = re.compile(r"\\f?boxed\s*(?=[{\s0-9a-zA-Z])")
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$,;]|\\[()\[\], ]|\band\b|\bor\b|\\text\{[^{}]*\}|[a-zA-Z]\s*=)*"
)
_MARK = re.compile(
    r"\b(?:answer|result)\b[*_)\s]*(?:(?:to|of|for|in|here|choice|option)\b[^.?!\n:=]{0,100}?)?[*_\s]*"
    r"(?:\b(?:is|are|was|equals|becomes|(?:would|will|should|must) be|comes? (?:out )?to)\b|[:=：])"
    r"|^[#*_ \t]*(?:final[ \t]+)?answer[*_ \t]*$"
    r"|答案[是为為：:]|答え[は：:]|정답[은:]"
    r"|\b(?:respuesta|réponse|antwort|resposta|risposta)(?:\s+\w+)?\s*(?:\bes\b|\best\b|\bist\b|\blautet\b"
    r"|\bé\b|\bè\b|:)|\bответ\s*[:—-]",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])(?=[\s*_\"')\]]*(?:\s|$))|\n|(?<=[。！？।؟])")
_SHORTENED = re.compile(r"\b(approx|ca|vs|no|eq|Mr|Mrs|Ms|Dr|St)\.(?=\s)")
_ANNOTATION = re.compile(r"<<[^<>\n]*>>")
"""What a calculator worked out in GSM8K's solutions: 48/2 = <<48/2=24>>24."""
_REMARK = re.compile(r"(?<=[0-9%])\s+\([-+*/0-9., =×÷]*\)\s*$")
"""What stands behind a number as its reason: 17 (14 + 9 - 6)."""
_PERCENT = re.compile(r"([0-9])\s*(?:percent\b|per cent\b|pct\b)")
_WHICH_IS = re.compile(r"\b(?:which|that) (?:is|equals|gives|makes|comes to)\b|\bi\.e\.,?\s")
_BULLET = re.compile(r"\A\s*[-*•+]\s+")
_ITEM = re.compile(r"^[ \t]*\(?\d{1,2}[.)][ \t]+(?=\S)", re.MULTILINE)
_EMPHASIS = re.compile(
    r"(?<![0-9a-zA-Z)])\*\*|\*\*(?![0-9a-zA-Z(])|(?<!\S)\*(?=\S)|(?<=[^\s*])\*(?!\S)|`|(?<!\w)__|__(?!\w)"
)
_FILLER = frozenset(
    """
    about approximately around roughly approx equal to equals exactly simply just therefore thus
    indeed actually then now so only the a total of number value integer set point interval given
    by
    """.split()  # noqa: SIM905
)
_CLAUSE = frozenset(
    """
    because since as so which where when given for if in on at after from with by that is are was
    per each every
    """.split()  # noqa: SIM905
)
_NOT_IT = re.compile(
    r"(?:\b(?:more|less|fewer|greater|other|larger|smaller|higher|lower) than|\bnot|\bnever|n't|n’t"
    r"|\bbetween|\bcannot be)\s*$",
    re.IGNORECASE,
)
_MONTH = re.compile(
    r"\b(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.?\s*$"
)
_UNITS = frozenset(
    """
    foot feet ft yard yards yd inch inches in mile miles mi hour hours hr hrs h minute minutes min
    mins second seconds sec secs s day days week weeks month months year years dollar dollars
    cents cent pound pounds lb lbs ounce ounces oz meter meters metre metres m km cm mm kilometers
    centimeters kg g mg grams gram kilograms liter liters litre l ml gallon gallons degrees degree
    dozen o'clock am pm
    """.split()  # noqa: SIM905
)
_SHORT_UNITS = frozenset(
    """
    mm cm dm km m mg g kg t ml cl l L s min h hr ft in yd mi lb lbs oz Hz kHz W kW V A N J K Pa
    mol th st nd rd °C °F C F am pm mph kph
    """.split()  # noqa: SIM905
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SIZED = re.compile(
    r"([0-9.,]*[0-9])\s+(hundred|thousand|million|billion|trillion)\b", re.IGNORECASE
)

# -- Mathematics among words: each piece becomes one sign, which no rule for sentences cuts ---------

_FOLDED = re.compile("[\ue000-\uf8ff]")
_DELIMITED = re.compile(
    r"\$\$(?P<a>.+?)\$\$|\\\[(?P<b>.+?)\\\]|\\\((?P<c>.+?)\\\)|(?<![\\$])\$(?P<d>(?:\\.|[^$\\\n])+)\$(?!\$)"
    r"|(?P<e>\\begin\s*\{(?P<name>[a-zA-Z*]+)\}.*?\\end\s*\{(?P=name)\})|(?P<f>\\[a-zA-Z]+)(?=\s*[{\[])",
    re.DOTALL,
)
_PROSE_MACRO = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_LETTERS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
_NAMES = frozenset("sqrt pi sin cos tan log ln exp inf mod and or".split())  # noqa: SIM905


def _fold(text: str) -> tuple[str, list[str]]:
    """The text with a sign in place of each piece of mathematics, and the pieces."""
    text = _FOLDED.sub("", text)
    pieces: list[str] = []
    out: list[str] = []
    at = 0

    def keep(piece: str) -> None:
        pieces.append(piece)
        out.append(chr(0xE000 + len(pieces) - 1))

    while (found := _DELIMITED.search(text, at)) and len(pieces) < 6000:
        out.append(text[at : found.start()])
        at = found.end()
        kind = found.lastgroup if found.lastgroup != "name" else "e"
        kind = next(k for k in "abcdef" if found[k] is not None)
        inside = found[kind]
        if kind == "f":
            end = _arguments_end(text, at)
            if end is None:
                out.append(found[0])
            else:
                keep(text[found.start() : end])
                at = end
        elif kind == "d" and not _is_mathematics(inside):  # two prices
            out.append("$")
            at = found.start() + 1
        else:
            keep(inside)
    out.append(text[at:])
    return "".join(out), pieces


def _is_mathematics(inside: str) -> bool:
    without = _PROSE_MACRO.sub("", inside)
    is_even = inside[0].isspace() == inside[-1].isspace()
    words = [w for w in _LETTERS.findall(without) if w.lower() not in _NAMES and len(w) > 2]
    return is_even and not words and re.search(r"[-+,;(]\s*$", inside) is None


def _arguments_end(text: str, at: int) -> int | None:
    """Where a macro's arguments in braces end; None: one is not closed."""
    while (begin := re.compile(r"\s*(?=[{\[])").match(text, at)) is not None:
        if text[begin.end()] == "[" and text[at - 1] == "}":
            break
        end = closing(text, begin.end())
        if end is None:
            return None
        at = end + 1
    return at


def closing(text: str, at: int) -> int | None:
    """Where the bracket at `at` is closed."""
    pair = {"{": "}", "[": "]", "(": ")"}[text[at]]
    depth = 0
    for i in range(at, len(text)):
        if text[i] == text[at] and text[i - 1 : i] != "\\":
            depth += 1
        elif text[i] == pair and text[i - 1 : i] != "\\":
            depth -= 1
            if not depth:
                return i
    return None


# -- The final answer ------------------------------------------------------------------------------


def final_answer(text: str, *, is_marked: bool = False) -> Final | None:
    """The number or formula that a text ends with. `is_marked`: the text follows a mark. None: there
    is none."""
    if (boxed := _boxed(text)) is not None:
        return _whole(boxed) if boxed.strip() else None
    text = _ANNOTATION.sub("", text)
    if (whole := _only(text)) is not None:
        return whole
    folded, pieces = _fold(_PROSE_MACRO.sub(r" \1 ", _EMPHASIS.sub("", text)))
    folded = _SHORTENED.sub(r"\1", folded)
    if len(_ITEM.findall(folded)) > 1:  # an enumeration; one alone may be the answer
        folded = _ITEM.sub("", folded)
    starts = [mark.end() for mark in _MARK.finditer(folded)] or [0] * is_marked
    for start in reversed(starts):
        span = _sentence(folded[start:])
        if not span.endswith("?") and (found := _after_mark(span, pieces)) is not None:
            return found
    for sentence in reversed(_SENTENCE_END.split(folded)):
        found = _last_of(_BULLET.sub("", sentence, count=1), pieces)
        if found is not None:
            return found
    return None


def _boxed(text: str) -> str | None:
    r"""What the last `\boxed{}` holds; "": it is not closed. None: there is none."""
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
    formula, unit = _without_unit(_undelimited(text))
    shown = _PROSE_MACRO.sub(r"\1", text) if _PROSE_MACRO.fullmatch(text) else text
    return Final(shown, formula, unit, True)


def _only(text: str) -> Final | None:
    """A short text that is the answer and nothing else."""
    text = _EMPHASIS.sub("", text.strip()).strip()
    if "\n" in text or len(text) > 200:
        return None
    bare = _REMARK.sub("", _undelimited(text.rstrip(".")))
    formula, unit = _without_unit(bare)
    return Final(bare, formula, unit, True) if formula is not None and _reads(formula) else None


def _undelimited(text: str) -> str:
    folded, pieces = _fold(text.strip())
    return pieces[0].strip() if len(folded) == 1 and pieces else text.strip()


def _reads(formula: str) -> bool:
    try:
        parse(formula)
    except UnreadError:
        return False
    return True


def _sentence(rest: str) -> str:
    """Of what follows a mark, the sentence; of a list, all of its lines."""
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
    end = _SENTENCE_END.search(rest, 1) if rest else None
    return rest[: end.start()].strip() if end else rest.strip()


def _unfold(text: str, pieces: Sequence[str]) -> str:
    return _FOLDED.sub(lambda found: pieces[ord(found[0]) - 0xE000], text)


# -- Runs: the words of a sentence that together are a number or a formula --------------------------

_MATH_WORD = re.compile(
    r"(?:[\ue000-\uf8ff0-9½¼¾⅐-⅞⁰¹²³⁴-⁹⁺⁻]|[-+*/^=<>≤≥±≈%()\[\]{}|.,;:!_÷×·√π∞°'−–—$€£¥₹₩₽฿]|\\[a-zA-Z]+|\\[{},%$;]"
    r"|\?|(?<![A-Za-z])[A-Za-z](?![A-Za-z'’])|(?:sqrt|pi|sin|cos|tan|log|ln|exp|inf)(?![a-z])"
    r"|[eE][-+]?(?=[0-9]))++"
)
_ATTACHED = re.compile(
    rf"(?P<number>[-+−]?[{_CURRENCY}]?-?{DIGITS}{EXPONENT})-?(?P<unit>[A-Za-zµ°]+)(?:\^?\{{?[23]\}}?|[²³])?"
)
_OPERATOR = re.compile(r"[-+*/^=<>≤≥±≈÷×·−]+")
_QUANTITY = re.compile(
    r"[\ue000-\uf8ff0-9½¼¾⅐-⅞π∞]|\\[a-zA-Z]|[A-Za-z]\s*=|=\s*[A-Za-z]|[a-z]\("
    r"|(?<![A-Za-z])[A-Za-z]\s*[+*/^]|[+*/^]\s*[A-Za-z](?![A-Za-z])"
    r"|(?<![A-Za-z])[b-hj-zB-HJ-Z]\s*-\s*[b-hj-zB-HJ-Z(\\]"
)
_CONNECTORS = frozenset({"and", "or", "&", "to", "through", "till"})


_NO_SPACES = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Scripts that write numbers without white space around them."""
_JOINED = re.compile(
    rf"(?<=[{_NO_SPACES}])(?=[-0-9$\ue000-\uf8ff])|(?<=[0-9%\ue000-\uf8ff])(?=[{_NO_SPACES}])"
)
_FULL_WIDTH = str.maketrans(
    {
        "。": ". ",
        "，": ", ",
        "、": ", ",
        "；": "; ",
        "：": ": ",
        "！": "! ",
        "？": "? ",
        "（": " (",
        "）": ") ",
    }
)


class _Run(NamedTuple):
    begin: int
    end: int
    """Positions among the sentence's words, `end` past the last."""
    text: str
    unit: str = ""


def _words(sentence: str) -> list[str]:
    sentence = re.sub(r"([0-9]) and a half\b", r"\1 1/2", sentence)
    sentence = TIMES.sub("*", sentence)
    if not sentence.isascii():
        sentence = _JOINED.sub(" ", sentence.translate(_FULL_WIDTH))
    sentence = _SIZED.sub(lambda found: f"{found[1]}*10^{{{_SCALES[found[2].lower()]}}}", sentence)
    sentence = _PERCENT.sub(r"\1%", sentence)
    sentence = re.sub(r"(?<![\w)\]}])[–—](?=[0-9])", "-", sentence)
    sentence = re.sub(r"\b(?:negative|minus) (?=[0-9\ue000-\uf8ff])", "-", sentence)
    sentence = re.sub(r"\b(?:is equal to|equals)\b", "=", sentence)
    return sentence.split()


def _runs(words: Sequence[str]) -> list[_Run]:
    is_math = [_is_math(words, i) for i in range(len(words))]
    runs: list[_Run] = []
    at = 0
    while at < len(words):
        if not is_math[at]:
            at += 1
            continue
        end = at
        while True:
            while end < len(words) and is_math[end]:
                end += 1
                if words[end - 1].endswith((":", ";")) or _ATTACHED.fullmatch(
                    _bare(words[end - 1])
                ):
                    break
            joins = end < len(words) - 1 and words[end].lower() in _CONNECTORS and is_math[end + 1]
            if joins and not _ATTACHED.fullmatch(_bare(words[end - 1])):
                end += 1
                continue
            break
        text = re.sub(r"^\s*[=≈]\s*", "", " ".join(words[at:end]))
        if _QUANTITY.search(text):
            runs.append(_Run(at, end, text))
        at = end
    return runs


def _bare(word: str) -> str:
    return word.strip(".,;:!?。、，；：！？")


def _is_math(words: Sequence[str], i: int) -> bool:
    word = words[i]
    attached = _ATTACHED.fullmatch(_bare(word))
    if attached and (attached["unit"] in _SHORT_UNITS or len(attached["unit"]) > 2):
        return True
    if not _MATH_WORD.fullmatch(word):
        return False
    if _bare(word).isalpha() and _bare(word).isascii():  # "a" and "I" are words, but for "x = 5"
        before = words[i - 1] if i else ""
        after = words[i + 1] if i + 1 < len(words) else ""
        return bool(_OPERATOR.fullmatch(before) or _OPERATOR.match(after))
    return re.fullmatch(r"[-–—.,;:!()'\"]+", word) is None or _is_minus(words, i)


def _is_minus(words: Sequence[str], i: int) -> bool:
    """A dash that stands between formulas, or before one: no dash of a sentence."""
    return words[i] == "-" and i + 1 < len(words) and _MATH_WORD.fullmatch(words[i + 1]) is not None


def _after_mark(span: str, pieces: Sequence[str]) -> Final | None:
    """The answer at the beginning of what follows a mark; else the last of its sentence."""
    again = _WHICH_IS.search(span)  # "14 + 9 - 6, which is 17"
    if again and again.start() and (found := _after_mark(span[again.end() :], pieces)):
        return found
    words = _words(span)
    runs = _runs(words)
    if not runs:
        return None
    first = runs[0]
    before = [word.strip(",:*").lower() for word in words[: first.begin]]
    if not all(word in _FILLER or not word for word in before):
        found = _last_of(span, pieces)
        return found._replace(is_explicit=len(runs) == 1) if found else None
    remark, rest = len(words), []
    for i in range(first.end, len(words)):
        is_clause = words[i].lower().strip(",") in _CLAUSE or words[i].startswith(("(", "–", "—"))
        if is_clause or (words[i - 1].endswith((",", ";", ":")) and i > first.end):
            remark = i
            break
    if words[first.end - 1].endswith((",", ";", ":")):
        remark = first.end
    rest = words[first.end : remark]
    if any(_has_digit(word) for word in rest):
        return Final(_unfold(" ".join(words[first.begin : remark]), pieces), None, "", True)
    return _final(first, " ".join(rest), pieces)._replace(is_explicit=True)


def _has_digit(word: str) -> bool:
    if re.fullmatch(r"[A-Za-zµ°/]+(?:\^?\{?[23]\}?|[²³])[.,;:!?)]*", word):
        return False  # cm^2
    return any(c.isdigit() for c in word) or _FOLDED.search(word) is not None


def _last_of(sentence: str, pieces: Sequence[str]) -> Final | None:
    """The last number or formula of a sentence. The words around it may make it another."""
    words = _words(sentence)
    runs = _runs(words)
    last = runs[-1] if runs else _Run(0, 0, "")
    before = " ".join(words[: last.begin])
    is_unread = any(_has_digit(word) for word in words[last.end :])
    if not runs and not is_unread:
        return None
    if (
        is_unread
        or _NOT_IT.search(before)
        or _MONTH.search(before)
        or (len(runs) > 1 and _is_compound(words[runs[-2].end : last.begin]))
    ):
        return Final(_unfold(sentence, pieces).strip(" .:;!,"), None)
    parts = _split_list(last.text)
    if len(parts) > 1 and any("=" in part for part in parts):
        last = last._replace(text=parts[-1])
    return _final(last, " ".join(words[last.end :][:2]), pieces)


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
    """What stands between the two numbers of "5 hours and 30 minutes"."""
    names = [word.strip(",.").lower() for word in between]
    if len(names) == 1 and re.fullmatch(f"[{_NO_SPACES}]{{1,2}}", names[0]):
        return True
    return 0 < len(names) <= 2 and names[0] in _UNITS and names[1:] in ([], ["and"])


def _final(run: _Run, after: str, pieces: Sequence[str]) -> Final:
    shown = _unfold(run.text, pieces).strip()
    shown = re.sub(r"[.,;:?。、，；：？]+$", "", shown)
    if not run.text.rstrip().endswith(tuple(map(chr, range(0xE000, 0xF900)))):
        shown = re.sub(r"(?<=[\w)])!+$", "", shown)
    shown = _REMARK.sub("", _balanced(shown))
    formula, unit = _without_unit(shown)
    named = re.match(r"[\s-]*([A-Za-zµ°]+[²³]?)", after)
    return Final(shown, formula, unit or (named[1] if named else ""))


def _balanced(text: str) -> str:
    """Without the bracket of a remark: `9 = 17)`, `(3 + 4`."""
    if text.endswith(")") and text.count("(") < text.count(")") and "[" not in text:
        return text[:-1]
    if text.startswith("(") and text.count("(") > text.count(")") and "]" not in text:
        return text[1:]
    return text


_NAMED = r"\\(?:text|mathrm|textrm|mbox|operatorname|textit)\s*\{"
_UNIT_END = re.compile(
    r"(?P<number>.*[0-9}\)%])(?:\\[,;:! ]|[\s~-])*+"
    rf"(?:(?:{_NAMED}[\s~]*(?P<named>[^{{}}0-9=]*)\}}(?:/|\\[,; ]|\s)*+)++"
    r"|(?P<plain>[A-Za-zµ°][A-Za-zµ°./ ]*+))(?:\^\s*\{?-?[0-9]\}?|[²³])?",
    re.DOTALL,
)


def attached_unit(text: str) -> tuple[str, str] | None:
    """(12, m) of `12m`, which may also be a product."""
    found = _ATTACHED.fullmatch(text.rpartition("=")[2].strip())
    return (found["number"], found["unit"]) if found and found["unit"] in _SHORT_UNITS else None


def _without_unit(text: str) -> tuple[str | None, str]:
    """(the number or formula, its unit), where the text is a formula and a unit at most."""
    if len(text) > MAX_CHARS:
        return None, ""
    text = re.sub(rf"^\s*([-+]?)\s*(?:\\\$|[{_CURRENCY}])\s*", r"\1", text)
    text = re.sub(rf"(?:\\\$|[{_CURRENCY}])\s*$", "", text)
    text = re.sub(r"^\s*(?:US|USD|EUR|Rs\.?)\s*\$?\s*(?=[0-9])", "", text)
    attached = attached_unit(text)
    if attached and len(attached[1]) > 1:
        return attached
    text = _PERCENT.sub(r"\1%", text)
    is_named = re.search(_NAMED, text)
    if not is_named and _reads(text):
        single = re.fullmatch(
            r"(?P<number>.*?[0-9])\s+(?P<unit>[A-Za-z]{1,2})(?:\^\{?[23]\}?|[²³])?", text
        )
        if single and single["unit"] in _SHORT_UNITS and _reads(single["number"]):
            return single["number"], single["unit"]
        return text, ""
    if (sized := _SIZED.sub(lambda f: f"{f[1]}*10^{{{_SCALES[f[2].lower()]}}}", text)) != text:
        return _without_unit(sized)
    found = _UNIT_END.fullmatch(text)
    if found:
        unit = (found["named"] or found["plain"] or "").strip(" ~.")
        is_attached = " " not in text.strip() and unit.lower() in ("k", "m", "b", "bn")  # 5k, $5M
        if not is_attached and unit.lower().split()[:1] not in (["and"], ["or"], ["to"]):
            return found["number"], unit
    return text, ""


# -- Answers that are words -------------------------------------------------------------------------


def last_words(text: str) -> tuple[str, bool]:
    """(what the text says last: the box, what follows the last mark, or the last sentence; whether
    that is said to be the answer, or is all that the text says)."""
    if (boxed := _boxed(text)) is not None:
        return _said(boxed), True
    text = _PROSE_MACRO.sub(r"\1", _EMPHASIS.sub("", text))
    marks = [*_MARK.finditer(text)]
    if marks and (span := _sentence(text[marks[-1].end() :])):
        return _said(span), True
    sentences = [s for s in _SENTENCE_END.split(text) if _said(s)]
    return (_said(sentences[-1]), len(sentences) == 1) if sentences else ("", False)


def after_mark(line: str) -> str | None:
    """What follows the last mark of a line; None: there is no mark."""
    marks = [*_MARK.finditer(line)]
    return line[marks[-1].end() :] if marks else None


def _said(text: str) -> str:
    return _PROSE_MACRO.sub(r"\1", text).strip(" .:;!,*\"'$。！\n")


_CHOICE = re.compile(r"\W*(?:(?:option|choice)\s+)?\(?([A-J])\)?\W*", re.IGNORECASE)
_LABEL = re.compile(r"\W*(?:\(([A-Ja-j])\)|([A-J])[.):])\s*(?=\S)")
_SEVERAL = re.compile(r"\W*[A-J](?:\W+(?:(?:and|or)\W+)?[A-J])+\W*")
_MENTION = re.compile(
    r"\(([A-Ja-j])\)|(?<![\w'’])([B-HJ])(?=[).:,;]*(?:\s|$|\*))|(?<![\w'’])([AI])(?=[).:,;*]|\s+(?:or|and)\b|\s*$)"
)


def choice(text: str) -> str | None:
    """The letter, A to J, of a text that is a choice and nothing else, or begins with its label:
    `(B)`, `B.`, `\\textbf{(B)}`, `(B) 12`."""
    said = _said(text)
    if found := _CHOICE.fullmatch(said):
        return found[1].upper()
    found = _LABEL.match(said)
    return (found[1] or found[2]).upper() if found else None


def without_label(text: str) -> str:
    """`12` of `(B) 12`."""
    said = _said(text)
    return _LABEL.sub("", said, count=1) if _LABEL.match(said) else text


def final_choice(text: str) -> str | None:
    """The letter that a text chooses: the one it says is the answer, or the only one that the last
    sentence with a letter names."""
    said, is_explicit = last_words(text)
    if is_explicit and (found := choice(said)):
        return None if _SEVERAL.fullmatch(said) else found
    sentences = [said] if is_explicit else []
    sentences += reversed(_SENTENCE_END.split(_PROSE_MACRO.sub(r"\1", _EMPHASIS.sub("", text))))
    for sentence in sentences:
        letters = {max(found.groups("")).upper() for found in _MENTION.finditer(sentence)}
        if letters:
            return letters.pop() if len(letters) == 1 else None
    return None
