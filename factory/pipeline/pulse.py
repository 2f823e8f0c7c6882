"""RUN/progress.json: what a run does at this moment, for who looks at it from outside.

The manifest counts whole parts; this says what the run's own terminal says, and is there from a run's
first second, before an engine, a ledger or a manifest is. It is written about once a second, by rename
and without a sync: nothing rests on it. A run that ends well takes it away; one that is stopped leaves
it, as of a second before.
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
    """What progress.json holds."""

    recipe: str
    doing: str
    """What is happening, in words, as `making samples: 40%, about 3 min left`."""
    lines: Sequence[str] = ()
    """More of it: a line for each stage."""
    began: float = 0.0
    """Unix time in seconds."""
    seen: float = 0.0
    """When this was written: Unix time in seconds."""


class Pulse:
    """Writes progress.json. What cannot be written is left out: a run does not fail of it."""

    def __init__(self, out: Path, recipe: str, doing: str = "starting") -> None:
        self._path = out / NAME
        self._began = time.time()
        self._recipe = recipe
        self._headline = ""
        self._last = 0.0
        self.beat(doing, doing)

    def beat(self, headline: str, doing: str, lines: Sequence[str] = ()) -> None:
        """Write, if a second has passed or something else is happening."""
        now = time.time()
        if headline == self._headline and now - self._last < _SECONDS_BETWEEN:
            return
        self._headline, self._last = headline, now
        told = Beat(self._recipe, doing, list(lines), self._began, now)
        half = self._path.with_name(f"{NAME}.half")
        with contextlib.suppress(OSError):
            half.write_bytes(msgspec.json.encode(told) + b"\n")
            half.replace(self._path)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def shown(out: Path, recipe: str, doing: str) -> Iterator[None]:
    """progress.json that says this, and goes if all ends well."""
    pulse = Pulse(out, recipe, doing)
    yield
    pulse.end()


def read(run: Path) -> Beat | None:
    """None: there is none, or it cannot be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError, msgspec.MsgspecError):
        return msgspec.json.decode((run / NAME).read_bytes(), type=Beat)
    return None
