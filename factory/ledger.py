"""The ledger: every model call remembered by its content.

A call's key is a hash of (engine fingerprint, messages, sampling, seed, prefix, labels, scoring);
its value is the completion. A run is then a pure function that is memoised: resuming, extending and
editing pay only for calls that were never made before.

SQLite in WAL mode with one writer thread that commits in groups, at most `COMMIT_EVERY` seconds
apart: what a `kill -9` can lose is what completed since the last commit. Look-ups see completions
that are not committed yet. Only one process at a time writes a ledger: the run's lock sees to it.
Whatever is wrong with a ledger, we never delete or replace it.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from factory.engines.base import Completion, Request
from factory.errors import LedgerError

FORMAT = 1
_APPLICATION_ID = 0x0FAC7024
COMMIT_EVERY = 0.05
"""Seconds between commits while there is anything to commit."""

_QUERY = 256  # keys asked for at once
_ROWS = 500  # rows written at once

_encode_key = msgspec.json.Encoder()
_encode = msgspec.msgpack.Encoder()
_decode = msgspec.msgpack.Decoder(Completion)


def call_key(fingerprint: str, request: Request) -> bytes:
    """16 bytes that name a call: all of the request but its priority."""
    content: tuple[object, ...] = (
        fingerprint,
        request.messages,
        request.sampling,
        request.seed,
        request.prefix,
        request.labels,
    )
    if request.scoring is not None:
        content += (request.scoring,)
    return hashlib.blake2b(_encode_key.encode(content), digest_size=16).digest()


class Ledger:
    """Opens or makes the ledger at `path`. Use as a context manager; closing commits the rest.

    Raises `LedgerError` if the file is no ledger, is of another format, is corrupt, or (from `get`,
    `put`, `flush`, `close`) if it cannot be written any more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: dict[bytes, Completion] = {}
        self._writing: dict[bytes, Completion] = {}
        self._failure: Exception | None = None
        self._wake = threading.Condition()
        self._is_closing = False
        self._is_stale = False
        try:
            self._reader = self._open()
            self._find = self._reader.cursor()
            self._find.execute("BEGIN")
        except sqlite3.Error as error:
            raise self._broken(error) from error
        self._thread = threading.Thread(target=self._write_groups, name="ledger", daemon=True)
        self._thread.start()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=30
        )
        is_new = connection.execute("PRAGMA page_count").fetchone()[0] == 0
        if not is_new:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if application != _APPLICATION_ID:
                raise LedgerError(
                    f"{self.path} is a SQLite file but not a ledger; it was left as it is. "
                    "Use another --out, or move the file away"
                )
            if version != FORMAT:
                raise LedgerError(
                    f"{self.path} has ledger format {version}, this version of factory reads "
                    f"format {FORMAT}; it was left as it is. Use another --out, or the version of "
                    "factory that wrote it"
                )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        if is_new:
            connection.executescript(
                f"BEGIN; PRAGMA application_id={_APPLICATION_ID}; PRAGMA user_version={FORMAT};"
                "CREATE TABLE IF NOT EXISTS calls (key BLOB PRIMARY KEY, completion BLOB NOT NULL)"
                " WITHOUT ROWID; COMMIT;"
            )
        connection.execute("SELECT key FROM calls LIMIT 1").fetchone()
        return connection

    def _broken(self, error: Exception) -> LedgerError:
        return LedgerError(
            f"the ledger {self.path} cannot be used ({error}); it was left as it is. If the disk "
            "is full, free some space and run again. If the file is damaged, move it away: the run "
            "then starts with an empty ledger"
        )

    def __len__(self) -> int:
        self.flush()
        try:
            self._see_commits()
            count: int = self._reader.execute("SELECT count(*) FROM calls").fetchone()[0]
        except sqlite3.Error as error:
            raise self._broken(error) from error
        return count

    def get(self, key: bytes) -> Completion | None:
        """The remembered completion of a call, or None."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Completion]:
        """The remembered completions among these calls, in one query."""
        found: dict[bytes, Completion] = {}
        missing = []
        for key in keys:
            # Pending before writing before the file: the order in which a completion moves.
            if held := self.just_put(key):
                found[key] = held
            else:
                missing.append(key)
        try:
            self._see_commits()
            for i in range(0, len(missing), _QUERY):
                part = missing[i : i + _QUERY]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, completion FROM calls WHERE key IN ({marks})"
                for key, completion in self._find.execute(query, part):
                    found[key] = _decode.decode(completion)
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise self._broken(error) from error
        return found

    def just_put(self, key: bytes) -> Completion | None:
        """The completion of a call that was put a moment ago: it may not be committed yet."""
        return self._pending.get(key) or self._writing.get(key)

    def _see_commits(self) -> None:
        """Look-ups share one read transaction, begun anew after each commit of ours: a transaction
        for every look-up would cost as much as the look-up."""
        if self._is_stale:
            self._is_stale = False
            self._find.execute("COMMIT")
            self._find.execute("BEGIN")

    def put(self, key: bytes, completion: Completion) -> None:
        """Remember a completion; it is on disk at the next group commit."""
        if self._failure:
            raise self._broken(self._failure) from self._failure
        with self._wake:
            self._pending[key] = completion
            if len(self._pending) == 1:
                self._wake.notify()

    def flush(self) -> None:
        """Return when all that was put is committed."""
        with self._wake:
            self._wake.notify()
            while (self._pending or self._writing) and not self._failure:
                self._wake.wait(COMMIT_EVERY)
        if self._failure:
            raise self._broken(self._failure) from self._failure

    def close(self) -> None:
        """Commit what is pending and close. May be called twice."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join()
        self._reader.close()
        if self._failure and self._pending:
            raise self._broken(self._failure) from self._failure

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_groups(self) -> None:
        connection: sqlite3.Connection | None = None
        try:
            connection = self._open()
            while True:
                with self._wake:
                    while not self._pending and not self._is_closing:
                        self._wake.wait()
                    if not self._is_closing:
                        self._wake.wait(COMMIT_EVERY)  # let a group gather
                    if not self._pending:
                        return
                    self._writing, self._pending = self._pending, {}
                values = [x for key, c in self._writing.items() for x in (key, _encode.encode(c))]
                connection.execute("BEGIN")
                # Many rows a statement: each statement gives up the interpreter's lock once, and
                # waits for it again while the event loop is busy.
                for i in range(0, len(values), 2 * _ROWS):
                    part = values[i : i + 2 * _ROWS]
                    rows = ",".join(["(?,?)"] * (len(part) // 2))
                    connection.execute(f"INSERT OR IGNORE INTO calls VALUES {rows}", part)
                connection.execute("COMMIT")
                with self._wake:
                    self._is_stale = True  # before the next line: a look-up misses neither
                    self._writing = {}
                    self._wake.notify_all()
        except Exception as error:  # handed to whoever next puts, flushes or closes
            with self._wake:
                self._failure = error
                self._pending = {**self._writing, **self._pending}
                self._wake.notify_all()
        finally:
            if connection:
                connection.close()
