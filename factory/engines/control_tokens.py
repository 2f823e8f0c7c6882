"""Protection against control tokens in texts: `<|im_end|>` written by a person or a model stays text.

A tokenizer finds the names of its control tokens anywhere in a text. So a name that occurs in a text is
broken before tokenizing, by a joint (a character of Unicode's private use area) after its first
character. Then the joint's ids are removed: the rest spells the text exactly, without a control token.
Engines and trainers do the same. A text without such names (nearly every text) is not changed.

If the joint has no ids of its own (a vocabulary without bytes, where it is "unknown"), it stays in the
text. Half a surrogate pair, which no tokenizer accepts, is read as U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

_JOINTS = [chr(code) for code in range(0xE4B0, 0xE4C0)]
_MARK = re.compile(r"\W.*\W", re.DOTALL)


def broken(value: Any, names: re.Pattern[str] | None) -> tuple[Any, str]:
    """`value` (a text, or messages: texts in lists and mappings) with its names broken, and the joint
    that breaks them. The joint is "" if there is no name, which costs one search."""
    texts = list(_texts(value))
    if any(encodable(text) is not text for text in texts):
        return broken(_changed(value, encodable), names)
    if names is None or not any(map(names.search, texts)):
        return value, ""
    joint = next((j for j in _JOINTS if not any(j in text for text in texts)), _JOINTS[0])
    return _changed(value, lambda text: _break(text, names, joint)), joint


def kept(ids: Sequence[int], joint_ids: Sequence[int]) -> list[int]:
    """Positions in `ids` that do not belong to a joint."""
    size, places, at = len(joint_ids), [], 0
    while at < len(ids):
        if size and list(ids[at : at + size]) == list(joint_ids):
            at += size
        else:
            places.append(at)
            at += 1
    return places


def named(names: set[str]) -> re.Pattern[str] | None:
    """A pattern of the names, the longest first, without single characters, which cannot be broken."""
    found = sorted((name for name in names if len(name) > 1), key=lambda name: (-len(name), name))
    # Grouped by the first character, which is rare in texts, so that hundreds of names cost a search
    # no more than a few.
    rests: dict[str, list[str]] = {}
    for name in found:
        rests.setdefault(name[0], []).append(re.escape(name[1:]))
    groups = [f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in rests.items()]
    return re.compile("|".join(groups)) if groups else None


def joint_texts(joint: str) -> tuple[str, str, str]:
    """The three texts whose ids `joint_ids` needs."""
    other = next(j for j in _JOINTS if j != joint)
    return "<", f"<{joint}", f"<{other}"


def joint_ids(before: list[int], joined: list[int], otherwise: list[int]) -> list[int]:
    """The joint's ids, from the ids of `joint_texts` without BOS and the like. []: the joint has no ids
    of its own; it is "unknown" or dropped."""
    size = len(before)
    return joined[size:] if joined[:size] == before and joined != otherwise else []


_LIKE_A_NAME = re.compile(r"<[^<>\s]{1,60}>|\[[^\[\]\s]{1,30}\]")


def lookalikes(value: Any) -> set[str]:
    """Strings that look like a control token's name, `<...>` or `[...]`, in a text or in messages."""
    return {found for text in _texts(value) for found in _LIKE_A_NAME.findall(text)}


def control_names(tokenizer: Any) -> re.Pattern[str] | None:
    """A pattern that matches the names of a tokenizer's control tokens. None: it has none. Kept until
    its chat template changes.

    Control tokens are those that the tokenizer calls special, and others that its template writes
    around a turn of any role. Other added tokens, such as `<think>`, may occur in answers.
    """
    template = tokenizer.chat_template
    known = _known.get(tokenizer)
    if known is None or known[0] != template:
        known = _known[tokenizer] = (template, named(_control_tokens(tokenizer)))
    return known[1]


_known: WeakKeyDictionary[Any, tuple[Any, re.Pattern[str] | None]] = WeakKeyDictionary()


def special_names(tokenizer: Any) -> set[str]:
    # The tokenizer may be vLLM's, a stand-in for a server's, or without a template.
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = {str(token) for token in added if token.special}
    return names | {*map(str, getattr(tokenizer, "all_special_tokens", ()))}


def _control_tokens(tokenizer: Any) -> set[str]:
    names = special_names(tokenizer)
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    others = {str(token) for token in added if not token.special and _MARK.fullmatch(str(token))}
    if others and tokenizer.chat_template:
        turns = _turns(tokenizer)
        names |= {name for name in others if name in turns} - _OF_THOUGHT
    return names


_OF_THOUGHT = {"<think>", "</think>"}
"""No control tokens, although a template may write them: models write them in their answers."""


def _turns(tokenizer: Any) -> str:
    """Everything that the chat template writes around a turn of each role, and before an answer."""
    user, answer = {"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}
    conversations = (
        [user],
        [user, answer, user],
        [{"role": "system", "content": "x"}, user],
        [user, answer, {"role": "tool", "content": "x"}],
    )
    written = []
    for conversation in conversations:
        try:
            apply = tokenizer.apply_chat_template
            written.append(str(apply(conversation, tokenize=False, add_generation_prompt=True)))
        except Exception:  # a template may refuse a role with any error; it then writes nothing
            continue
    return "".join(written)


def _break(text: str, names: re.Pattern[str], joint: str) -> str:
    while names.search(text):  # repeat: the rest of a broken name may be a name too
        text = names.sub(lambda found: found[0][0] + joint + found[0][1:], text)
    return text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _changed(item, change) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_changed(item, change) for item in value]
    return value


def encodable(text: str) -> str:
    """`text` with halves of surrogate pairs replaced by U+FFFD, else `text` itself. A server that cuts
    an answer may send one in JSON; UTF-8, which all our files use, cannot hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
