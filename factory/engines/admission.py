"""Admission: bounds the requests handed to vLLM by its KV cache, so that none is preempted."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class Admission:
    """Bounds the KV blocks and the number of requests at vLLM. The lowest priority enters first."""

    def __init__(self) -> None:
        self._blocks = self._free_blocks = 0
        self._requests = self._free_requests = 0
        self._block_size = 1
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def resize(self, blocks: int, block_size: int, requests: int) -> None:
        """Set the limits when an engine has started. Admitted requests stay admitted."""
        self._free_blocks += blocks - self._blocks
        self._free_requests += requests - self._requests
        self._blocks, self._requests, self._block_size = blocks, requests, block_size
        self._let_in()

    @property
    def admitted(self) -> int:
        """Number of requests at vLLM."""
        return self._requests - self._free_requests

    def blocks(self, tokens: int) -> int:
        """KV blocks that a sequence of this many tokens fills, plus one that vLLM may reserve."""
        return min(-(-tokens // self._block_size) + 1, self._blocks)

    async def acquire(self, need: int, priority: int) -> None:
        admitted = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._order), need, admitted))
        self._let_in()
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self.release(need)
            raise

    def release(self, need: int) -> None:
        self._free_blocks += need
        self._free_requests += 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._free_requests > 0:
            _, _, need, admitted = self._waiting[0]
            if not admitted.done():
                if need > self._free_blocks:
                    return  # the first in line waits for room; overtaking could starve it
                self._free_blocks -= need
                self._free_requests -= 1
                admitted.set_result(None)
            heapq.heappop(self._waiting)
