"""What a run did over time: calls and tokens of its engines, measured while it makes samples."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection

import msgspec

from factory.engines.base import Engine

_MOST = 240
"""Most moments kept. When there are more, every second is left out."""


class Moment(msgspec.Struct, frozen=True):
    """The totals of all engines at one moment, since the run began first."""

    seconds: float
    """Running time, summed over all starts of the run."""
    calls: int
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt tokens, those from prefix caches."""
    output_tokens: int


@contextlib.asynccontextmanager
async def recorded(
    moments: list[Moment], engines: Collection[Engine], began: float, period: float = 1.0
) -> AsyncIterator[None]:
    """Add to `moments` every `period` seconds of the block, if calls have ended since the last one, and at
    the end. `began`: when the run would have begun, by the monotonic clock, without its pauses."""
    last = moments[-1] if moments else Moment(0.0, 0, 0, 0, 0)
    before = _totals(engines)

    def add() -> None:
        calls, *tokens = (now - then for now, then in zip(_totals(engines), before, strict=True))
        if calls + last.calls == (moments[-1].calls if moments else 0):
            return
        counts = (last.prompt_tokens, last.cached_tokens, last.output_tokens)
        totals = [each + base for each, base in zip(tokens, counts, strict=True)]
        seconds = round(time.monotonic() - began, 3)
        moments.append(Moment(seconds, calls + last.calls, *totals))
        if len(moments) > _MOST:
            moments[:] = moments[::-2][::-1]  # the newest stays

    async def follow() -> None:
        while True:
            await asyncio.sleep(max(period, (time.monotonic() - began) / _MOST))
            add()

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        add()


def _totals(engines: Collection[Engine]) -> tuple[int, int, int, int]:
    """Calls, prompt tokens, cached tokens, output tokens."""
    stats = [engine.stats() for engine in engines]
    return (
        sum(each.calls for each in stats),
        sum(each.prompt_tokens for each in stats),
        sum(each.cached_tokens for each in stats),
        sum(each.output_tokens for each in stats),
    )
