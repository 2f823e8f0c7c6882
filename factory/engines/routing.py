"""Routing of calls: which goes next, and to which of the URLs that serve a model.

Invariants:
- At most `concurrency` calls are in flight per URL. The others wait in one heap, lowest priority
  first, oldest first among equals.
- A call goes to the URL with the fewest calls in flight. While another URL works, a URL that failed
  gets only a trial call now and then. Its next answer restores it.
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
_QUOTED = 500  # most characters of a server's text in a message


@dataclass(eq=False)
class Server:
    """The state of one URL."""

    url: str
    client: AsyncOpenAI
    key: str = field(default="", repr=False)
    in_flight: int = 0
    is_failing: bool = False
    next_trial: float = 0.0
    """While failing: the `time.monotonic()` from which it may be tried."""
    is_vllm: bool | None = None
    """True for a vLLM server. None: not known yet."""
    context: int = 0
    """Context in tokens. 0: unknown."""
    has_chat_template: bool = True
    """False: it has said that its model has no chat template, so it takes no conversations."""
    models: Sequence[str] = ()
    """Names of the models it serves, if it lists them."""
    marks: Marks | None = None
    """The marks around its model's thoughts. None: none, or not known."""
    where: Where = "either"
    """The kind of text with which its model begins an answer."""
    opening: tuple[int, ...] | None = None
    """The tokens at the end of its prompts, from which `where` is read. None: not known yet."""
    splits: bool = False
    """True: the server splits thought and answer itself."""

    def note_failure(self) -> None:
        self.is_failing = True
        self.next_trial = time.monotonic() + _REST

    def clean(self, text: str) -> str:
        """A text of this server, safe for a message: without the key and control characters, and at
        most `_QUOTED` characters long."""
        for written in {self.key, repr(self.key)[1:-1]} - {""}:
            text = text.replace(written, "<key>")
        return "".join(c if c.isprintable() else " " for c in text[:_QUOTED]).strip()


class Router:
    """Assigns the places at the servers to waiting calls."""

    def __init__(self, servers: list[Server], concurrency: int) -> None:
        self.servers = servers
        self._concurrency = concurrency
        self._waiting: list[tuple[int, int, asyncio.Future[Server]]] = []

    @asynccontextmanager
    async def slot(self, priority: int, order: int) -> AsyncIterator[Server]:
        """Wait for a turn, then hold a place at the yielded server during the block."""
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
        """Give free places to the first in line."""
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
        """The server for the next call. None: no server has a free place."""
        some_are_well = any(not server.is_failing for server in self.servers)
        open_servers = []
        for server in self.servers:
            places = self._concurrency
            if server.is_failing and some_are_well:
                places = 1 if time.monotonic() >= server.next_trial else 0
            if server.in_flight < places:
                open_servers.append(server)
        return min(open_servers, key=lambda server: server.in_flight, default=None)
