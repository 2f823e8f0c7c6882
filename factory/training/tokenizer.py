"""The tokenizer to train with: the model's own, given a chat template if it has none.

A base model is trained on the very transcript that the engines show it
(`factory.engines.render.transcript`), so what it learns is what it is asked for later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factory.errors import RecipeError

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
    return tokenizer


def transcript_template(tokenizer: Any) -> str:
    """`TRANSCRIPT`, opened by a BOS if the tokenizer itself opens plain text with one: the engines
    encode transcripts as plain text, trainers encode what a template renders as it stands."""
    opens_with_bos = tokenizer.bos_token_id in tokenizer.encode("")[:1]
    return ("{{ bos_token }}" if opens_with_bos else "") + TRANSCRIPT
