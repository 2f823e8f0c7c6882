"""An engine that answers at once, to measure everything around it."""

from __future__ import annotations

from factory.engines.base import Completion, EngineStats, Request


class InstantEngine:
    """Answers 64 words without thinking; labels get fixed probabilities, A likelier than B."""

    fingerprint = "instant"
    text = "word " * 64

    def __init__(self) -> None:
        self._stats = EngineStats()

    async def thinks(self) -> bool:
        return False

    async def generate(self, request: Request) -> Completion:
        logs = {label: -0.5 - i for i, label in enumerate(request.labels)} or None
        text = "" if logs else f"{self.text}{request.draw}"
        completion = Completion(text, "stop", 200, 100, 64, logs)
        self._stats.add(completion)
        return completion

    def stats(self) -> EngineStats:
        return self._stats

    async def close(self) -> None:
        pass
