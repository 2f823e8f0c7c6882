"""Which call goes next, and to which of the URLs that serve a model.

Invariants:
- At most `concurrency` calls are in flight per URL. The others wait in one heap, lowest priority
  first, oldest first among equals.
- A call goes to the URL with the fewest calls in flight. A URL that failed gets none while another
  is well, but for a trial call now and then; its next answer makes it well again.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from factory.engines.reasoning import Marks, Where

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_REST = 5.0  # seconds between trial calls to a URL that failed
_QUOTED = 500  # characters of a server's words in a message


@dataclass(eq=False)
class Server:
    """What we know of one URL."""

    url: str
    client: AsyncOpenAI
    key: str = field(default="", repr=False)
    in_flight: int = 0
    is_failing: bool = False
    next_trial: float = 0.0
    """While failing: the `time.monotonic()` from which it may be tried."""
    is_vllm: bool | None = None
    """None: not known yet."""
    context: int = 0
    """Tokens; 0: not told."""
    has_chat_template: bool = True
    """False: it has said that its model has none, so that it takes no conversations."""
    models: Sequence[str] = ()
    """Names of the models it serves, where it tells."""
    marks: Marks | None = None
    """What stands around its model's thoughts. None: nothing, or not known."""
    where: Where = "either"
    """What its model writes where an answer begins."""
    opening: tuple[int, ...] | None = None
    """The tokens with which its prompts end, which `where` is read from. None: not known yet."""
    splits: bool = False
    """It has told thought and answer apart itself."""

    def note_failure(self) -> None:
        self.is_failing = True
        self.next_trial = time.monotonic() + _REST

    def clean(self, text: str) -> str:
        """What this server said, fit for a message: without the key and control characters, and not
        too long."""
        for written in {self.key, repr(self.key)[1:-1]} - {""}:
            text = text.replace(written, "<key>")
        return "".join(c if c.isprintable() else " " for c in text[:_QUOTED]).strip()


class Router:
    """Hands the places at the servers to the calls that wait."""

    def __init__(self, servers: list[Server], concurrency: int) -> None:
        self.servers = servers
        self._concurrency = concurrency
        self._waiting: list[tuple[int, int, asyncio.Future[Server]]] = []

    @asynccontextmanager
    async def slot(self, priority: int, order: int) -> AsyncIterator[Server]:
        """Wait for a turn; then a place at this server is held for the length of the block."""
        turn: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, order, turn))
        self._hand_out()
        try:
            yield await turn
        finally:
            if turn.done() and not turn.cancelled():
                turn.result().in_flight -= 1
                self._hand_out()

    def _hand_out(self) -> None:
        """Give the places there are to the first in line."""
        while self._waiting:
            turn = self._waiting[0][2]
            if not turn.done():  # done: its caller was canceled
                server = self._least_loaded()
                if server is None:
                    return
                server.in_flight += 1
                turn.set_result(server)
            heapq.heappop(self._waiting)

    def _least_loaded(self) -> Server | None:
        """The server for the next call. None: none has a place."""
        some_are_well = any(not server.is_failing for server in self.servers)
        open_servers = []
        for server in self.servers:
            places = self._concurrency
            if server.is_failing and some_are_well:
                places = 1 if time.monotonic() >= server.next_trial else 0
            if server.in_flight < places:
                open_servers.append(server)
        return min(open_servers, key=lambda server: server.in_flight, default=None)
