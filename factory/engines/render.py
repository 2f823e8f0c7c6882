"""From messages to token ids: how a model is shown a conversation, in the engines and in training.

In: a transformers tokenizer. Out: ids with exactly one BOS, where the model has one. Training and
serving come here alike, so that a model is asked about the very tokens it learned from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from factory.engines.base import Scoring, TextScoring
from factory.errors import EngineError, SampleError
from factory.records import Message


def transcript(messages: Sequence[Message]) -> str:
    """A conversation for a model without a chat template, as in the Constitutional AI paper. Ends
    where the assistant's answer begins, unless the last message is the assistant's."""
    names = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": ""}
    if other := {m["role"] for m in messages} - names.keys():
        raise SampleError(
            f"a model without a chat template cannot read a turn of role '{min(other)}'",
            is_permanent=True,
        )
    text = "".join(names[m["role"]] + m["content"] for m in messages)
    return text if messages[-1]["role"] == "assistant" else text + "\n\nAssistant:"


def prompt_ids(
    tokenizer: Any, messages: Sequence[Message], kwargs: Mapping[str, Any], prefix: str = ""
) -> list[int]:
    """Ids of the conversation up to where the assistant's answer begins, and then those of the
    prefix. `kwargs` go to the chat template."""
    if tokenizer.chat_template is None:
        ids: list[int] = tokenizer.encode(transcript(messages) + (f" {prefix}" if prefix else ""))
        return ids
    ids = _templated(tokenizer, messages, kwargs, add_generation_prompt=True)
    return ids + _plain(tokenizer, prefix) if prefix else ids


def conversation_ids(
    tokenizer: Any, messages: Sequence[Message], kwargs: Mapping[str, Any]
) -> list[int]:
    """Ids of a whole conversation, the answer's end included: what a reward model reads.

    Padding tokens at the end are left out: transformers reads a reward at the last token that is
    none, which matters where the end-of-text token is the padding token too.
    """
    if tokenizer.chat_template is None:
        text = transcript(messages)
        eos = tokenizer.eos_token or ""
        ids: list[int] = tokenizer.encode(text if text.endswith(eos) else text + eos)
    else:
        ids = _templated(tokenizer, messages, kwargs, add_generation_prompt=False)
    while len(ids) > 1 and ids[-1] == tokenizer.pad_token_id:
        ids.pop()
    return ids


def step_ids(
    tokenizer: Any, messages: Sequence[Message], scoring: Scoring, kwargs: Mapping[str, Any]
) -> tuple[list[int], list[int]]:
    """Ids of a prompt with a solution in steps, and the position of the token at which each step is
    read, ascending; the layout is `Scoring`'s.

    Raises `EngineError` if the tag is not one token, or there is neither tag nor separator.
    """
    if isinstance(scoring, TextScoring):
        ids = tokenizer.encode(whole_text(messages, scoring))
        tag = _plain(tokenizer, scoring.spaced_tag)
        is_known = tokenizer.unk_token_id not in tag
        return ids, tag_positions(ids, tag if is_known else [], scoring)
    tag = _plain(tokenizer, scoring.tag) if scoring.tag else []
    if scoring.tag and len(tag) != 1:
        raise EngineError(
            f"the step tag '{scoring.tag}' is {len(tag)} tokens in this model's tokenizer; it must "
            "be one: use the tag that the model was trained with"
        )
    separator = _plain(tokenizer, scoring.separator) if scoring.separator else []
    if not tag and not separator:
        raise EngineError("steps need a separator or a tag to be read at")
    ids = prompt_ids(tokenizer, messages, kwargs)
    positions = []
    _refuse_blank(scoring)
    for step in scoring.steps:
        ids += _plain(tokenizer, step)
        ids += tag
        if tag:
            positions.append(len(ids) - 1)
        ids += separator
        if not tag:
            positions.append(len(ids) - 1)
    return ids, positions


def whole_text(messages: Sequence[Message], scoring: TextScoring) -> str:
    """What a model reads that knows no turns; the contents of several messages stand apart by a
    blank line."""
    _refuse_blank(scoring)
    prompt = "\n\n".join(message["content"] for message in messages)
    steps = scoring.separator.join(step + scoring.spaced_tag for step in scoring.steps)
    return f"{prompt} {steps}"


def tag_positions(ids: Sequence[int], tag: Sequence[int], scoring: TextScoring) -> list[int]:
    """Where each step of a `whole_text` is read. `tag`: the ids of `spaced_tag` alone, of which the
    last is its token (SentencePiece puts a space's before it).

    Raises `EngineError` if there is no such token in the text, `SampleError` if there are not as many
    as steps: one of the texts holds it too.
    """
    found = [i for i, token in enumerate(ids) if token == tag[-1]] if tag else []
    if not found:
        raise EngineError(
            f"the step tag '{scoring.tag}' is another token, or several, after a step in this "
            "model's tokenizer; use the tag that the model was trained with"
        )
    if len(found) != len(scoring.steps):
        raise SampleError(
            f"the step tag '{scoring.tag}' is {len(found)} times in a text of {len(scoring.steps)} "
            "steps: the prompt or a step holds it too",
            is_permanent=True,
            raw="\n".join(scoring.steps),
        )
    return found


def _refuse_blank(scoring: Scoring) -> None:
    if not all(step.strip() for step in scoring.steps):
        raise SampleError("a step of the solution is blank", raw="\n".join(scoring.steps))


def _templated(
    tokenizer: Any,
    messages: Sequence[Message],
    kwargs: Mapping[str, Any],
    *,
    add_generation_prompt: bool,
) -> list[int]:
    return list(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, return_dict=False, **kwargs
        )
    )


def _plain(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids
