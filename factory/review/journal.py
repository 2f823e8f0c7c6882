"""One reviewer's decisions file, open for writing by one process.

A decision counts once `append` returns: its line is on disk. What a kill or a full disk leaves of a
line is cut off before the next one, so that no line ever joins two.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from factory.core.errors import FactoryError, RecipeError
from factory.core.files import sync
from factory.core.lock import Held, alone_in
from factory.export.decisions import Decision, line_of, lines_in, parse, path_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of reviewers, each the name of a folder too."""


class Journal:
    """`decisions`: all whole lines, in order."""

    def __init__(self, path: Path, descriptor: int, held: Held) -> None:
        self.path = path
        self._descriptor = descriptor
        self._held = held
        content = path.read_bytes()
        lines, self._end = lines_in(content)
        self.decisions = [
            parse(line, path, number) for number, line in enumerate(lines, 1) if line.strip()
        ]
        self._lacks_newline = content[: self._end][-1:] not in (b"", b"\n")

    def append(self, decisions: Sequence[Decision]) -> None:
        """Write them durably, all or none. Raises `OSError` if the disk refuses, and `FactoryError` if
        the file was deleted meanwhile."""
        content = b"".join(map(line_of, decisions))
        if self._lacks_newline:
            content = b"\n" + content
        self._held.check()
        if not self.path.exists():
            raise FactoryError(f"{self.path} was deleted meanwhile; start the review again")
        try:
            os.ftruncate(self._descriptor, self._end)
            done = 0
            while done < len(content):
                done += os.pwrite(self._descriptor, content[done:], self._end + done)
            os.fsync(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):  # else the next append does it
                os.ftruncate(self._descriptor, self._end)
            raise
        self._end += len(content)
        self._lacks_newline = False
        self.decisions += decisions


@contextlib.contextmanager
def opened(run: Path, reviewer: str) -> Iterator[Journal]:
    """The reviewer's journal of a run. Raises `FactoryError` if another process has it open."""
    path = path_of(run, reviewer)
    with alone_in(path.parent, "use another --reviewer") as held:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            for folder in (path.parent, path.parent.parent, run):
                sync(folder)
            yield Journal(path, descriptor, held)
        finally:
            os.close(descriptor)


def reviewer_name(given: str | None) -> str:
    """The name given, else the login name. Raises `RecipeError` if it can be no folder's name."""
    try:
        name = given if given is not None else getpass.getuser()
    except (OSError, KeyError):
        name = ""
    if not NAME.fullmatch(name):
        raise RecipeError(
            f"--reviewer {name!r}: expected letters, digits, dots, hyphens and underscores, at most 64, "
            "as anna"
        )
    return name


def now() -> str:
    """The time for `Decision.at`."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
