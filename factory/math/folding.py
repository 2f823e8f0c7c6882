"""Mathematics among words: each piece becomes one sign, which no rule for words and sentences cuts."""

from __future__ import annotations

import re
from collections.abc import Sequence

FOLDED = re.compile("[\ue000-\uf8ff]")
_DELIMITED = re.compile(
    r"\$\$(?P<a>.+?)\$\$|\\\[(?P<b>.+?)\\\]|\\\((?P<c>.+?)\\\)|(?<![\\$])\$(?P<d>(?:\\.|[^$\\\n])+)\$(?!\$)"
    r"|(?P<e>\\begin\s*\{(?P<name>[a-zA-Z*]+)\}.*?\\end\s*\{(?P=name)\})|(?P<f>\\[a-zA-Z]+)(?=\s*[{\[])",
    re.DOTALL,
)
PROSE_MACRO = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_LETTERS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
_NAMES = frozenset("sqrt pi sin cos tan log ln exp inf mod and or".split())  # noqa: SIM905


def fold(text: str) -> tuple[str, list[str]]:
    """The text with a sign in place of each piece of mathematics, and the pieces."""
    text = FOLDED.sub("", text)
    pieces: list[str] = []
    out: list[str] = []
    at = 0

    def keep(piece: str) -> None:
        pieces.append(piece)
        out.append(chr(0xE000 + len(pieces) - 1))

    while (found := _DELIMITED.search(text, at)) and len(pieces) < 6000:
        out.append(text[at : found.start()])
        at = found.end()
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
    without = PROSE_MACRO.sub("", inside)
    is_even = inside[0].isspace() == inside[-1].isspace()
    words = [w for w in _LETTERS.findall(without) if w.lower() not in _NAMES and len(w) > 2]
    is_price = re.search(r"[-+,;(]\s*$|\A[0-9][0-9.,]*\s*[*/×÷=]\s*$", inside) is not None
    return is_even and not words and not is_price


def _arguments_end(text: str, at: int) -> int | None:
    """Position of the end of a macro's arguments in braces. None: one is not closed."""
    while (begin := re.compile(r"\s*(?=[{\[])").match(text, at)) is not None:
        if text[begin.end()] == "[" and text[at - 1] == "}":
            break
        end = closing(text, begin.end())
        if end is None:
            return None
        at = end + 1
    return at


def closing(text: str, at: int) -> int | None:
    """Position of the bracket that closes the one at `at`. None: it is not closed."""
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


def unfold(text: str, pieces: Sequence[str]) -> str:
    return FOLDED.sub(lambda found: pieces[ord(found[0]) - 0xE000], text)
