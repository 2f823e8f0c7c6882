"""The key of a model call: a hash of everything that decides its answer."""

from __future__ import annotations

import hashlib

import msgspec

from factory.engines.base import Request

_encode_key = msgspec.json.Encoder()


def call_key(fingerprint: str, request: Request) -> bytes:
    """The key, 16 bytes: a hash of the fingerprint and the request without its priority and seed."""
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
