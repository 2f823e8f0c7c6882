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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from factory.core.errors import FactoryError
from factory.engines.base import Engine, Request
from factory.engines.endpoint import EndpointEngine
from factory.recipe.pipeline import Pipeline
from factory.stages.base import Judging, Stage
from factory.stages.models import ReadsJudges, request_of


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
    asked: Request | Judging


class Preflight:
    """Tries each kind of call that a pipeline's stages make, once."""

    def __init__(
        self, pipeline: Pipeline, engines: Mapping[str, Engine], judges: ReadsJudges
    ) -> None:
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
        trials = [
            _Trial(label, model, self._engines[model], asked)
            for label, stage in stages
            for model, asked in _asked_by(stage)
            if self._is_new(model, asked) and isinstance(self._engines[model], Checks)
        ]
        remote = [trial for trial in trials if isinstance(trial.engine, EndpointEngine)]
        ended = await asyncio.gather(*map(self._make, remote), return_exceptions=True)
        for failure in ended:
            if isinstance(failure, BaseException):
                raise failure
        for trial in trials:
            if trial not in remote:
                await self._make(trial)

    async def _make(self, trial: _Trial) -> None:
        for request in await self._requests(trial.asked):
            try:
                await trial.engine.check(request)
            except FactoryError as error:
                where = f"stage '{trial.stage}' asks the model '{trial.model}' {_kind(request)}"
                remedy = "; or set the stage's estimator: sampled" if request.labels else ""
                raise type(error)(f"{where}, which does not work: {error}{remedy}") from error

    async def _requests(self, asked: Request | Judging) -> list[Request]:
        """The calls to try; of a judge, once it is known how it is read."""
        if isinstance(asked, Request):
            return [asked]
        example = request_of(asked.question())
        read = await self._judges.reads(asked.model, asked.estimator, example)
        return [request_of(question) for question in asked.examples(read)]

    def _is_new(self, model: str, asked: object) -> bool:
        what = (id(self._engines[model]), repr(asked))
        is_new = what not in self._tried
        self._tried.add(what)
        return is_new


def _asked_by(stage: Stage) -> Iterator[tuple[str, Request | Judging]]:
    """Recipe name of a model, and the request or the questions to a judge that it gets."""
    for model, question in stage.examples():
        yield model, request_of(question)
    if (judging := stage.judging()) is not None:
        yield judging.model, judging


def _kind(request: Request) -> str:
    if request.scoring is not None:
        return "to score each step" if request.scoring.steps else "for a score"
    if request.labels:
        labels = ", ".join(request.labels)
        return f"for the log-probabilities of {labels} after the beginning of its answer"
    return "to continue the beginning of its answer" if request.prefix else "to write"
