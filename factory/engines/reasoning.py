"""Splitting a model's thought from its answer: the marks around a thought, and where the answer begins.

A model's marks are found in its chat template, never in an answer alone, so a model that does not think
may write about `<think>`. The end of the prompt shows whether a thought is already open, since
templates differ: some open the block (DeepSeek-R1, QwQ: the model writes only the closing mark), some
leave it to the model (Qwen3), and some close an empty one so that the model does not think
(`enable_thinking: false`).

Requests use one form of thoughts for every model, `<think>...</think>`. `begun` puts a thought into a
prefix, and `Marks.layout` translates it to the model's own marks. A stop string `</think>` stops any
model at the end of its thought. Other stop strings apply only to the answer.
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
"""The kind of text that a model writes next. `either`: a thought if it begins with the opening mark."""


def begun(reasoning: str, words: str = "") -> str:
    """A prefix of the model's thought and the beginning of its answer."""
    return f"{OPEN}\n{reasoning}\n{CLOSE}\n\n{words}"


class Said(NamedTuple):
    """A model's text, split into thought and answer."""

    reasoning: str | None
    """The thought. None: it did not think."""
    answer: str | None
    """The answer. None: the thought never ended."""
    closings: int = 0
    """Number of closing marks before the answer."""

    def finished(self, reason: str) -> tuple[str, str]:
        """The answer's text and `Completion.finish_reason`. A thought that never ended counts as a cut
        answer, whatever finish reason the model gave."""
        return ("", "length") if self.answer is None else (self.answer, reason)


class Piece(NamedTuple):
    """A part of a prefix. A mark may be a control token; a text never holds one."""

    text: str
    is_mark: bool


@dataclass(frozen=True)
class Marks:
    """The marks around a model's thought."""

    open: str
    close: str
    gap: str = ""
    """Text between a mark and the thought; twice, between the closing mark and the answer."""
    is_control: bool = False
    """True: the marks are control tokens, which engines leave out of a text unless told not to."""
    unthought: str = ""
    """Text before an answer without a thought. Empty: an empty block is written."""

    def where(self, prompt: str) -> Where:
        """The kind of text that follows a prompt. Its end is enough."""
        end = prompt.rstrip()
        if end.endswith(self.close):
            return "answer"
        return "thought" if end.endswith(self.open) else "either"

    def layout(self, prompt: str, prefix: str) -> tuple[list[Piece], Where]:
        """The pieces that follow the prompt so that the answer begins with `prefix`, and the kind of
        text that comes next.

        The prefix's text goes into the answer, after the prefix's thought or else after an empty
        thought: a model that continues an answer does not think first.
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
        """Split a text into thought and answer. Consecutive blocks are one thought; the answer follows
        the last one. Marks within the answer are ignored."""
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
        """A request's stop strings in two lists: those for the engine, and those for `cut`."""
        if where == "answer":
            return [*stops], []
        of_thought = {CLOSE, self.close}
        given = [self.close] if of_thought & {*stops} else []
        return given, [stop for stop in stops if stop not in of_thought]


def cut(said: Said, reason: str, stops: Sequence[str]) -> tuple[Said, str]:
    """Cut the answer at the first stop string in it. Returns it with its finish reason."""
    found = [at for stop in stops if (at := (said.answer or "").find(stop)) >= 0]
    if not found or said.answer is None:
        return said, reason
    return said._replace(answer=said.answer[: min(found)]), "stop"


def thought_tokens(
    ids: Sequence[int], said: Said, close: str, decode: Callable[[Sequence[int]], str]
) -> int:
    """Number of a text's ids up to and including the closing mark of its thought."""
    if said.answer is None:
        return len(ids)
    if not said.closings:
        return 0
    low, high = 0, len(ids)
    while low < high:  # bisect for the fewest ids that contain the marks
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
_ASKED_FOR = Marks("<thinking>", "</thinking>", "\n")  # requested by prompts, not a model's own
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
"""Known marks, for which a template is searched."""

ON: dict[str, Any] = {"enable_thinking": True, "thinking": True}
OFF: dict[str, Any] = {"enable_thinking": False, "thinking": False}
"""Arguments that switch thinking off in chat templates."""


def marks_in(template: object) -> Marks | None:
    """The marks in a chat template, or in several (name -> template). None: the model does not think."""
    texts = [*template.values()] if isinstance(template, dict) else [template]
    whole = "\n".join(text for text in texts if isinstance(text, str))
    return next((m for m in KNOWN if m.open in whole or m.close in whole), None)


def marks_after(prompt: str) -> Marks | None:
    """The marks of a model whose template is unknown, by the end of a prompt. None: no marks there."""
    if prompt.endswith("<|start|>assistant"):
        return HARMONY
    return next((m for m in KNOWN if m.where(prompt) != "either"), None)


def marks_before(text: str, finish_reason: str) -> Marks | None:
    """The marks of an unknown model, by the block that its text begins with."""
    start = text.lstrip()
    for marks in KNOWN:
        if marks != _ASKED_FOR and start.startswith(marks.open):
            return marks if marks.close in start or finish_reason == "length" else None
    return None


def thinks(marks: Marks, prompt: str, off: str, on: str) -> bool:
    """True if a model thinks before it answers, by a prompt and the same prompt with thinking switched
    `OFF` and `ON`. A template that does not open a thought may leave that to the model."""
    where = marks.where(prompt)
    if where != "either":
        return where == "thought"
    return marks.where(off) == "answer" or on == prompt
