"""Rendering: messages -> token ids, the same for engines and training.

In: a transformers tokenizer. Out: ids with exactly one BOS, if the model has one, and an EOS only
where an answer has ended, regardless of what the tokenizer adds around a text. Names of control tokens
in messages are text (`control_tokens`). Training and serving both use this module, so that a model is
asked with the same tokens it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from factory.core.errors import EngineError, SampleError
from factory.core.records import Message
from factory.engines.base import Scoring, TextScoring
from factory.engines.control_tokens import broken, control_names, joint_ids, joint_texts, kept
from factory.engines.reasoning import Piece

NEXT_TURN = "\n\nHuman:"
"""Stop string for a model without a chat template, which would continue with the user's turn."""


def transcript(messages: Sequence[Message]) -> str:
    """A conversation as text for a model without a chat template, as in the Constitutional AI paper.
    Ends where the assistant's answer begins, unless the last message is the assistant's."""
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
    """Ids of the conversation up to the answer, then of the prefix. `kwargs`: the chat template's."""
    if tokenizer.chat_template is None:
        return text_ids(tokenizer, transcript(messages) + (f" {prefix}" if prefix else ""))
    ids = _templated(tokenizer, messages, kwargs, add_generation_prompt=True)
    return ids + plain_ids(tokenizer, prefix) if prefix else ids


def conversation_ids(
    tokenizer: Any, messages: Sequence[Message], kwargs: Mapping[str, Any]
) -> list[int]:
    """Ids of a whole conversation including the answer's end: the input of a reward model.

    Padding tokens at the end are left out: transformers reads a reward at the last token that is not
    padding, which matters if the end-of-text token is the padding token too.
    """
    if tokenizer.chat_template is None:
        ids = text_ids(tokenizer, transcript(messages), ends=True)
    else:
        ids = _templated(tokenizer, messages, kwargs, add_generation_prompt=False)
    while len(ids) > 1 and ids[-1] == tokenizer.pad_token_id:
        ids.pop()
    return ids


def text_ids(tokenizer: Any, text: str, *, ends: bool = False) -> list[int]:
    """Ids of a text with the model's BOS, if it has one. `ends`: also add the tokens that the tokenizer
    puts after a text, or else its EOS."""
    opening, closing = around(tokenizer)
    if not closing and tokenizer.eos_token_id is not None:
        closing = [tokenizer.eos_token_id]
    return opening + plain_ids(tokenizer, text) + (closing if ends else [])


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text alone, without BOS, EOS or control tokens."""
    if not text:
        return []
    text, joint = broken(text, control_names(tokenizer))
    ids = _encoded(tokenizer, text)
    if not joint:
        return ids
    return [ids[i] for i in kept(ids, _joint_ids(tokenizer, joint))]


def laid_out(tokenizer: Any, pieces: Sequence[Piece]) -> list[int]:
    """Ids of a prefix that begins an answer. The marks of a thought in it may be control tokens."""
    ids: list[int] = []
    for text, is_mark in pieces:
        ids += _encoded(tokenizer, text) if is_mark else plain_ids(tokenizer, text)
    return ids


def templated(tokenizer: Any, apply: Callable[..., Any], conversation: Any, **options: Any) -> Any:
    """The result of `apply`, the tokenizer's `apply_chat_template`, for one conversation or several, with
    the names of control tokens in them as text. `options`: those of `apply`. With `return_tensors` the
    joints of broken names are not removed."""
    conversation, joint = broken(conversation, control_names(tokenizer))
    made = apply(conversation, **options)
    if not joint:
        return made
    return _unjoined(made, joint, _joint_ids(tokenizer, joint))


def after_answer(tokenizer: Any, kwargs: Mapping[str, Any]) -> str | None:
    """What the chat template writes after a conversation's last answer. None: it shows no answer."""
    answer = "An answer to find"
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": answer}]
    try:
        text = str(tokenizer.apply_chat_template(turns, **{**kwargs, "tokenize": False}))
    except Exception:  # a template may refuse these turns with any error
        return None
    _, found, after = text.rpartition(answer)
    return after if found else None


def answer_end(tokenizer: Any, kwargs: Mapping[str, Any]) -> int | None:
    """The token that ends an answer: the first control token that the chat template writes there, or
    else the EOS. None: there is neither."""
    if tokenizer.chat_template is not None:
        special = {*tokenizer.all_special_ids}
        added = tokenizer.added_tokens_decoder.items()
        special |= {token for token, about in added if about.special}
        after = _encoded(tokenizer, after_answer(tokenizer, kwargs) or "")
        if (end := next((token for token in after if token in special), None)) is not None:
            return end
    eos: int | None = tokenizer.eos_token_id
    return eos


