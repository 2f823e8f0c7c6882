"""Seeds: random choices as pure functions of their purpose."""

from __future__ import annotations

import hashlib


def derive_seed(*salt: object) -> int:
    """A seed in [0, 2**31), a pure function of `salt`."""
    text = "\x1f".join(map(str, salt)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") >> 1
