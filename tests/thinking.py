"""Tiny models whose weights are set by hand: after a token they write the one that a chain puts next,
whatever stood before, since their layers add nothing to the token's embedding.

`CHAIN` is of a model that thinks: it writes one thought and one answer. Its marks are control tokens,
which an engine leaves out of a text unless told not to. Its chat template keeps the thought of the last
message alone; where the answer begins it opens a thought if the first message begins with "Open",
closes an empty one with `enable_thinking: false`, and else leaves it to the model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% elif messages[0].content.startswith('Open') %}<think>{% endif %}{% endif %}"
)
THOUGHT, ANSWER = "So it is one", "We, I do. No more"
CHAIN = (
    ("\n", "<think>", "So", " it", " is", " one", "</think>", "\n\n"),
    ("\n\n", "We", ",", " I", " do", ".", " No", " more", "<|im_end|>"),
    ("The", ","),
    (" (", "A"),
)
"""Of the thought and the answer, no token comes twice."""
SOLUTION = (
    ("\n", "We", " add", ".", "\n"),
    ("\n", "It", " is", " ", "5", "<|im_end|>"),
    (" ", "7", "<|im_end|>"),
)
"""Where two tokens can follow, each does half the time: any number of lines "We add.", and then "It is
5" or "It is 7"."""


def thinking_tokenizer(tokenizer: Any) -> Any:
    made = copy.deepcopy(tokenizer)
    made.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    made.chat_template = TEMPLATE
    return made


def save_chained(folder: Path, tokenizer: Any, chains: Sequence[Sequence[str]]) -> Path:
    """A Llama of 64 units, in float32, that follows the chains, and its tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        embedding.normal_()
        head.zero_()
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        for chain in chains:
            ids = [tokenizer.encode(text, add_special_tokens=False) for text in chain]
            assert all(len(one) == 1 for one in ids), chain
            for [before], [after] in pairwise(ids):
                head[after] += embedding[before]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
