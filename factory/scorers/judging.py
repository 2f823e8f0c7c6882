"""The method of reading each judge: does its model show log-probabilities of labels, and does it think
first? Determined once per model, and remembered in the ledger beside the calls that depend on it.

So a run that is continued reads its judges as before, whatever a server says by then, and a fully
remembered run needs no server. Only servers are asked: an engine in this process always shows
log-probabilities, and knows from the model's files whether it thinks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from factory.core.errors import EngineError
from factory.engines.base import Completion, Engine, Request
from factory.engines.call_key import call_key
from factory.engines.endpoint import EndpointEngine
from factory.stages.base import Estimator, Reads
from factory.stages.models import Before

Fact = Literal["gives_logprobs", "thinks"]
_WRITES = {"temperature": 1.0, "max_tokens": 1}

log = logging.getLogger(__name__)


class Memory(Protocol):
    """The ledger's methods that are used here: calls by their keys."""

    def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, Completion]: ...

    def put(self, key: bytes, completion: Completion) -> object: ...


class Judges:
    """Finds the method of reading for each engine. Without a ledger, remembers it only in memory."""

    def __init__(self, engines: Mapping[str, Engine], ledger: Memory | None = None) -> None:
        self._engines = engines
        self._ledger = ledger
        self._known: dict[tuple[str, Fact], bool] = {}
        self._asking: dict[tuple[str, Fact], asyncio.Lock] = {}

    async def reads(
        self, model: str, estimator: Estimator, example: Request, before: Before | None = None
    ) -> Reads:
        """The method of reading the model. `example`: a request for labels. `before`: awaited once before
        a server is asked; it may determine the method itself.

        Raises `EngineError` if the model can neither show log-probabilities nor write.
        """
        if estimator == "sampled":
            return Reads("sampled", thinks=False)
        if estimator == "auto" and not await self._fact(model, "gives_logprobs", example, before):
            return Reads("sampled", thinks=False)
        return Reads("logprob", await self._fact(model, "thinks", example, before))

    async def _fact(self, model: str, fact: Fact, example: Request, before: Before | None) -> bool:
        if (found := self._remembered(model, fact, example)) is not None:
            return found
        if before is not None and isinstance(self._engines[model], EndpointEngine):
            await before()  # not under the lock: it comes here too
        async with self._asking.setdefault((model, fact), asyncio.Lock()):
            found = self._known.get((model, fact))
            if found is None:
                found = await self._find(model, fact, example)
                self._remember(model, fact, found)
            return found

    async def _find(self, model: str, fact: Fact, example: Request) -> bool:
        engine = self._engines[model]
        if fact == "thinks":
            return await engine.thinks()
        if not isinstance(engine, EndpointEngine):
            return True
        try:
            await engine.check(example)
        except EngineError as error:
            # It may fail at everything, as with a wrong key: that is said, and nothing drawn from it.
            write = msgspec.structs.replace(example, prefix="", labels=(), sampling=_WRITES)
            await engine.check(write)
            log.warning(
                "the judge '%s' is read by sampled verdicts, as it shows no log-probabilities (%s)",
                model,
                error,
            )
            return False
        return True

    # -- the ledger ------------------------------------------------------------------------------

    def _remembered(self, model: str, fact: Fact, example: Request) -> bool | None:
        if (model, fact) in self._known:
            return self._known[model, fact]
        if self._ledger is None or not isinstance(self._engines[model], EndpointEngine):
            return None
        key = self._key(model, fact)
        asked = call_key(self._engines[model].fingerprint, example)
        held = self._ledger.get_many([key, asked])
        if key in held:
            self._known[model, fact] = held[key].text == "true"
        elif asked in held:  # ledgers of before: it was read at once, by its log-probabilities
            self._remember(model, fact, fact == "gives_logprobs")
        return self._known.get((model, fact))

    def _remember(self, model: str, fact: Fact, found: bool) -> None:
        self._known[model, fact] = found
        if self._ledger is not None and isinstance(self._engines[model], EndpointEngine):
            told = Completion("true" if found else "false", "stop", 0, 0, 0)
            self._ledger.put(self._key(model, fact), told)

    def _key(self, model: str, fact: Fact) -> bytes:
        """The ledger key of a fact. It has no messages, so no real call has the same key."""
        nothing = Request([], {}, 0, labels=(fact,))
        return call_key(self._engines[model].fingerprint, nothing)
