"""What a run shows while it goes: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from factory.engines.base import Engine
from factory.records import Failure, Sample
from factory.runner.manifest import Manifest
from factory.terminal import printable

_SECONDS_BETWEEN_LINES = 10.0
_FIRST_CALL = "the engine starts at the first call that the ledger does not know"
_SAMPLES_BEFORE_GUESSING = 0.1  # share of the source; the first samples end late and together


class Progress:
    """Shows samples done, tokens a second, cache share, quarantined and time left, on stderr."""

    def __init__(self, *, is_quiet: bool = False) -> None:
        # A copy of stderr: while an engine starts, the real one is turned to its log.
        self._console = Console(
            file=os.fdopen(os.dup(2), "w", buffering=1), quiet=is_quiet, highlight=False
        )
        self._bar: Bar | None = None
        self._engines: list[Engine] = []
        self._began = self._said = time.monotonic()
        self._done = self._before = self._quarantined = 0
        self._total: int | None = None

    def note(self, text: str) -> None:
        """One line that stays."""
        self._console.print(printable(text), markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def shown(
        self, total: int | None, manifest: Manifest, engines: Mapping[str, Engine]
    ) -> Iterator[None]:
        """Show the progress of one run; `total` rows, those in the manifest done before."""
        self._engines = list(set(engines.values()))
        self._began = self._said = time.monotonic()
        self._done = self._before = manifest.rows
        self._quarantined = manifest.quarantined
        self._total = total
        if self._before:
            self.note(f"going on after {self._before} samples that are done")
        if not self._console.is_terminal:
            self.note(f"{total if total is not None else 'streaming'} prompts; {_FIRST_CALL}")
            yield
            return
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("samples"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rates(self),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        with self._bar:
            self._bar.add_task("samples", total=total, completed=self._done)
            yield
        self._bar = None

    def advance(self, result: Sample | Failure) -> None:
        """One more row has ended."""
        self._done += 1
        self._quarantined += isinstance(result, Failure)
        if self._bar:
            self._bar.advance(self._bar.task_ids[0])
        elif time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            of = f"/{self._total}" if self._total else ""
            self.note(f"  {self._done}{of} samples   {self.rates()}{self._left()}")

    def rates(self) -> str:
        """Tokens a second, share of prompt tokens from the cache, quarantined."""
        stats = [engine.stats() for engine in self._engines]
        calls = sum(s.calls for s in stats)
        if not calls and self._done == self._before:
            return "starting the engine"
        seconds = max(time.monotonic() - self._began, 1e-9)
        output = sum(s.output_tokens for s in stats)
        prompt = sum(s.prompt_tokens for s in stats)
        cached = sum(s.cached_tokens for s in stats)
        parts = [f"{calls} calls", f"{output / seconds:.0f} tokens/s"]
        if prompt:
            parts.append(f"{cached / prompt:.0%} of prompt cached")
        if self._quarantined:
            parts.append(f"{self._quarantined} quarantined")
        return "   ".join(parts)

    def _left(self) -> str:
        done = self._done - self._before
        if not self._total or done <= _SAMPLES_BEFORE_GUESSING * self._total:
            return ""
        seconds = (time.monotonic() - self._began) / done * (self._total - self._done)
        return (
            f"   about {seconds / 60:.0f} min left"
            if seconds > 90
            else f"   about {seconds:.0f} s left"
        )


class _Rates(ProgressColumn):
    """The numbers beside the bar, read when the bar is drawn."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def render(self, task: Task) -> Text:
        return Text(self._progress.rates())
