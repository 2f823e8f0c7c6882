"""Calls and tokens over time, as a run records them."""

from __future__ import annotations

import asyncio
import time

from factory.engines.base import Completion
from factory.pipeline import history
from factory.pipeline.history import Moment, recorded
from tests.fakes import FakeEngine

CALL = Completion("yes", "stop", 10, 4, 3)


def record(moments: list[Moment], calls: int) -> FakeEngine:
    """Records a block in which an engine that has answered before answers `calls` times, at once."""
    engine = FakeEngine()
    engine.stats().add(CALL)  # before the block: not this run's

    async def run() -> None:
        async with recorded(moments, {engine}, time.monotonic() - 100):
            for _ in range(calls):
                engine.stats().add(CALL)

    asyncio.run(run())
    return engine


def test_the_last_moment_has_all_calls_of_the_run() -> None:
    moments: list[Moment] = []
    record(moments, 3)
    [last] = moments
    assert (last.calls, last.prompt_tokens, last.cached_tokens, last.output_tokens) == (
        3,
        30,
        12,
        9,
    )
    assert 100 <= last.seconds < 200
    record(moments, 2)  # the run goes on
    assert (len(moments), moments[-1].calls, moments[-1].output_tokens) == (2, 5, 15)
    record(moments, 0)  # all was remembered: nothing to record
    assert len(moments) == 2


def test_many_moments_are_thinned() -> None:
    moments = [Moment(float(i), i, 0, 0, 0) for i in range(1, history._MOST + 1)]
    record(moments, 1)
    assert len(moments) == history._MOST // 2 + 1
    assert (moments[0].calls, moments[-1].calls) == (1, history._MOST + 1)
