"""Preflight: one call of each kind before the work, which finds in seconds what a model cannot do.

Without it, a server that cannot continue an assistant's message, or gives no log-probabilities, would
be found when the judge's turn comes, after all generation. Preflight also finds how a judge is read
(`judging`) and tries its questions in that form.

Invariants:
- Nothing is tried until a call is not in the ledger, and then only for the stage that makes it and
  the stages after it. A run that is fully remembered needs no server.
- Calls of the preflight are not remembered and not counted.
- Only an error that every call of the kind would meet stops the run. A failure of one call does not.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from factory.core.errors import FactoryError
from factory.engines.base import Engine, Request
from factory.engines.endpoint import EndpointEngine
from factory.recipe.pipeline import Pipeline
from factory.scorers.judging import Judges
from factory.stages.base import Judging, Stage
from factory.stages.models import request_of


@runtime_checkable
class Checks(Protocol):
    """An engine that can be tried."""

    async def check(self, request: Request) -> None:
        """Raise `FactoryError` if the engine cannot answer any request of this kind."""
        ...


class _Trial(NamedTuple):
    stage: str
    model: str
    engine: Any
    requests: Callable[[], Awaitable[list[Request]]]

    async def __call__(self) -> None:
        for request in await self.requests():
            try:
                await self.engine.check(request)
            except FactoryError as error:
                raise self._said(error, request) from error

    def _said(self, error: FactoryError, request: Request) -> FactoryError:
        where = f"stage '{self.stage}' asks the model '{self.model}' {_kind(request)}"
        remedy = "; or set the stage's estimator: sampled" if request.labels else ""
        return type(error)(f"{where}, which does not work: {error}{remedy}")


class Preflight:
    """Tries each kind of call that a pipeline's stages make, once."""

    def __init__(self, pipeline: Pipeline, engines: Mapping[str, Engine], judges: Judges) -> None:
        self._stages = [*zip(pipeline.stage_labels(), pipeline.stages, strict=True)]
        self._engines = engines
        self._judges = judges
        self._tried_from = len(self._stages)  # the stages from here on have been tried
        self._tried: set[tuple[int, str]] = set()
        self._one_at_a_time = asyncio.Lock()
        self._failure: FactoryError | None = None

    async def before(self, position: int) -> None:
        """Await this before the stage at `position` makes a call. Raises `FactoryError`."""
        if position >= self._tried_from:
            return
        async with self._one_at_a_time:
            if self._failure is not None:
                raise self._failure
            if position < self._tried_from:
                try:
                    await self._try(self._stages[position : self._tried_from])
                except FactoryError as error:
                    self._failure = error
                    raise
                self._tried_from = position

    async def _try(self, stages: Sequence[tuple[str, Stage]]) -> None:
        """Try servers first, all at once; then engines of this process one by one, since each has to
        start. Raises the error that the first stage would meet."""
        trials = self._trials(stages)
        remote = [trial for trial in trials if isinstance(trial.engine, EndpointEngine)]
        ended = await asyncio.gather(*(trial() for trial in remote), return_exceptions=True)
        for failure in ended:
            if isinstance(failure, BaseException):
                raise failure
        for trial in trials:
            if trial not in remote:
                await trial()

    def _trials(self, stages: Sequence[tuple[str, Stage]]) -> list[_Trial]:
        trials = []
        for label, stage in stages:
            for model, question in stage.examples():
                request = request_of(question)
                if self._is_new(model, request):
                    trials.append(_Trial(label, model, self._engines[model], _this(request)))
            judging = stage.judging()
            if judging is not None and self._is_new(judging.model, judging):
                asked = functools.partial(self._of_judge, judging)
                trials.append(_Trial(label, judging.model, self._engines[judging.model], asked))
        return [trial for trial in trials if isinstance(trial.engine, Checks)]

    def _is_new(self, model: str, asked: object) -> bool:
        what = (id(self._engines[model]), repr(asked))
        is_new = what not in self._tried
        self._tried.add(what)
        return is_new

    async def _of_judge(self, judging: Judging) -> list[Request]:
        """The calls to try once it is known how the judge is read."""
        example = request_of(judging.question())
        read = await self._judges.reads(judging.model, judging.estimator, example)
        return [request_of(question) for question in judging.examples(read)]


def _this(request: Request) -> Callable[[], Awaitable[list[Request]]]:
    async def asked() -> list[Request]:
        return [request]

    return asked


def _kind(request: Request) -> str:
    if request.scoring is not None:
        return "to score each step" if request.scoring.steps else "for a score"
    if request.labels:
        labels = ", ".join(request.labels)
        return f"for the log-probabilities of {labels} after the beginning of its answer"
    return "to continue the beginning of its answer" if request.prefix else "to write"
