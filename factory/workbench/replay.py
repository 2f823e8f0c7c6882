"""A run's samples taken through a recipe again, answered from a ledger where it can be."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from factory.core.errors import TooManyFailures
from factory.core.records import Sample
from factory.engines.base import Engine
from factory.pipeline import traces as shards
from factory.pipeline.calls import Calls
from factory.pipeline.manifest import Manifest
from factory.pipeline.outcomes import outcomes, reason_of
from factory.pipeline.progress import Progress
from factory.recipe.recipe import Recipe
from factory.workbench.spool import Spool

_FAILURES_BEFORE_STOPPING = 20  # samples that must have ended before a rate means anything


class Cost(msgspec.Struct):
    """The calls of one side. All zero: the side is the run as it was made."""

    calls: dict[str, int] = {}
    """Stage -> calls made."""
    remembered: int = 0
    """Calls answered from a ledger, or by a call of the same content."""
    asked: int = 0
    """Samples for which a call was made."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    """Tokens of the calls made."""
    seconds: float = 0.0
    failed: dict[str, int] = {}
    """Reason -> samples that failed, most frequent first."""

    @property
    def made(self) -> int:
        return sum(self.calls.values())


class Replay(NamedTuple):
    samples: Callable[[], Iterator[Sample]]
    cost: Cost


async def replay(
    run: Path, manifest: Manifest, recipe: Recipe, calls: Calls, spool: Spool, progress: Progress
) -> Replay:
    """Take the run's samples through the recipe. If that is what the run was made with, its traces are
    the result.

    Raises `TooManyFailures` by the recipe's `max_failure_rate`.
    """
    fingerprints = {name: calls.engines[name].fingerprint for name in recipe.models}
    if recipe.digest(fingerprints) == manifest.digest:
        return Replay(functools.partial(shards.read_samples, run), Cost())
    began = time.monotonic()
    made, failed = Counter[str](), Counter[str]()
    remembered = asked = ended = 0
    engines = set(calls.engines.values())
    tokens = _tokens(engines)
    with progress.following(
        "asking again", recipe, calls.engines, rows=manifest.samples
    ) as forecast:
        rows = map(_bare, shards.read_samples(run))
        async with contextlib.aclosing(outcomes(recipe, rows, calls, forecast)) as results:
            async for outcome in results:
                counts = outcome.counts
                made.update({stage: count.made for stage, count in counts.items() if count.made})
                remembered += sum(count.remembered for count in counts.values())
                asked += any(count.made for count in counts.values())
                ended += 1
                if isinstance(outcome.result, Sample):
                    spool.add(outcome.result)
                    continue
                failed[reason_of(outcome.result)] += 1
                _refuse_failing(failed, ended, recipe.max_failure_rate)
    calls.commit()
    prompt, output = (now - then for now, then in zip(_tokens(engines), tokens, strict=True))
    seconds = time.monotonic() - began
    cost = Cost(dict(made), remembered, asked, prompt, output, seconds, dict(failed.most_common()))
    return Replay(spool.samples, cost)


def _bare(sample: Sample) -> Sample:
    """The sample before the first stage."""
    return Sample(
        id=sample.id,
        index=sample.index,
        prompt=sample.prompt,
        tags=sample.tags,
        reference=sample.reference,
        extra=sample.extra,
    )


def _tokens(engines: Iterable[Engine]) -> tuple[int, int]:
    """Prompt and output tokens of all calls so far."""
    stats = [engine.stats() for engine in engines]
    return sum(s.prompt_tokens for s in stats), sum(s.output_tokens for s in stats)


def _refuse_failing(failed: Counter[str], ended: int, most: float) -> None:
    if ended >= _FAILURES_BEFORE_STOPPING and failed.total() > most * ended:
        reasons = "".join(f"\n  {n} x {reason}" for reason, n in failed.most_common(3))
        raise TooManyFailures(
            f"{failed.total()} of {ended} samples failed, more than the recipe's max_failure_rate "
            f"({most:g}) allows; the most frequent reasons:{reasons}\nfix the cause and repeat the "
            "command: finished calls are remembered"
        )
