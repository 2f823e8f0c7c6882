from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from factory.pipeline.window import in_order


class Doors:
    """Work that waits at its row's door until the test opens it."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self._doors: dict[int, asyncio.Event] = {}

    def open(self, *rows: int) -> None:
        for row in rows:
            self._doors.setdefault(row, asyncio.Event()).set()

    async def __call__(self, row: int) -> str:
        self.begun.append(row)
        try:
            await self._doors.setdefault(row, asyncio.Event()).wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # clearing up takes a while too
            self.cancelled.append(row)
            raise
        return f"row {row}"


def counted(rows: int, taken: list[int]) -> Iterator[int]:
    for row in range(rows):
        taken.append(row)
        yield row


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_outcomes_come_in_the_order_of_the_rows_whatever_ends_first() -> None:
    async def go() -> list[str]:
        doors = Doors()
        order = list(range(20))
        random.Random(1).shuffle(order)

        async def open_all() -> None:
            for row in order:
                doors.open(row)
                await asyncio.sleep(0)

        opening = asyncio.create_task(open_all())
        ended = [outcome async for outcome in in_order(range(20), doors, window=20)]
        await opening
        return ended

    assert asyncio.run(go()) == [f"row {i}" for i in range(20)]


def test_a_slow_oldest_row_holds_the_window_and_the_source_back() -> None:
    async def go() -> None:
        doors, taken = Doors(), list[int]()
        doors.open(*range(1, 100))
        async with aclosing(in_order(counted(100, taken), doors, window=4)) as ended:
            first = asyncio.ensure_future(anext(ended))
            await settle()
            assert doors.begun == taken == [0, 1, 2, 3]
            doors.open(0)
            assert await first == "row 0"
            assert [await anext(ended) for _ in range(99)] == [f"row {i}" for i in range(1, 100)]

    asyncio.run(go())


def test_no_more_than_the_window_runs_at_once() -> None:
    most = now = 0

    async def work(row: int) -> int:
        nonlocal most, now
        now += 1
        most = max(most, now)
        for _ in range(1 + row % 5):
            await asyncio.sleep(0)
        now -= 1
        return row

    async def go() -> list[int]:
        return [row async for row in in_order(range(50), work, window=7)]

    assert asyncio.run(go()) == list(range(50))
    assert most == 7


def test_a_source_smaller_than_the_window_is_worked_through() -> None:
    async def go() -> list[str]:
        doors = Doors()
        doors.open(0, 1)
        return [outcome async for outcome in in_order(range(2), doors, window=1024)]

    assert asyncio.run(go()) == ["row 0", "row 1"]


def test_an_empty_source_yields_nothing() -> None:
    async def go() -> list[str]:
        return [outcome async for outcome in in_order([], Doors())]

    assert asyncio.run(go()) == []


def test_a_failure_cancels_the_rest_and_waits_for_it() -> None:
    doors = Doors()

    async def work(row: int) -> str:
        if row == 1:
            raise ValueError("row 1 failed")
        return await doors(row)

    async def go() -> list[str]:
        doors.open(0)
        return [outcome async for outcome in in_order(range(5), work, window=4)]

    with pytest.raises(ValueError, match="row 1 failed"):
        asyncio.run(go())
    assert doors.cancelled == [2, 3]  # row 4 was in the window but had not begun


def test_closing_early_cancels_the_rest_and_waits_for_it() -> None:
    doors = Doors()

    async def go() -> list[int]:
        doors.open(0)
        async with aclosing(in_order(range(100), doors, window=4)) as ended:
            async for _ in ended:
                break
        return list(doors.cancelled)

    assert asyncio.run(go()) == [1, 2, 3]


def test_cancelling_the_consumer_cancels_everything_in_flight() -> None:
    doors = Doors()

    async def consume() -> None:
        async with aclosing(in_order(range(100), doors, window=4)) as ended:
            async for _ in ended:
                pass

    async def go() -> list[int]:
        consumer = asyncio.create_task(consume())
        await settle()
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        return list(doors.cancelled)

    assert asyncio.run(go()) == [0, 1, 2, 3]


def test_a_source_that_fails_on_the_way_cancels_what_has_begun() -> None:
    doors = Doors()

    def rows() -> Iterator[int]:
        yield from range(4)
        raise OSError("disk gone")

    async def go() -> None:
        doors.open(0, 1)
        async with aclosing(in_order(rows(), doors, window=3)) as ended:
            async for _ in ended:
                pass

    with pytest.raises(OSError, match="disk gone"):
        asyncio.run(go())
    assert doors.cancelled == [2]
