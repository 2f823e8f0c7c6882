"""Model calls of a run: answered from the ledger, joined to one in flight, or made.

`stages.models.SampleModels` is what a stage sees; `Calls` answers its requests from the ledger, joins
a call in flight, or asks the engine and remembers the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from factory.core.errors import SampleError
from factory.engines.base import Completion, Engine, Request
from factory.engines.call_key import call_key
from factory.engines.control_tokens import encodable
from factory.scorers.judging import Judges
from factory.stages.base import Asked
from factory.stages.models import Before, ReadsJudges, StageCount


class Memory(Protocol):
    """A place that remembers calls by their keys; see `ledger.Ledger`, which does so on disk."""

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Completion]: ...

    def just_put(self, key: bytes) -> Completion | None: ...

    def put(self, key: bytes, completion: Completion) -> None: ...

    def flush(self) -> None: ...


class Calls:
    """The ledger in front of the engines. `judges`: who knows how they are read when they judge; None:
    found from the engines."""

    def __init__(
        self, ledger: Memory, engines: Mapping[str, Engine], judges: ReadsJudges | None = None
    ) -> None:
        self.engines = engines
        self._ledger = ledger
        self._fingerprints: dict[str, str] = {}
        self._in_flight: dict[bytes, asyncio.Future[Completion | None]] = {}
        self._look_ups: list[tuple[list[bytes], asyncio.Future[dict[bytes, Completion]]]] = []
        self.judges: ReadsJudges = judges or Judges(engines, ledger)

    async def answer(
        self,
        model: str,
        requests: Sequence[Request],
        count: StageCount,
        before: Before | None = None,
    ) -> list[Asked]:
        """Answer all requests, in their order. If one fails, raises its error once all have ended.

        `before` is awaited first if any call is not in the ledger.
        """
        fingerprint = self._fingerprints.get(model)
        if fingerprint is None:
            fingerprint = self._fingerprints[model] = self.engines[model].fingerprint
        keys = [call_key(fingerprint, request) for request in requests]
        remembered = await self._remembered(keys)
        answers = [remembered.get(key) for key in keys]
        count.remembered += sum(found is not None for found in answers)
        missing = [i for i, found in enumerate(answers) if found is None]
        if missing and before is not None:
            await before()
        engine = self.engines[model]
        if len(missing) == 1:
            only = missing[0]
            answers[only] = await self._make(engine, keys[only], requests[only], count)
        elif missing:
            made = await asyncio.gather(
                *(self._make(engine, keys[i], requests[i], count) for i in missing),
                return_exceptions=True,
            )
            failures: list[BaseException] = []
            for i, result in zip(missing, made, strict=True):
                if isinstance(result, BaseException):
                    failures.append(result)
                else:
                    answers[i] = result
            if failures:  # an error that stops the run goes before a `SampleError`
                raise min(failures, key=lambda failure: isinstance(failure, SampleError))
        asked: list[Asked] = []
        for key, completion in zip(keys, answers, strict=True):
            assert completion is not None
            count.prompt_tokens += completion.prompt_tokens
            count.cached_tokens += completion.cached_tokens
            count.output_tokens += completion.output_tokens
            count.reasoning_tokens += completion.reasoning_tokens
            asked.append(Asked(key, completion))
        return asked

    def commit(self) -> None:
        """Return when every answered call is on disk. Files that name a call are written after this."""
        self._ledger.flush()

    async def _remembered(self, keys: list[bytes]) -> dict[bytes, Completion]:
        """The ledger's completions of these calls. All samples that ask in one turn of the event loop
        share one query, since a query costs more than the rows it fetches."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[dict[bytes, Completion]] = loop.create_future()
        if not self._look_ups:
            loop.call_soon(self._look_up)
        self._look_ups.append((keys, found))
        return await found

    def _look_up(self) -> None:
        asked, self._look_ups = self._look_ups, []
        try:
            held = self._ledger.get_many([key for keys, _ in asked for key in keys])
        except Exception as error:
            for _, found in asked:
                if not found.done():
                    found.set_exception(error)
            return
        for _, found in asked:
            if not found.done():  # done: its sample was canceled
                found.set_result(held)

    async def _make(
        self, engine: Engine, key: bytes, request: Request, count: StageCount
    ) -> Completion:
        while (others := self._in_flight.get(key)) is not None:
            if (completion := await asyncio.shield(others)) is not None:
                count.remembered += 1
                return completion
            # The task that made the call was canceled or failed: make the call here.
        if (just_made := self._ledger.just_put(key)) is not None:  # put since the look-up
            count.remembered += 1
            return just_made
        ours: asyncio.Future[Completion | None] = asyncio.get_running_loop().create_future()
        self._in_flight[key] = ours
        completion = None
        try:
            answered = await engine.generate(request)
            self._remember(key, answered)
            completion = answered
            count.made += 1
            return completion
        finally:
            del self._in_flight[key]
            ours.set_result(completion)

    def _remember(self, key: bytes, completion: Completion) -> None:
        """Put a completion into the ledger. Raises `SampleError` if it or a trace cannot hold it."""
        try:
            completion.text = encodable(completion.text)
            if completion.reasoning is not None:
                completion.reasoning = encodable(completion.reasoning)
            self._ledger.put(key, completion)
        except (msgspec.MsgspecError, TypeError, ValueError, AttributeError) as error:
            raise SampleError(
                f"the model's answer cannot be stored ({error}): {completion!r:.500}; fix the engine "
                "or server it comes from; the next run asks again"
            ) from error
