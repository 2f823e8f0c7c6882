"""Rows taken through scoring stages outside a run: what `factory score` and `factory eval` share.

Rows of a dataset go in as samples that have their answers; each comes out as a `Result`, in the
rows' order. Calls are remembered in a ledger, as in a run; memory is flat.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import IO, Any

import msgspec

from factory.core.records import BadRow, Failure, Sample
from factory.engines.base import Engine
from factory.evaluation.rows import Rows
from factory.pipeline.calls import Calls
from factory.pipeline.ledger import Ledger
from factory.pipeline.outcomes import outcomes
from factory.pipeline.progress import Progress
from factory.recipe.pipeline import Pipeline
from factory.scorers.combine import Measured, measure, with_combined


class Result(msgspec.Struct):
    """What became of one row: the sample, or why there is none."""

    sample: Sample | None = None
    failure: Failure | None = None


class Results:
    """The outcome of each row, in order, in a temporary file beside the ledger: combining scores
    takes all of them first, and memory is to stay flat."""

    def __init__(self, rows: Rows, pipeline: Pipeline, folder: Path) -> None:
        self._rows = rows
        self._pipeline = pipeline
        self._folder = folder
        self._file: IO[bytes]
        self._measured: list[Measured] = []

    def __enter__(self) -> Results:
        self._file = tempfile.TemporaryFile(dir=self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    async def fill(
        self, samples: Iterable[Sample | BadRow], engines: Mapping[str, Engine], progress: Progress
    ) -> int:
        """Take the samples through the pipeline's stages. Returns the calls made, not remembered."""
        made = 0
        samples = iter(samples)
        first = next(samples, None)  # the others have about as many answers
        answers = len(first.candidates) if isinstance(first, Sample) else 1
        samples = chain([] if first is None else [first], samples)
        with Ledger(self._folder / "ledger.sqlite") as ledger:
            calls = Calls(ledger, engines)
            with progress.following(
                "scoring", self._pipeline, engines, rows=self._rows.count, answers=answers
            ) as forecast:
                work = outcomes(self._pipeline, samples, calls, forecast)
                async with contextlib.aclosing(work) as ended:
                    async for outcome in ended:
                        result = outcome.result
                        is_sample = isinstance(result, Sample)
                        kept = {"sample" if is_sample else "failure": result}
                        self._file.write(msgspec.json.encode(kept) + b"\n")
                        made += sum(count.made for count in outcome.counts.values())
        combinations = self._pipeline.combinations()
        self._measured = measure(combinations, (r.sample for r in self._read() if r.sample))
        return made

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Result]]:
        """(row, result), combined scores included."""
        for row, result in zip(self._rows.read(), self._read(), strict=True):
            if result.sample is not None:
                result.sample = with_combined(result.sample, self._measured)
            yield row, result

    def _read(self) -> Iterator[Result]:
        self._file.seek(0)
        decoder = msgspec.json.Decoder(Result)
        for line in self._file:
            yield decoder.decode(line)
