"""Conversations in the forms of public data, read in one way everywhere.

- a text: one turn, the user's in a prompt, the assistant's in an answer;
- a transcript, "\\n\\nHuman: ...\\n\\nAssistant: ...", as Anthropic's hh-rlhf writes whole conversations;
- messages, or a single one: `{role, content}`, or ShareGPT's `{from, value}`. A content may be the
  parts of `[{type: text, text: ...}]`.

An answer may be the whole conversation, if the row has no prompt or the answer repeats it (as
UltraFeedback's do). Anything else raises `SampleError`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from factory.core.errors import SampleError
from factory.core.records import Message
from factory.sources.formats.base import kind_of

ROLES = ("system", "user", "assistant")
WITH_TOOL = (*ROLES, "tool")
_ALIASES = {"human": "user", "gpt": "assistant"}
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_NAMES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: str) -> bool:
    """True if a text is a transcript with turns.

    >>> is_transcript("\\n\\nHuman: Hi"), is_transcript("Human: a word with a colon")
    (True, False)
    """
    opening = text.lstrip()
    return opening.startswith("Human:") and (opening != text or "\n\nAssistant:" in text)


def split_transcript(text: str) -> list[Message]:
    """The turns of a transcript; `engines.render.transcript` joins them again. Text before the first
    turn is the system's. A text without turns is one user turn."""
    turns = list(_TURN.finditer(text))
    if not turns:
        return [{"role": "user", "content": text}]
    messages: list[Message] = []
    if opening := text[: turns[0].start()]:
        messages.append({"role": "system", "content": opening})
    ends = [turn.start() for turn in turns[1:]] + [len(text)]
    for turn, end in zip(turns, ends, strict=True):
        content = text[turn.end() : end].removeprefix(" ")
        messages.append({"role": _NAMES[turn[1]], "content": content})
    return messages


def read_messages(
    value: object, name: str, role: str = "user", *, roles: Sequence[str] = ROLES
) -> list[Message]:
    """The messages of the column `name`, at least one. A text is a turn of `role`."""
    if isinstance(value, str):
        return [{"role": role, "content": read_text(value, name)}]
    if isinstance(value, dict) and {"role", "from"} & value.keys():
        value = [value]
    if not isinstance(value, list):
        raise wrong_type(value, name, "a string or a list of messages")
    if not value:
        raise _blank(name, role)
    return [_message(turn, f"{name}[{at}]", roles) for at, turn in enumerate(value)]


def read_prompt(value: object, name: str, *, roles: Sequence[str] = ROLES) -> list[Message]:
    """The conversation to answer. A transcript in it is split into turns. "\\n\\nAssistant:" at its end
    marks the answer's place and is no turn."""
    if isinstance(value, str) and is_transcript(value):
        turns = split_transcript(read_text(value.lstrip(), name))
        if len(turns) > 1 and turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip():
            turns.pop()
    else:
        turns = read_messages(value, name, roles=roles)
    if not turns[-1]["content"].strip():
        raise _blank(name, "user")
    return turns


def _blank(name: str, role: str) -> SampleError:
    if role == "user":
        return SampleError(f"field {name!r} is an empty prompt")
    return SampleError(f"column {name!r} holds a blank answer")


def read_exchange(
    row: Mapping[str, Any], answer: object, name: str
) -> tuple[list[Message], list[Message]]:
    """(prompt, answer) of a row. Without a column `prompt`, the answer is a conversation, and all
    messages but its last are the prompt. The answer's last message is the assistant's and not blank."""
    given = row.get("prompt")
    for column, value in (("prompt", given), (name, answer)):
        if not isinstance(value, str | list | dict) and (column == name or value is not None):
            found = kind_of(value)
            raise SampleError(f"column {column!r}: expected text or messages, found {found}")
    is_whole = isinstance(answer, str) and (given is None or is_transcript(answer))
    if is_whole:
        turns = split_transcript(read_text(answer, name).lstrip("\n"))
    else:
        turns = read_messages(answer, name, "assistant", roles=WITH_TOOL)
    if turns[-1]["role"] != "assistant":
        raise SampleError(
            f"column {name!r} does not end with the assistant's answer; without a prompt column it "
            "must be messages, or a transcript with Human: and Assistant: turns"
        )
    if not turns[-1]["content"].strip():
        raise _blank(name, "assistant")
    if given is None:
        if len(turns) < 2:
            raise SampleError(f"column {name!r} has no message before the assistant's answer")
        return turns[:-1], turns[-1:]
    if not given or (isinstance(given, str) and not given.strip()):
        raise SampleError("column 'prompt' is blank: there is no user's message before the answer")
    prompt = read_prompt(given, "prompt", roles=WITH_TOOL)
    if turns[0]["role"] != "assistant":
        return _repeated(prompt, turns, name)
    if isinstance(given, str) and is_transcript(given) and isinstance(answer, str):
        turns[0]["content"] = turns[0]["content"].removeprefix(" ")  # the blank after "Assistant:"
    return prompt, turns


