"""Thought told from answer: how a thinking model marks its thought, and where the answer begins.

A model's marks are found in its chat template, never in an answer alone: one that does not think and
writes about `<think>` loses nothing. Whether a thought is open where an answer begins is read from the
end of its prompt, since templates differ: some open the block (DeepSeek-R1, QwQ: then only the closing
mark is written), some leave it to the model (Qwen3), and some close an empty one to keep the model
from thinking (`enable_thinking: false`).

Requests write thoughts in one form for every model, `<think>...</think>`: `begun` puts a thought into
a prefix, where `Marks.layout` writes the model's own marks, and a stop string `</think>` stops a model
where its thought ends. Other stop strings are the answer's and do not end a thought.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

OPEN, CLOSE = "<think>", "</think>"
"""A thought's marks in a request."""
_BLOCK = re.compile(
    r"\s*<think>\n?(?P<thought>.*?)(?:\n?(?P<end></think>)\s*(?P<rest>.*))?", re.DOTALL
)

Where = Literal["thought", "answer", "either"]
"""What a model writes next. `either`: a thought if it begins with the opening mark."""


def begun(reasoning: str, words: str = "") -> str:
    """A prefix: what the model has thought, and the words with which its answer begins."""
    return f"{OPEN}\n{reasoning}\n{CLOSE}\n\n{words}"


class Said(NamedTuple):
    """A model's text, split."""

    reasoning: str | None
    """None: it did not think."""
    answer: str | None
    """None: the thought never ended."""
    closings: int = 0
    """Closing marks before the answer."""

    def finished(self, reason: str) -> tuple[str, str]:
        """The answer's text and `Completion.finish_reason`: a thought that never ended is a cut
        answer, however the model ended it."""
        return ("", "length") if self.answer is None else (self.answer, reason)


class Piece(NamedTuple):
    """A part of a prefix. A mark may be a control token; a text holds none, whatever it says."""

    text: str
    is_mark: bool


@dataclass(frozen=True)
class Marks:
    """What stands around a model's thought."""

    open: str
    close: str
    gap: str = ""
    """Between a mark and the thought; twice, between the closing mark and the answer."""
    is_control: bool = False
    """The marks are control tokens, which engines leave out of a text unless told not to."""
    unthought: str = ""
    """What stands before an answer without a thought; else an empty block."""

    def where(self, prompt: str) -> Where:
        """What follows a prompt, of which the end is enough."""
        end = prompt.rstrip()
        if end.endswith(self.close):
            return "answer"
        return "thought" if end.endswith(self.open) else "either"

    def layout(self, prompt: str, prefix: str) -> tuple[list[Piece], Where]:
        """What follows the prompt so that the answer begins with `prefix`, and what comes then.

        Words go into the answer, after the thought that the prefix holds or else after an empty one:
        a model that is asked to go on with an answer does not think first.
        """
        where = self.where(prompt)
        if not prefix:
            return [], where
        opening = "" if where == "thought" else f"{self.open}{self.gap}"
        closing = f"{self.gap}{self.close}{self.gap * 2}"
        block = _BLOCK.fullmatch(prefix)
        if block is not None:
            pieces = [(opening, True), (block["thought"], False)]
            if block["end"] is not None:
                pieces += [(closing, True), (block["rest"], False)]
        elif where == "answer":
            pieces = [(prefix, False)]
        else:
            empty = self.unthought if self.unthought and where == "either" else opening + closing
            pieces = [(empty, True), (prefix, False)]
        is_open = block is not None and block["end"] is None
        return [Piece(*piece) for piece in pieces if piece[0]], "thought" if is_open else "answer"

    def split(self, text: str, where: Where) -> Said:
        """The text in two. Blocks that follow each other are one thought, of which the answer is what
        comes after the last; in the answer itself nothing is looked for."""
        rest = text.lstrip()
        if where == "answer" or (where == "either" and not rest.startswith(self.open)):
            return Said(None, text)
        thoughts: list[str] = []
        closings = 0
        while where == "thought" or rest.startswith(self.open):
            where = "either"
            thought, end, rest = rest.removeprefix(self.open).partition(self.close)
            thoughts += [thought.strip()] if thought.strip() else []
            if not end:
                return Said("\n\n".join(thoughts), None, closings)
            closings += 1
            while (rest := rest.lstrip()).startswith(self.close):  # some write the mark twice
                rest = rest.removeprefix(self.close)
                closings += 1
        return Said("\n\n".join(thoughts) or None, rest, closings)

    def stops(self, stops: Sequence[str], where: Where) -> tuple[list[str], list[str]]:
        """Of a request's stop strings, those that the engine is given, and those that `cut` needs."""
        if where == "answer":
            return [*stops], []
        of_thought = {CLOSE, self.close}
        given = [self.close] if of_thought & {*stops} else []
        return given, [stop for stop in stops if stop not in of_thought]


