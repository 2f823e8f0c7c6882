"""The models as a stage sees them: a `Question` becomes a `Request` with the draw and the priority of its
sample, and goes to whoever answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from factory.core.constitution import Constitution
from factory.core.records import Sample
from factory.core.seeds import derive_seed
from factory.engines.base import Request
from factory.stages.base import Asked, Estimator, Question, Reads

Before = Callable[[], Awaitable[None]]


class StageCount(msgspec.Struct):
    """What a stage asked for. Tokens are those of all its calls, made or remembered."""

    made: int = 0
    remembered: int = 0
    """Answered from the ledger, or by a call of the same content already in flight."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt tokens, those from the engine's prefix cache when the call was made."""
    output_tokens: int = 0
    seconds: float = 0.0
    """Waiting of all samples added up; samples wait at the same time."""
    answers: int = 0
    """Texts that models wrote: all calls but those that read labels or scores."""
    cut: int = 0
    """Of the answers, those cut at max_tokens."""
    reasoning_tokens: int = 0
    """Of the output tokens, those of thoughts."""

    @property
    def calls(self) -> int:
        return self.made + self.remembered

    def add(self, other: StageCount) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class ReadsJudges(Protocol):
    """Knows how models are read when they judge (`scorers.judging`)."""

    async def reads(
        self, model: str, estimator: Estimator, example: Request, before: Before | None = None
    ) -> Reads: ...


class Asks(Protocol):
    """Answers requests: a run from its ledger first, an online training by its engines alone."""

    @property
    def judges(self) -> ReadsJudges: ...

    async def answer(
        self,
        model: str,
        requests: Sequence[Request],
        count: StageCount,
        before: Before | None = None,
    ) -> list[Asked]:
        """Answer all requests, in their order."""
        ...


def request_of(
    question: Question, draw: int = 0, priority: int = 0, seed: int | None = None
) -> Request:
    return Request(
        messages=question.messages,
        sampling=question.sampling.changed,
        draw=draw,
        prefix=question.prefix,
        labels=question.labels,
        scoring=question.scoring,
        priority=priority,
        seed=seed,
    )


def is_sampled(question: Question) -> bool:
    """Asking again may be answered otherwise."""
    return bool(question.sampling.temperature) and not question.labels and not question.scoring


class SampleModels:
    """The recipe's models for one sample at one stage (`stages.base.Models`). `seed`: the recipe's; None:
    draws are the sample's alone. `count` adds up what the stage asks for; `before` is awaited before
    it makes a call; `is_reproducible`: draws seed the engine."""

    __slots__ = (
        *("_before", "_calls", "_is_reproducible", "_priority", "_salt"),
        *("constitution", "count"),
    )

    def __init__(
        self,
        calls: Asks,
        constitution: Constitution | None,
        sample: Sample,
        seed: int | None,
        count: StageCount,
        before: Before | None = None,
        *,
        is_reproducible: bool = False,
    ) -> None:
        self._calls = calls
        self._is_reproducible = is_reproducible
        self._before = before
        self.constitution = constitution
        self._salt = (sample.id,) if seed is None else (seed, sample.id)
        # Older samples first. Within a sample later stages come after earlier ones anyway, so a
        # conversation that has begun goes before one that has not, while its KV cache is hot.
        self._priority = sample.index
        self.count = count

    def seed(self, *salt: object) -> int:
        return derive_seed(*self._salt, *salt)

    async def ask(self, model: str, questions: Sequence[Question]) -> list[Asked]:
        requests = [self._request(question) for question in questions]
        asked = await self._calls.answer(model, requests, self.count, self._before)
        for request, answer in zip(requests, asked, strict=True):
            if not request.labels and request.scoring is None:
                self.count.answers += 1
                self.count.cut += answer.completion.finish_reason == "length"
        return asked

    async def reads(self, model: str, estimator: Estimator, example: Question) -> Reads:
        request = request_of(example)
        return await self._calls.judges.reads(model, estimator, request, self._before)

    def _request(self, question: Question) -> Request:
        if not is_sampled(question):
            return request_of(question, priority=self._priority)
        draw = self.seed(*question.salt)
        seed = draw if self._is_reproducible else None
        return request_of(question, draw, self._priority, seed)
