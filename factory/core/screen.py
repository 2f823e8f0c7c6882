"""Progress on stderr: the current step and its duration.

On a terminal, a few lines are rewritten in place twice a second. Elsewhere plain lines are printed: one
once a step has taken a second, then one every ten seconds. Lines that stay are `note`s. A thread of its
own prints them, so that they continue while a model loads or the event loop is busy.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from factory.core.terminal import printable

SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BEFORE_A_LINE = 1.0  # shorter steps are not shown
_PERIOD = 0.5


class View(NamedTuple):
    """The text shown for the current step."""

    headline: str
    """The step: `loading smollm2-135m-instruct`. A new headline means a new step."""
    facts: str = ""
    """Text after the headline and the duration, on the same line."""
    lines: Sequence[str] = ()
    """Further lines, on a terminal only."""


Show = Callable[[], View]
Mirror = Callable[[str, str, Sequence[str]], None]
"""A function that receives what is shown: headline, the whole line, further lines."""


class Screen:
    """Shows the current step. `clock`: a monotonic clock, in seconds."""

    def __init__(
        self,
        *,
        is_quiet: bool = False,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_quiet = is_quiet
        self._console = Console(
            file=stream or _standard_error(), quiet=is_quiet, highlight=False, force_jupyter=False
        )
        self.clock = clock
        self._stack: list[str | Show] = []
        self._mirrors: list[Mirror] = []
        self._live: Live | None = None
        self._spinner = Spinner("dots")
        self._thread: threading.Thread | None = None
        self._headline = ""
        self._since = self._due = 0.0

    def note(self, text: str) -> None:
        """Print lines that stay."""
        self._console.print(printable(text), markup=False, soft_wrap=True)
        self._due = self.clock() + SECONDS_BETWEEN_LINES

    @contextlib.contextmanager
    def doing(self, what: str | Show) -> Iterator[None]:
        """Show this step until the block ends, then the step shown before."""
        self._stack.append(what)
        try:
            with self._shown():
                yield
        finally:
            self._stack.pop()

    def now(self, what: str | Show) -> None:
        """Replace the step shown by the current `doing` block."""
        if self._stack:
            self._stack[-1] = what

    @contextlib.contextmanager
    def telling(self, mirror: Mirror) -> Iterator[None]:
        """Pass everything shown to `mirror` too, unless the screen is quiet."""
        self._mirrors.append(mirror)
        try:
            yield
        finally:
            self._mirrors.remove(mirror)

    def draw(self) -> None:
        """Show the current step. The thread calls this."""
        try:
            what = self._stack[-1]
        except IndexError:
            return  # the step has just ended
        view = View(what) if isinstance(what, str) else what()
        now = self.clock()
        if view.headline != self._headline:
            self._headline, self._since = view.headline, now
            self._due = now + _SECONDS_BEFORE_A_LINE
        seconds = now - self._since
        lasted = f", {duration(seconds)}" if seconds >= 2 else ""
        facts = f": {view.facts}" if view.facts else ""
        line = printable(f"{view.headline}{lasted}{facts}")
        for mirror in self._mirrors:
            mirror(view.headline, line, view.lines)
        if self._live is not None:
            self._spinner.text = Text(line)
            lines = [
                Text(printable(each), overflow="ellipsis", no_wrap=True) for each in view.lines
            ]
            self._live.update(Group(self._spinner, *lines), refresh=True)
        elif now >= self._due:
            self._due = now + SECONDS_BETWEEN_LINES
            self._console.print(f"  {line}", markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def _shown(self) -> Iterator[None]:
        """Run the drawing thread during the block, unless it runs already."""
        if self._thread is not None or self.is_quiet:
            yield
            return
        over = threading.Event()

        def draw_on() -> None:
            while not over.wait(_PERIOD):
                self.draw()

        self._headline = ""
        self._thread = threading.Thread(target=draw_on, name="screen", daemon=True)
        with contextlib.ExitStack() as live:
            if self._console.is_terminal:
                self._live = Live(
                    console=self._console,
                    auto_refresh=False,
                    transient=True,
                    redirect_stdout=sys.stdout.isatty(),
                )
                live.enter_context(self._live)
            self.draw()
            self._thread.start()
            try:
                yield
            finally:
                over.set()
                self._thread.join()
                self._thread = None
        self._live = None


def _standard_error() -> IO[str]:
    """A copy of stderr, since the real one is redirected to a log while an engine starts. If a program
    has replaced `sys.stderr`, the replacement."""
    if sys.stderr is None:  # closed
        return open(os.devnull, "w", encoding="utf-8")
    if sys.stderr is not sys.__stderr__:
        return sys.stderr
    encoding = sys.stderr.encoding  # type: ignore[union-attr]
    return os.fdopen(os.dup(2), "w", buffering=1, encoding=encoding, errors="replace")


def duration(seconds: float) -> str:
    """`8 s`, `1 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def roughly(seconds: float) -> str:
    """An estimated time, rounded: `about 40 s`, `about 3 min`, `about 2 h 10 min`."""
    if seconds < 90:
        return f"about {max(5, 5 * round(seconds / 5))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min"
    return f"about {minutes // 60} h {minutes % 60 // 10 * 10} min"
