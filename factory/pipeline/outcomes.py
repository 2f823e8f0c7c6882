"""Outcomes of source rows: each row is taken through all stages, many at once.

A sample that fails is data: its outcome is a `Failure`, a line of the quarantine.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import time
import traceback
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

import msgspec

from factory.core.errors import FactoryError, SampleError
from factory.core.records import BadRow, Failure, Sample
from factory.pipeline import traces as shards
from factory.pipeline.calls import Calls
from factory.pipeline.forecast import Forecast
from factory.pipeline.preflight import Preflight
from factory.pipeline.window import in_order
from factory.recipe.pipeline import Pipeline
from factory.stages.models import SampleModels, StageCount


class Outcome(msgspec.Struct):
    """The result of one source row."""

    result: Sample | Failure
    counts: dict[str, StageCount] = {}


async def outcomes(
    pipeline: Pipeline,
    rows: Iterable[Sample | BadRow],
    calls: Calls,
    forecast: Forecast | None = None,
) -> AsyncGenerator[Outcome]:
    """Take each row through all stages, many at once. Yields outcomes in order, and tells `forecast`."""
    labels = pipeline.stage_labels()
    has_own_stage = any(":" in stage.kind for stage in pipeline.stages)
    preflight = Preflight(pipeline, calls.engines, calls.judges)

    async def told(row: Sample | BadRow) -> Outcome:
        if forecast is None:
            return await go_through(row, {})
        counts = forecast.begin()
        outcome = await go_through(row, counts)
        forecast.end(counts, failed=isinstance(outcome.result, Failure))
        return outcome

    async def go_through(row: Sample | BadRow, counts: dict[str, StageCount]) -> Outcome:
        if isinstance(row, BadRow):
            return Outcome(
                Failure(row.index, row.line, None, "source", row.error, row.raw, is_permanent=True)
            )
        sample = row
        for position, (label, stage) in enumerate(zip(labels, pipeline.stages, strict=True)):
            count = counts[label] = StageCount()
            before = functools.partial(preflight.before, position)
            models = SampleModels(
                *(calls, pipeline.constitution, sample, pipeline.seed, count, before),
                is_reproducible=pipeline.reproducible,
            )
            began = time.monotonic()
            try:
                sample = await stage(sample, models)
            except SampleError as error:
                return Outcome(
                    _failure(row, label, str(error), error.raw, error.is_permanent), counts
                )
            except (FactoryError, asyncio.CancelledError):
                raise
            except Exception as error:  # a user's stage may raise anything: this sample fails
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(where.filename).name}:{where.lineno}"
                text = f"{type(error).__name__}: {error} ({place})"
                return Outcome(_failure(row, label, text, "", is_permanent=False), counts)
            count.seconds = time.monotonic() - began
        if has_own_stage:  # the built-in stages make only records that a trace can hold
            try:
                shards.check_storable(sample)
            except SampleError as error:
                return Outcome(_failure(row, labels[-1], str(error), "", False), counts)
        return Outcome(sample, counts)

    async with contextlib.aclosing(in_order(rows, told)) as ended:
        async for outcome in ended:
            yield outcome


def _failure(sample: Sample, stage: str, error: str, raw: str, is_permanent: bool) -> Failure:
    raw = (raw or sample.prompt[-1]["content"])[:2000]
    error, raw = (text.encode("utf-8", "replace").decode() for text in (error, raw))
    return Failure(sample.index, None, sample.id, stage, error, raw, is_permanent)


# Numbers that identify an error: an HTTP status, an errno, an exit code.
_CODES = re.compile(
    r"((?i:\b(?:HTTP(?:/[\d.]+)?|status|code|errno|signal)(?: code)?)\W{0,2}\d+)"
    r"|(?<![:\w])\d+"
)


def reason_of(failure: Failure) -> str:
    """The reason to count a failure by: the error's text without numbers, but for those that identify it."""
    text = f"{failure.stage}: {failure.error}"
    return _CODES.sub(lambda match: match[1] or "#", text)[:300]
