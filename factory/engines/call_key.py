"""What a model call is remembered by: a hash of all that decides its answer."""

from __future__ import annotations

import hashlib

import msgspec

from factory.engines.base import Request

_encode_key = msgspec.json.Encoder()


def call_key(fingerprint: str, request: Request) -> bytes:
    """16 bytes that name a call: all of the request but its priority and seed."""
    content: tuple[object, ...] = (
        fingerprint,
        request.messages,
        request.sampling,
        request.draw,
        request.prefix,
        request.labels,
    )
    if request.scoring is not None:
        content += (request.scoring,)
    return hashlib.blake2b(_encode_key.encode(content), digest_size=16).digest()
