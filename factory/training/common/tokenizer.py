"""The tokenizer to train with: the model's own, given a chat template if it has none.

What a trainer asks of it, ours or TRL's, it answers as the engines would (`factory.engines.render`):
names of control tokens in messages and texts are text, and a tokenizer that appends its EOS appends
none to a prompt. A base model is trained on the very transcript that the engines show it
(`factory.engines.render.transcript`), so what it learns is what it is asked for later.

An answer in training ends with a token that ends generation, also where the chat template writes none:
`end_answers` says whether it does, and fixes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.core.errors import RecipeError
from factory.engines.render import after_answer, around, templated, text_ids

# The same text as `transcript`, with the answer's end marked so that the model learns to stop.
TRANSCRIPT = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '\n\nHuman: ' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '\n\nAssistant: ' + message['content'] }}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% if loop.last and message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)


def load_tokenizer(model_dir: Path, *, trust_remote_code: bool) -> Any:
    """Raises `RecipeError` if the folder has none, or it knows no end of text."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"the model at {model_dir} has no tokenizer to train with: {error}"
        ) from error
    if tokenizer.eos_token is None:
        raise RecipeError(
            f"the tokenizer at {model_dir} has no eos_token, so the model cannot learn to stop; "
            "set it in tokenizer_config.json"
        )
    return for_training(tokenizer)


def transcript_template(tokenizer: Any) -> str:
    """`TRANSCRIPT`, opened by a BOS if the tokenizer itself opens plain text with one: the engines
    encode transcripts as plain text, trainers encode what a template renders as it stands."""
    opens_with_bos = tokenizer.bos_token_id in around(tokenizer)[0]
    return ("{{ bos_token }}" if opens_with_bos else "") + TRANSCRIPT


def for_training(tokenizer: Any) -> Any:
    """The same, of a class that answers as this module says. It saves under its own class's name."""
    base: Any = type(tokenizer)

    class Training(base):  # type: ignore[misc]
        end_ids: frozenset[int] = frozenset()
        """Tokens that end generation. Set: every answer ends with one, in the assistants' mask too."""
        appends_end = False

        def __call__(self, text: Any = None, *args: Any, **options: Any) -> Any:
            from transformers import BatchEncoding

            is_text = isinstance(text, str)
            if args or options or not (is_text or _are_texts(text)):
                return super().__call__(text, *args, **options)
            rows = [_row_ids(self, row) for row in ([text] if is_text else text)]
            columns = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
            return BatchEncoding({n: c[0] for n, c in columns.items()} if is_text else columns)

        def apply_chat_template(self, conversation: Any, *args: Any, **options: Any) -> Any:
            if args:  # options by place: nobody who trains gives them so
                return super().apply_chat_template(conversation, *args, **options)
            made = templated(self, super().apply_chat_template, conversation, **options)
            goes_on = options.get("add_generation_prompt") or options.get("continue_final_message")
            if self.end_ids and not goes_on and options.get("tokenize", True):
                _end(self, made, conversation)
            return made

        def __reduce_ex__(self, protocol: Any) -> Any:  # its class cannot be imported
            bare = base.__new__(base)
            bare.__dict__.update(self.__dict__)
            return for_training, (bare,)

    Training.__name__, Training.__qualname__ = base.__name__, base.__qualname__
    Training.__module__ = base.__module__
    tokenizer.__class__ = Training
    return tokenizer


def end_answers(tokenizer: Any, model_dir: Path) -> str | None:
    """Make every templated conversation that ends with an answer end with a token that ends
    generation: where the template writes none, by the EOS.

    Returns what the template writes after an answer if no such token is in it; None: all is well.
    """
    after = after_answer(tokenizer, {})
    tokenizer.end_ids = _end_ids(tokenizer, model_dir)
    tokenizer.appends_end = after is not None and not tokenizer.end_ids & {
        *tokenizer.encode(after, add_special_tokens=False)
    }
    return after if tokenizer.appends_end else None


def _end_ids(tokenizer: Any, model_dir: Path) -> frozenset[int]:
    """Tokens at which engines stop: the tokenizer's EOS, and those that the model's settings name."""
    named: list[Any] = [tokenizer.eos_token_id]
    for file in ("generation_config.json", "config.json"):
        if (model_dir / file).is_file():
            found = json.loads((model_dir / file).read_text(encoding="utf-8")).get("eos_token_id")
            named += found if isinstance(found, list) else [found]
            break
    return frozenset(token for token in named if isinstance(token, int))


def _end(tokenizer: Any, made: Any, conversation: Any) -> None:
    """Put the answer's end into what `apply_chat_template` made, and into the assistants' mask."""
    columns = {"input_ids": made} if isinstance(made, list) else made
    is_batch = not isinstance(conversation[0], Mapping)
    if not isinstance(columns["input_ids"], list):
        return  # tensors, which no trainer asks for
    for i, messages in enumerate(conversation if is_batch else [conversation]):
        row = {name: column[i] if is_batch else column for name, column in columns.items()}
        mask = row.get("assistant_masks", [])
        for place in range(1, len(mask)):
            if mask[place - 1] and row["input_ids"][place] in tokenizer.end_ids:
                mask[place] = 1
        if tokenizer.appends_end and messages[-1]["role"] == "assistant":
            for name, values in row.items():
                values.append(_OF_THE_END.get(name, tokenizer.eos_token_id))
            if (
                1 in mask[:-1]
            ):  # all that the template writes between answer and end is to be learned
                last = len(mask) - 2 - mask[-2::-1].index(1)
                mask[last:] = [1] * (len(mask) - last)


_OF_THE_END = {"attention_mask": 1, "assistant_masks": 1, "token_type_ids": 0}
"""Values of the columns beside the ids."""


def _row_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a row that is text. A BOS that it begins with and an EOS that it ends with, as TRL puts
    there, are what they say; all other names of control tokens are text."""
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    if bos and around(tokenizer)[0]:
        text = text.removeprefix(bos)
    has_end = text.endswith(eos)
    ids = text_ids(tokenizer, text.removesuffix(eos) if has_end else text)
    return [*ids, tokenizer.eos_token_id] if has_end else ids


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)