def cut(said: Said, reason: str, stops: Sequence[str]) -> tuple[Said, str]:
    """The answer up to the first of the stop strings in it."""
    found = [at for stop in stops if (at := (said.answer or "").find(stop)) >= 0]
    if not found or said.answer is None:
        return said, reason
    return said._replace(answer=said.answer[: min(found)]), "stop"


def thought_tokens(
    ids: Sequence[int], said: Said, close: str, decode: Callable[[Sequence[int]], str]
) -> int:
    """Of the ids of a text, those up to the closing mark of its thought, the mark's included."""
    if said.answer is None:
        return len(ids)
    if not said.closings:
        return 0
    low, high = 0, len(ids)
    while low < high:  # the fewest ids in which the marks are
        middle = (low + high) // 2
        if decode(ids[:middle]).count(close) >= said.closings:
            high = middle
        else:
            low = middle + 1
    return low


# -- finding a model's marks ---------------------------------------------------------------------

_HARMONY_ANSWER = "<|channel|>final<|message|>"
HARMONY = Marks(
    "<|channel|>analysis<|message|>",
    f"<|end|><|start|>assistant{_HARMONY_ANSWER}",
    is_control=True,
    unthought=_HARMONY_ANSWER,
)
"""gpt-oss: the thought is a message of its own, in another channel."""
_ASKED_FOR = Marks("<thinking>", "</thinking>", "\n")  # by prompts, of models that do not think
KNOWN = (
    Marks(OPEN, CLOSE, "\n"),
    Marks("<seed:think>", "</seed:think>"),
    Marks("<mm:think>", "</mm:think>", "\n"),
    Marks("◁think▷", "◁/think▷"),
    Marks("[THINK]", "[/THINK]", is_control=True),
    Marks("<|START_THINKING|>", "<|END_THINKING|>", is_control=True),
    Marks("<|inner_prefix|>", "<|inner_suffix|>", is_control=True),
    HARMONY,
    _ASKED_FOR,
)
"""Marks in use, by which a template is searched."""

ON: dict[str, Any] = {"enable_thinking": True, "thinking": True}
OFF: dict[str, Any] = {"enable_thinking": False, "thinking": False}
"""Arguments by which chat templates switch thinking."""


def marks_in(template: object) -> Marks | None:
    """The marks that a chat template speaks of, or several do (name -> template). None: its model
    does not think."""
    texts = [*template.values()] if isinstance(template, dict) else [template]
    whole = "\n".join(text for text in texts if isinstance(text, str))
    return next((m for m in KNOWN if m.open in whole or m.close in whole), None)


def marks_after(prompt: str) -> Marks | None:
    """The marks of a model whose template is not shown, by the end of a prompt that it made. None:
    they are not there."""
    if prompt.endswith("<|start|>assistant"):
        return HARMONY
    return next((m for m in KNOWN if m.where(prompt) != "either"), None)


def marks_before(text: str, finish_reason: str) -> Marks | None:
    """The marks of a model of which nothing is known, by the block that its text begins with."""
    start = text.lstrip()
    for marks in KNOWN:
        if marks != _ASKED_FOR and start.startswith(marks.open):
            return marks if marks.close in start or finish_reason == "length" else None
    return None


def thinks(marks: Marks, prompt: str, off: str, on: str) -> bool:
    """Whether a model thinks before it answers, from a prompt, and the same one with thinking
    switched `OFF` and `ON`: a template that does not open a thought may leave that to the model."""
    where = marks.where(prompt)
    if where != "either":
        return where == "thought"
    return marks.where(off) == "answer" or on == prompt