def countable(error: SampleError) -> str:
    """The message without positions in lists and without the row's own words, for counting.

    >>> countable(SampleError("field 'chosen[3].content' is null, expected a string"))
    "field 'chosen[].content' is null, expected a string"
    """
    text = re.sub(r"\[\d+\]", "[]", str(error))
    text = re.sub(r": \d+ responses, \d+ scores$", "", text)
    return re.sub(r"unknown role '.*', expected", "unknown role, expected", text, flags=re.S)


def _repeated(
    prompt: list[Message], turns: list[Message], name: str
) -> tuple[list[Message], list[Message]]:
    """(prompt, answer) of an answer that is a whole conversation, cut at the end of the row's prompt."""
    wanted = [(m["role"], m["content"].strip()) for m in prompt]
    given = [(m["role"], m["content"].strip()) for m in turns]
    for skipped in (0, 1):  # 1: the conversation has a system message that the row's prompt lacks
        end = skipped + len(wanted)
        if len(turns) > end and given[skipped:end] == wanted:
            if skipped and turns[0]["role"] != "system":
                break
            return turns[:end], turns[end:]
    raise SampleError(f"column {name!r} is a conversation whose prompt is not the row's")


def _message(turn: object, name: str, roles: Sequence[str]) -> Message:
    if not isinstance(turn, dict):
        raise wrong_type(turn, name, "an object with role and content")
    is_sharegpt = turn.get("role") is None and turn.get("from") is not None
    role_key, content_key = ("from", "value") if is_sharegpt else ("role", "content")
    given = read_text(turn.get(role_key), f"{name}.{role_key}")
    role = _ALIASES.get(given, given)
    if role not in roles:
        raise SampleError(
            f"field {name!r}: unknown role {given[:40]!r}, expected {', '.join(roles)}"
        )
    if turn.get("tool_calls"):
        raise SampleError(f"field '{name}.tool_calls' calls a tool, which has no text form")
    content = turn.get(content_key)
    if isinstance(content, list) and content and all(_is_text_part(part) for part in content):
        content = "".join(part["text"] for part in content)
    return {"role": role, "content": read_text(content, f"{name}.{content_key}")}


def _is_text_part(part: object) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def read_text(value: object, name: str, expected: str = "a string") -> str:
    if not isinstance(value, str):
        raise wrong_type(value, name, expected)
    if "\0" in value:
        raise SampleError(f"field {name!r} holds a NUL character; remove it")
    return value


def wrong_type(value: object, name: str, expected: str) -> SampleError:
    return SampleError(f"field {name!r} is {kind_of(value)}, expected {expected}")


# UltraFeedback as it was published ---------------------------------------------------------------


def is_ultrafeedback(row: Mapping[str, Any]) -> bool:
    """True if the row has `completions: [{response, overall_score, ...}]`, and `instruction` or `prompt`."""
    answers = row.get("completions")
    return (
        ("instruction" in row or "prompt" in row)
        and "responses" not in row
        and isinstance(answers, list)
        and bool(answers)
        and all(isinstance(a, dict) and {"response", "overall_score"} <= a.keys() for a in answers)
    )


def as_responses(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of UltraFeedback in the form of a reward view: prompt, responses, scores."""
    made = {name: value for name, value in row.items() if name != "completions"}
    made.setdefault("prompt", made.pop("instruction", None))
    answers = row.get("completions")
    found = [a if isinstance(a, dict) else {} for a in answers] if isinstance(answers, list) else []
    made["responses"] = [answer.get("response") for answer in found]
    made["scores"] = [answer.get("overall_score") for answer in found]
    return made
