"""Overlap of held-out and training prompts, found by a hash of the prompt's text.

Two prompts are equal if their turns are the same except for white space, Unicode normalization and the
system prompt. Prompts that differ by a word or a digit are different.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from factory.core.records import Message, Sample
from factory.core.words import composed


def shared_prompts(training: Iterable[object], held_out: Iterable[object]) -> list[Sample]:
    """The held-out samples whose prompt occurs in `training`, in order.

    Both are rows of a source (`factory.sources.source.Source`). Reads all of them, but keeps only the
    held-out samples in memory. Skips rows that are no prompts, since no training sees them.
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
    """16 bytes that are the same for equal prompts."""
    turns = [turn for turn in prompt if turn["role"] != "system"]
    said = [[turn["role"], " ".join(composed(turn["content"]).split())] for turn in turns]
    return hashlib.blake2b(msgspec.json.encode(said), digest_size=16).digest()
