"""Models that are not asked: a dry run counts the calls that would go to them."""

from __future__ import annotations

import hashlib

import msgspec

from factory.engines.base import Completion, Engine, EngineStats, Request
from factory.scorers.judging import Judges
from factory.stages.base import Estimator, Reads
from factory.stages.models import Before

_WORDS = 24  # of an answer made up


class Unasked:
    """Stands in for an engine and makes its answers up, each text another, so that all calls that
    depend on them are counted as new."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.texts = 0
        """Texts made up."""

    @property
    def fingerprint(self) -> str:
        return self._engine.fingerprint

    async def generate(self, request: Request) -> Completion:
        if request.scoring is not None:
            outputs = [[0.0, 0.0] for _ in request.scoring.steps] or [[0.0]]
            return Completion("", "stop", 0, 0, 0, scores=outputs)
        if request.labels:
            return Completion("", "length", 0, 0, 0, dict.fromkeys(request.labels, -2.0))
        self.texts += 1
        content = msgspec.json.encode([request.messages, request.draw, request.prefix])
        word = hashlib.blake2b(content, digest_size=4).hexdigest()
        return Completion(" ".join([word] * _WORDS), "stop", 0, 0, 0)

    async def thinks(self) -> bool:
        return await self._engine.thinks()

    def stats(self) -> EngineStats:
        return EngineStats()

    async def close(self) -> None:
        """Nothing to close: the engine belongs to others."""


class UnaskedJudges:
    """Knows how judges are read, as far as that is remembered or in a model's files. Of a server that
    was never asked it assumes log-probabilities and no thoughts."""

    def __init__(self, judges: Judges) -> None:
        self._judges = judges

    async def reads(
        self, model: str, estimator: Estimator, example: Request, before: Before | None = None
    ) -> Reads:
        try:
            return await self._judges.reads(model, estimator, example, _refuse)
        except _WouldAsk:
            return Reads("logprob", thinks=False)


class _WouldAsk(Exception):
    """A server would be asked."""


async def _refuse() -> None:
    raise _WouldAsk
