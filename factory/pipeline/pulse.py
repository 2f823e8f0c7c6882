"""RUN/progress.json: the current state of a run, for other processes to read.

It says what the run's terminal shows, from the first second on, before there is an engine, a ledger or
a manifest. It is written about once a second, by rename and without a sync, since nothing depends on
it. A run that succeeds removes it. A run that is stopped leaves it, at most about a second old.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

NAME = "progress.json"
_SECONDS_BETWEEN = 1.0


class Beat(msgspec.Struct):
    """The contents of progress.json."""

    recipe: str
    doing: str
    """The current step, in words: `making samples: 40%, about 3 min left`."""
    lines: Sequence[str] = ()
    """Details: one line per stage."""
    began: float = 0.0
    """Start of the run: Unix time in seconds."""
    seen: float = 0.0
    """Time of writing: Unix time in seconds."""


class Pulse:
    """Writes progress.json. Ignores write errors: a run does not fail because of them."""

    def __init__(self, out: Path, recipe: str, doing: str) -> None:
        self._path = out / NAME
        self._began = time.time()
        self._recipe = recipe
        self._headline = ""
        self._last = 0.0
        self.beat(doing, doing)

    def beat(self, headline: str, doing: str, lines: Sequence[str] = ()) -> None:
        """Write if a second has passed or the step has changed."""
        now = time.time()
        if headline == self._headline and now - self._last < _SECONDS_BETWEEN:
            return
        self._headline, self._last = headline, now
        told = Beat(self._recipe, doing, list(lines), self._began, now)
        half = self._path.with_name(f"{NAME}.half")
        with contextlib.suppress(OSError):
            half.write_bytes(msgspec.json.encode(told) + b"\n")
            half.replace(self._path)


@contextlib.contextmanager
def shown(out: Path, recipe: str, doing: str = "starting") -> Iterator[Pulse]:
    """Show this text in progress.json during the block; remove the file if the block succeeds."""
    pulse = Pulse(out, recipe, doing)
    yield pulse
    with contextlib.suppress(OSError):
        (out / NAME).unlink(missing_ok=True)


def read(run: Path) -> Beat | None:
    """The last state of a run. None: there is none, or it cannot be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError, msgspec.MsgspecError):
        return msgspec.json.decode((run / NAME).read_bytes(), type=Beat)
    return None
