"""Held-out prompts that a training has seen: found by a hash of what the prompt says.

Two prompts are one where their turns are the same but for white space, the way Unicode writes a
character and the system prompt. What differs by a word or a digit is another prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from factory.core.records import Message, Sample
from factory.core.words import composed


def shared_prompts(training: Iterable[object], held_out: Iterable[object]) -> list[Sample]:
    """The held-out samples whose prompt occurs in `training`, in order.

    Both are the rows of a source (`factory.sources.source.Source`). Reads all of them: memory holds
    the held-out samples only. Rows that are no prompts are passed over: no training sees them.
    """
    held = [(prompt_hash(row.prompt), row) for row in held_out if isinstance(row, Sample)]
    left, seen = {digest for digest, _ in held}, set()
    for row in training:
        if not left:
            break
        if isinstance(row, Sample) and (digest := prompt_hash(row.prompt)) in left:
            left.remove(digest)
            seen.add(digest)
    return [sample for digest, sample in held if digest in seen]


def prompt_hash(prompt: list[Message]) -> bytes:
    """16 bytes that two prompts share where they say the same."""
    turns = [turn for turn in prompt if turn["role"] != "system"]
    said = [[turn["role"], " ".join(composed(turn["content"]).split())] for turn in turns]
    return hashlib.blake2b(msgspec.json.encode(said), digest_size=16).digest()