def around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer adds (before, after) a text, such as BOS and EOS."""
    inner, whole = _encoded(tokenizer, "a"), list(tokenizer.encode("a"))
    opening = before(inner, whole)
    return opening, whole[len(opening) + len(inner) :]


def before(inner: list[int], whole: list[int]) -> list[int]:
    """The ids of `whole` before those of `inner`."""
    size = len(inner)
    return whole[: next((i for i in range(len(whole)) if whole[i : i + size] == inner), 0)]


def step_ids(
    tokenizer: Any, messages: Sequence[Message], scoring: Scoring, kwargs: Mapping[str, Any]
) -> tuple[list[int], list[int]]:
    """Ids of a prompt with a solution in steps, and the positions, ascending, at which the steps are
    read. `Scoring` describes the layout.

    Raises `EngineError` if the tag is not one token, or there is neither tag nor separator.
    """
    if isinstance(scoring, TextScoring):
        said, joint = broken(said_in(messages, scoring), control_names(tokenizer))
        ids = tokenizer.encode(whole_text(said, scoring))
        ids = [ids[i] for i in kept(ids, _joint_ids(tokenizer, joint))] if joint else ids
        tag = _encoded(tokenizer, scoring.spaced_tag)
        is_known = tokenizer.unk_token_id not in tag
        return ids, tag_positions(ids, tag if is_known else [], scoring)
    # Tag and separator are the recipe's, and may be control tokens.
    tag = _encoded(tokenizer, scoring.tag) if scoring.tag else []
    if scoring.tag and len(tag) != 1:
        raise EngineError(
            f"the step tag '{scoring.tag}' is {len(tag)} tokens in this model's tokenizer; it must "
            "be one: use the tag that the model was trained with"
        )
    separator = _encoded(tokenizer, scoring.separator) if scoring.separator else []
    if not tag and not separator:
        raise EngineError("steps need a separator or a tag to be read at")
    ids = prompt_ids(tokenizer, messages, kwargs)
    positions = []
    _refuse_blank(scoring)
    for step in scoring.steps:
        ids += plain_ids(tokenizer, step)
        ids += tag
        if tag:
            positions.append(len(ids) - 1)
        ids += separator
        if not tag:
            positions.append(len(ids) - 1)
    return ids, positions


def said_in(messages: Sequence[Message], scoring: TextScoring) -> tuple[list[str], list[str]]:
    """The texts that `whole_text` joins: those of the prompt, and the steps."""
    _refuse_blank(scoring)
    return [message["content"] for message in messages], [*scoring.steps]


def whole_text(said: Sequence[Sequence[str]], scoring: TextScoring) -> str:
    """The input of a model that knows no turns. A blank line separates the contents of messages."""
    contents, steps = said
    solution = scoring.separator.join(step + scoring.spaced_tag for step in steps)
    return "\n\n".join(contents) + f" {solution}"


def tag_positions(ids: Sequence[int], tag: Sequence[int], scoring: TextScoring) -> list[int]:
    """Positions at which the steps of a `whole_text` are read. `tag`: the ids of `spaced_tag` alone; the
    last is the tag's token (SentencePiece puts a space's token before it).

    Raises `EngineError` if the text has no such token, and `SampleError` if their number differs from
    that of the steps, since one of the texts holds the tag too.
    """
    found = [i for i, token in enumerate(ids) if token == tag[-1]] if tag else []
    if not found:
        raise EngineError(
            f"the step tag '{scoring.tag}' is another token, or several, after a step in this "
            "model's tokenizer; use the tag that the model was trained with"
        )
    if len(found) != len(scoring.steps):
        raise SampleError(
            f"the step tag '{scoring.tag}' occurs {len(found)} times in a text of "
            f"{len(scoring.steps)} steps: the prompt or a step holds it too",
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
    from jinja2 import TemplateError

    apply = tokenizer.apply_chat_template
    options = {**kwargs, "add_generation_prompt": add_generation_prompt, "return_dict": False}
    try:
        return list(templated(tokenizer, apply, messages, **options))
    except TemplateError as error:
        raise SampleError(
            f"the model's chat template refused this conversation: {error}; look for roles it does "
            "not take (system) or two messages of one role in a row",
            is_permanent=True,
        ) from error


def _encoded(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _unjoined(made: Any, joint: str, its_ids: Sequence[int]) -> Any:
    if isinstance(made, str):
        return made.replace(joint, "")
    if isinstance(made, list):
        if made and not isinstance(made[0], int):
            return [_unjoined(item, joint, its_ids) for item in made]
        return [made[i] for i in kept(made, its_ids)]
    rows = made["input_ids"]
    if isinstance(rows, list):
        is_batch = bool(rows) and isinstance(rows[0], list)
        places = [kept(ids, its_ids) for ids in (rows if is_batch else [rows])]
        for name, column in made.items():
            cut = [
                [values[i] for i in at]
                for values, at in zip(column if is_batch else [column], places, strict=True)
            ]
            made[name] = cut if is_batch else cut[0]
    return made


def _joint_ids(tokenizer: Any, joint: str) -> list[int]:
    return joint_ids(*(_encoded(tokenizer, text) for text in joint_texts(joint)))
