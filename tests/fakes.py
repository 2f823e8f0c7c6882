"""A deterministic engine: what it answers is a function of the request, as with a real one."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from collections.abc import Callable, Sequence

import msgspec

from factory.core.constitution import Constitution
from factory.core.errors import EngineError, SampleError
from factory.core.seeds import derive_seed
from factory.engines.base import Completion, EngineStats, Request
from factory.stages.base import Estimator, Question, Reads

WORDS = "the a cat dog sat ran on under mat moon green happy then why seven because".split()  # noqa: SIM905


class FakeEngine:
    """Answers with words drawn from a hash of the request; with logits in [-4, 4], [1, 1] or
    [steps, 2], if it asks for scores.

    `slowness`: seconds a call takes at most. `fails_on`: requests that contain this text fail.
    `seen` keeps every request it was asked.
    """

    def __init__(self, *, name: str = "fake", slowness: float = 0.0, fails_on: str = "") -> None:
        self.fingerprint = name
        self.slowness = slowness
        self.fails_on = fails_on
        self.seen: list[Request] = []
        self.is_closed = False
        self.is_thinking = False
        self.most_at_once = self._now = 0
        self._stats = EngineStats()

    async def generate(self, request: Request) -> Completion:
        self.seen.append(request)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            asked = [
                request.messages,
                request.sampling,
                request.draw,
                request.prefix,
                request.labels,
            ]
            if request.scoring is not None:
                asked.append(request.scoring)
            content = msgspec.json.encode(asked)
            rng = random.Random(hashlib.blake2b(content, digest_size=8).digest())
            await asyncio.sleep(rng.random() * self.slowness)
            if self.fails_on and self.fails_on in request.messages[-1]["content"]:
                raise SampleError(f"asked about {self.fails_on}", raw="what it said")
            completion = self._answer(request, rng)
        finally:
            self._now -= 1
        self._stats.add(completion)
        return completion

    def _answer(self, request: Request, rng: random.Random) -> Completion:
        if (scoring := request.scoring) is not None:
            shape = (len(scoring.steps), 2) if scoring.steps else (1, 1)
            logits = [[rng.uniform(-4, 4) for _ in range(shape[1])] for _ in range(shape[0])]
            return Completion("", "stop", 10, 0, 0, scores=logits)
        words = [rng.choice(WORDS) for _ in range(rng.randint(3, 30))]
        weights = [rng.random() + 0.01 for _ in request.labels]
        return Completion(
            text="" if request.labels else " ".join(words),
            finish_reason="stop",
            prompt_tokens=sum(len(m["content"].split()) for m in request.messages),
            cached_tokens=0,
            output_tokens=1 if request.labels else len(words),
            label_logprobs={
                label: math.log(0.9 * w / sum(weights))
                for label, w in zip(request.labels, weights, strict=True)
            }
            if request.labels
            else None,
        )

    async def thinks(self) -> bool:
        return self.is_thinking

    def stats(self) -> EngineStats:
        return self._stats

    async def close(self) -> None:
        self.is_closed = True


class DyingEngine(FakeEngine):
    """Answers so many calls, and then is gone."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self._calls = calls

    async def generate(self, request: Request) -> Completion:
        if len(self.seen) >= self._calls:
            raise EngineError("the engine died")
        return await super().generate(request)


class ScriptedModels:
    """`stages.base.Models` for a single stage, which keeps the questions it was asked.

    Answers come from a list, in order, or from a function of the question. The n-th call's ledger
    key is `call<n>`.
    """

    def __init__(
        self,
        completions: Sequence[Completion] | Callable[[Question], Completion] = (),
        constitution: Constitution | None = None,
        seed: int = 7,
        is_thinking: bool = False,
        auto: Estimator = "logprob",
    ) -> None:
        self._is_thinking = is_thinking
        self._auto = auto
        self._completions = completions if callable(completions) else iter(completions)
        self._seed = seed
        self.constitution = constitution
        self.questions: list[Question] = []

    def seed(self, *salt: object) -> int:
        return derive_seed(self._seed, *salt)

    async def reads(self, model: str, estimator: Estimator, example: Question) -> Reads:
        if estimator == "auto":
            estimator = self._auto
        if estimator == "sampled":
            return Reads("sampled", thinks=False)
        return Reads("logprob", self._is_thinking)

    async def ask(self, model: str, questions: Sequence[Question]) -> list[_Asked]:
        answers = []
        for question in questions:
            self.questions.append(question)
            script = self._completions
            completion = script(question) if callable(script) else next(script)
            answers.append(_Asked(completion, f"call{len(self.questions)}"))
        return answers


class _Asked:
    def __init__(self, completion: Completion, call: str) -> None:
        self.completion = completion
        self.call = call


def said(text: str, *, tokens: int = 5, reason: str = "stop") -> Completion:
    """A completion with this text."""
    return Completion(text, reason, 10, 0, tokens)


def labeled(**probabilities: float) -> Completion:
    """A completion of a label call with these probabilities (whole vocabulary); `_3` is label 3."""
    logs = {
        label.lstrip("_"): math.log(p) if p else -math.inf for label, p in probabilities.items()
    }
    return Completion("", "length", 10, 0, 1, logs)
