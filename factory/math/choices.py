"""Multiple choice: the letter, A to J, that a text chooses."""

from __future__ import annotations

import re

from factory.math.final_answer import EMPHASIS, SENTENCE_END, last_words, said_by
from factory.math.folding import PROSE_MACRO
from factory.math.runs import NO_SPACES

_CHOICE = re.compile(r"\W*(?:(?:option|choice)\s+)?\(?([A-J])\)?\W*", re.IGNORECASE)
_LABEL = re.compile(r"\W*(?:\(([A-Ja-j])\)|([A-J])[.):])\s*(?=\S)")
_SEVERAL = re.compile(r"\W*[A-J](?:\W+(?:(?:and|or)\W+)?[A-J])+\W*")
_BEFORE = rf"(?<![^\W{NO_SPACES}])(?<!['’])"
_AFTER = rf"[。，、；：）！？]|[{NO_SPACES}]"
"""Scripts without spaces: what stands right beside a letter is another word."""
_MENTION = re.compile(
    r"\(([A-Ja-j])\)"
    rf"|{_BEFORE}([B-HJ])(?=[).:,;]*(?:\s|$|\*)|{_AFTER})"
    rf"|{_BEFORE}([AI])(?=[).:,;*]|\s+(?:or|and)\b|\s*$|{_AFTER})"
)


def choice(text: str) -> str | None:
    """The letter, A to J, of a text that is a choice and nothing else, or begins with its label:
    `(B)`, `B.`, `\\textbf{(B)}`, `(B) 12`."""
    said = said_by(text)
    if found := _CHOICE.fullmatch(said):
        return found[1].upper()
    found = _LABEL.match(said)
    return (found[1] or found[2]).upper() if found else None


def without_label(text: str) -> str:
    """The text without its choice's label: `12` of `(B) 12`."""
    said = said_by(text)
    return _LABEL.sub("", said, count=1) if _LABEL.match(said) else text


def final_choice(text: str) -> str | None:
    """The letter said to be the answer, or the only one that the last sentence with a letter names."""
    said, is_explicit = last_words(text)
    if is_explicit and (found := choice(said)):
        return None if _SEVERAL.fullmatch(said) else found
    sentences = [said] if is_explicit else []
    sentences += reversed(SENTENCE_END.split(PROSE_MACRO.sub(r"\1", EMPHASIS.sub("", text))))
    for sentence in sentences:
        letters = {max(found.groups("")).upper() for found in _MENTION.finditer(sentence)}
        if letters:
            return letters.pop() if len(letters) == 1 else None
    return None
