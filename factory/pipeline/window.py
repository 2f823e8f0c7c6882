"""A sliding window over the source: the only place where samples run concurrently."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

Row = TypeVar("Row")
Outcome = TypeVar("Outcome")

WINDOW = 1024
"""Rows from the oldest unfinished one to the newest begun. Enough to fill a large GPU's batch with
samples at any stage; a row and its task take about 20 kB while in the window."""


async def in_order(
    rows: Iterable[Row], work: Callable[[Row], Awaitable[Outcome]], window: int = WINDOW
) -> AsyncGenerator[Outcome]:
    """Do `work` on every row, up to `window` at once. Yields outcomes in the rows' order.

    Memory is bounded, however slow the oldest row is. If `work` raises or the iteration is closed, all
    rows in flight are canceled and awaited.
    """
    running: deque[asyncio.Task[Outcome]] = deque()

    async def done(row: Row) -> Outcome:
        return await work(row)

    try:
        for row in rows:
            running.append(asyncio.create_task(done(row)))
            if len(running) >= window:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
