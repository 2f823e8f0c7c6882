"""A run's ledger that is only looked into, with another one for new calls."""

from __future__ import annotations

from collections.abc import Sequence

from factory.engines.base import Completion
from factory.pipeline.calls import Memory


class Layered:
    """Remembers new calls in `writes`, and looks calls up there and then in each of `others`.

    `copies`: a call that is found in one of `others` is remembered in `writes` too.
    """

    def __init__(self, writes: Memory, *others: Memory, copies: bool = False) -> None:
        self._writes = writes
        self._others = others
        self._copies = copies

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Completion]:
        found = self._writes.get_many(keys)
        for other in self._others:
            missing = [key for key in keys if key not in found]
            if not missing:
                break
            more = other.get_many(missing)
            for key, completion in more.items() if self._copies else ():
                self._writes.put(key, completion)
            found |= more
        return found

    def just_put(self, key: bytes) -> Completion | None:
        return self._writes.just_put(key)

    def put(self, key: bytes, completion: Completion) -> None:
        self._writes.put(key, completion)

    def flush(self) -> None:
        self._writes.flush()


class Scratch:
    """A ledger in memory, forgotten at the end."""

    def __init__(self) -> None:
        self._held: dict[bytes, Completion] = {}

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Completion]:
        return {key: self._held[key] for key in keys if key in self._held}

    def just_put(self, key: bytes) -> Completion | None:
        return self._held.get(key)

    def put(self, key: bytes, completion: Completion) -> None:
        self._held[key] = completion

    def flush(self) -> None:
        """Nothing to do: nothing is written."""
