"""The current state of a run, printed by `factory status`. Takes no lock, writes nothing."""

from __future__ import annotations

import time
from pathlib import Path

from factory.cli.endings import command
from factory.core.screen import duration
from factory.core.terminal import printable
from factory.pipeline import folder
from factory.pipeline.pulse import Beat

_SILENT = 30.0  # seconds without an update of progress.json after which status says so


def print_beginning(run: Path, beat: Beat, *, is_going: bool) -> None:
    """Print the state of a run in its first part. Its manifest, if there is one yet, counts nothing."""
    print(f"\n{run}: {'running' if is_going else 'stopped'}; no samples are saved yet")
    print_beat(run, beat, is_going=is_going)
    if not is_going:
        again = command("run", beat.recipe, "--out", run)
        print(f"\n  stopped before its end; to continue: {again}")


def print_beat(run: Path, beat: Beat, *, is_going: bool) -> None:
    """Print what the run is doing, or was doing when it was stopped, and the ledger's count of calls."""
    last = time.time() if is_going else beat.seen
    when = "now" if is_going else "when it was stopped"
    print(f"\n  {when}, {duration(max(0.0, last - beat.began))} after it began:")
    print(printable(f"    {beat.doing}"))
    for line in beat.lines:
        print(printable(f"    {line}"))
    path = folder.ledger_of(run)
    if (held := folder.calls_in(path)) is not None:
        print(f"    {held:,} calls remembered in {path}")
    if is_going and (silent := time.time() - beat.seen) > _SILENT:
        print(f"    no progress was reported for {duration(silent)}")
