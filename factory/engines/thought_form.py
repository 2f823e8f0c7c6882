"""The form in which a model's own chat template trains a thought before an answer.

Templates differ. Qwen's writes a message's `reasoning_content` between its marks; gpt-oss's uses a
message's `thinking`; others keep the text between `<think>` and `</think>` in the content; DeepSeek-R1's
removes everything before `</think>`. So an answer with a thought is rendered in each form, as a trainer
renders it, until the thought is in the text that would be learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from factory.core.errors import RecipeError

KEYS = ("reasoning_content", "thinking", "reasoning")
"""Keys of a message that templates read a thought from, the most common first."""
MARKS = ("<think>\n", "\n</think>\n\n")
"""Marks around a thought in an answer's text."""

_QUESTION: dict[str, Any] = {"role": "user", "content": "A question to find"}
_ANSWER, _THOUGHT = "An answer to find", "A thought to find"


class Form(msgspec.Struct, frozen=True):
    """The place of a thought in an assistant's message."""

    key: str | None = None
    """The message's key that holds it. None: it is at the beginning of the content, between `MARKS`."""
    absent: str | None = None
    """The key's value if there is no thought."""

    def message(self, answer: str, thought: str | None) -> dict[str, Any]:
        if self.key is not None:
            held = self.absent if thought is None else thought
            return {"role": "assistant", "content": answer, self.key: held}
        content = answer if thought is None else f"{MARKS[0]}{thought}{MARKS[1]}{answer}"
        return {"role": "assistant", "content": content}

    def describe(self) -> str:
        opening, closing = (mark.strip() for mark in MARKS)
        return self.key or f"{opening}...{closing}"


def form_of(tokenizer: Any, model: str) -> Form:
    """The form that the tokenizer's chat template keeps. `model` names it in errors.

    Raises `RecipeError` if it keeps none.
    """
    if tokenizer.chat_template is None:
        return Form()
    for form in _forms(tokenizer):
        if _is_learned(tokenizer, form):
            return form
    raise RecipeError(
        f"the chat template of {model} removes thoughts from the text to train on, both as a "
        f"message's {', '.join(KEYS)} and between {MARKS[0].strip()} and {MARKS[1].strip()} in its "
        "content; set reasoning: drop, or give the model's folder a chat template that keeps "
        "thoughts (TRL has some: chat_templates/*_training.jinja)"
    )


def form_in(folder: Path, model: str, *, trust_remote_code: bool = False) -> Form:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"reasoning: keep needs the chat template of {model}, and {folder} has no tokenizer that "
            f"can be read: {error}"
        ) from error
    return form_of(tokenizer, model)


def _forms(tokenizer: Any) -> Iterator[Form]:
    without = _rendered(tokenizer, {"role": "assistant", "content": _ANSWER})
    for key in KEYS:
        absent = {a: _rendered(tokenizer, Form(key, a).message(_ANSWER, None)) for a in (None, "")}
        alike = (a for a, text in absent.items() if text == without)
        yield Form(key, next(alike, next((a for a, text in absent.items() if text), None)))
    yield Form()


def _is_learned(tokenizer: Any, form: Form) -> bool:
    """True if the learned text holds the thought once, followed by the answer. The learned text is the
    conversation without the beginning that it shares with the prompt."""
    whole = _rendered(tokenizer, form.message(_ANSWER, _THOUGHT))
    before = _rendered(tokenizer)
    if whole is None or before is None:
        return False
    pairs = enumerate(zip(before, whole, strict=False))
    shared = next((i for i, (a, b) in pairs if a != b), min(len(before), len(whole)))
    learned = whole[shared:]
    places = learned.find(_THOUGHT), learned.find(_ANSWER)
    if not 0 <= places[0] < places[1]:
        return False
    # A template that writes marks itself would write them twice.
    return form.key is not None or whole.count(MARKS[0].strip()) == 1


def _rendered(tokenizer: Any, *answer: Mapping[str, Any]) -> str | None:
    """The conversation as text; without an answer, the prompt. None: the template refuses it."""
    try:
        text = tokenizer.apply_chat_template(
            [_QUESTION, *answer], tokenize=False, add_generation_prompt=not answer
        )
    except Exception:  # a template may refuse a message with any error
        return None
    return str(text)
