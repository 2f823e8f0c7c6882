"""The ledger: every model call remembered by its content.

A call's key is a hash of (engine fingerprint, messages, sampling, draw, prefix, labels, scoring);
its value is the completion. A run is thus a memoized pure function: resuming, extending and editing
pay only for new calls.

SQLite in WAL mode with one writer thread that commits in groups, at most `COMMIT_EVERY` seconds
apart. A `kill -9` loses only completions since the last commit. Look-ups see completions that are
not committed yet. Several processes may share a ledger: SQLite lets them write in turn. A call that
two of them make at the same moment is paid for twice, and the first answer is kept.

Invariants:
- A ledger that holds anything is never deleted or replaced, whatever is wrong with it. The call of
  a row that cannot be decoded is made again, and the row is then replaced.
- The write-ahead log stays under 64 MiB, unless another program keeps reading the ledger.
- On file systems without shared memory (some network file systems) a rollback journal replaces the
  log: as safe, but slower.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from factory.core.errors import LedgerError
from factory.core.files import sync
from factory.core.lock import in_turn
from factory.engines.base import Completion

FORMAT = 1
_APPLICATION_ID = 0x0FAC7024
COMMIT_EVERY = 0.05
"""Seconds between commits while there is anything to commit."""

_QUERY = 256  # keys asked for at once
_ROWS = 500  # rows written at once
_PAGE = 4096  # bytes
_BLOCK = 1 << 20  # bytes
# A log longer than this is written back and emptied; one transaction adds about a third of it.
_LOG_BYTES = 24 << 20
_TRANSACTION_BYTES = 8 << 20
_TIMEOUT = 30.0  # seconds to wait for another process's lock
_TABLE = "CREATE TABLE calls (key BLOB PRIMARY KEY, completion BLOB NOT NULL) WITHOUT ROWID"
COUNT = "SELECT count(*) FROM calls"
# How SQLite fails where it cannot share memory between processes, as its log needs.
_NO_LOG = {
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_READONLY),
}

_encode = msgspec.msgpack.Encoder()
_decode = msgspec.msgpack.Decoder(Completion)

log = logging.getLogger(__name__)


class Ledger:
    """The ledger at `path`, made if it does not exist. A context manager; closing commits the rest.

    Raises `LedgerError` if the file is no ledger, is of another format, is corrupt, or (from `get`,
    `put`, `flush`, `close`) if it cannot be written any more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: dict[bytes, bytes] = {}
        self._writing: dict[bytes, bytes] = {}
        self._undecodable: set[bytes] = set()
        self._failure: Exception | None = None
        self._groups = 0  # committed
        self._wake = threading.Condition()
        self._is_closing = False
        self._is_stale = False
        self._reading = threading.Lock()  # guards the reader's connection
        self._log = path.with_name(path.name + "-wal")
        self._log_limit = _LOG_BYTES
        try:
            with in_turn(path.parent):
                self._begin_if_blank()
                self._has_log = self._make()
                self._reader = self._open()
            self._find = self._reader.cursor()
        except (sqlite3.Error, OSError) as error:
            raise self._broken(error) from error
        self._thread = threading.Thread(target=self._write_groups, name="ledger", daemon=True)
        self._thread.start()

    # -- opening -------------------------------------------------------------------------------

    def _begin_if_blank(self) -> None:
        """Empty a file that holds only zero bytes. A power cut while a ledger is made may leave one,
        and SQLite refuses it. Does nothing if a log beside it still holds anything."""
        beside = (self._log, self.path.with_name(self.path.name + "-journal"))
        if not self.path.is_file() or not _size(self.path) or any(map(_size, beside)):
            return
        with self.path.open("rb") as file:
            if any(any(block) for block in iter(lambda: file.read(_BLOCK), b"")):
                return
        log.warning("%s held only zero bytes; the ledger starts empty", self.path)
        with self.path.open("r+b") as file:
            file.truncate(0)

    def _make(self) -> bool:
        """Make the ledger if there is no file or an empty one. True: it has a write-ahead log."""
        try:
            answer = self._make_with("NORMAL", "WAL")
            if answer == "wal":
                return True
        except sqlite3.OperationalError as error:  # no shared memory
            if error.sqlite_errorcode & 0xFF not in _NO_LOG:
                raise
            answer = str(error)
        # Without shared memory, only an exclusive connection can open a file that has a log.
        self._make_with("EXCLUSIVE", "TRUNCATE")
        log.warning(
            "%s: SQLite cannot keep a write-ahead log on this file system (%s) and uses a rollback "
            "journal, which is as safe but slower; an --out on a local disk is faster",
            self.path,
            answer,
        )
        return False

    def _make_with(self, locking: str, journal: str) -> str:
        """Make the table, and return the journal mode that SQLite reports."""
        with contextlib.closing(self._connect()) as connection:
            connection.execute(f"PRAGMA locking_mode={locking}").fetchone()
            self._refuse_other_file(connection)
            answer: str = connection.execute(f"PRAGMA journal_mode={journal}").fetchone()[0]
            connection.execute("BEGIN IMMEDIATE")  # fail now, not at the first call
            if not _find_table(connection):
                connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version={FORMAT}")
                connection.execute(_TABLE)
            connection.execute("COMMIT")
            return answer

    def _refuse_other_file(self, connection: sqlite3.Connection) -> None:
        """Raise `LedgerError` if the file is not a ledger of this format. An empty file is accepted:
        a kill or a full disk leaves one while a ledger is made."""
        application, version = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        if (application, version) == (0, 0) and not _find_table(connection):
            return
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

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=_TIMEOUT
        )

    def _open(self) -> sqlite3.Connection:
        connection = self._connect()
        if self._has_log:
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint=0")  # `_shorten_log` sees to it
        else:
            connection.execute("PRAGMA journal_mode=TRUNCATE")
            connection.execute("PRAGMA synchronous=FULL")
        connection.execute("SELECT key FROM calls LIMIT 1").fetchone()
        return connection

    def _broken(self, error: Exception) -> LedgerError:
        return LedgerError(
            f"the ledger {self.path} cannot be used ({error}); it was left as it is. If the disk "
            "is full, free some space and run again. If the file is damaged, move it away: the run "
            "then starts with an empty ledger"
        )

    # -- looking up ----------------------------------------------------------------------------

    def __len__(self) -> int:
        self.flush()
        try:
            with self._reading:
                self._see_commits()
                return int(self._reader.execute(COUNT).fetchone()[0])
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def get(self, key: bytes) -> Completion | None:
        """The remembered completion of a call, or None."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Completion]:
        """The remembered completions among these calls, in one query."""
        found: dict[bytes, Completion] = {}
        missing = []
        for key in keys:
            # In this order, as a completion moves from pending to writing to the file.
            if held := self.just_put(key):
                found[key] = held
            else:
                missing.append(key)
        try:
            with self._reading:
                self._see_commits()
                for i in range(0, len(missing), _QUERY):
                    part = missing[i : i + _QUERY]
                    marks = ",".join("?" * len(part))
                    query = f"SELECT key, completion FROM calls WHERE key IN ({marks})"
                    for key, encoded in self._find.execute(query, part):
                        try:
                            found[key] = _decode.decode(encoded)
                        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
                            self._undecodable.add(key)
        except sqlite3.Error as error:
            raise self._broken(error) from error
        return found

    def just_put(self, key: bytes) -> Completion | None:
        """The completion of a call that was put and may not be committed yet; else None."""
        encoded = self._pending.get(key) or self._writing.get(key)
        return _decode.decode(encoded) if encoded else None

    def _see_commits(self) -> None:
        """Begin a new read transaction if we have committed since the last one. Look-ups share it,
        since one transaction per look-up would double the cost. Without a log an open one would block
        all commits, so there each look-up has its own."""
        if self._is_stale:
            self._is_stale = False
            self._end_reading()
        if self._has_log and not self._reader.in_transaction:
            self._find.execute("BEGIN")

    def _end_reading(self) -> None:
        if self._reader.in_transaction:
            self._find.execute("COMMIT")

    # -- writing -------------------------------------------------------------------------------

    def put(self, key: bytes, completion: Completion) -> None:
        """Remember a completion; it is on disk at the next group commit.

        Raises `MsgspecError`, `TypeError` or `ValueError`, and keeps nothing, if it cannot be read back.
        """
        if self._failure:
            raise self._broken(self._failure) from self._failure
        encoded = _encode.encode(completion)
        _decode.decode(encoded)
        with self._wake:
            self._pending[key] = encoded
            if len(self._pending) == 1:
                self._wake.notify()

    def flush(self) -> None:
        """Return when everything put before this call is on disk."""
        with self._wake:
            last = self._groups + bool(self._writing) + bool(self._pending)
            self._wake.notify()
            while self._groups < last and not self._failure:
                self._wake.wait(COMMIT_EVERY)
        if self._failure:
            raise self._broken(self._failure) from self._failure
        # A commit alone survives a kill, but not a power cut. Sync only the log: closing a second
        # handle of the database file would release SQLite's locks on it.
        try:
            sync(self._log)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._broken(error) from error

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
                for rows in _transactions(self._writing):
                    self._write(connection, rows)
                    self._shorten_log(connection)
                with self._wake:
                    self._is_stale = True  # before the next line, so that no look-up misses a row
                    self._writing = {}
                    self._groups += 1
                    self._wake.notify_all()
        except Exception as error:  # raised by the next put, flush or close
            with self._wake:
                self._failure = error
                self._pending = {**self._writing, **self._pending}
                self._wake.notify_all()
        finally:
            if connection:
                connection.close()

    def _write(self, connection: sqlite3.Connection, rows: Sequence[tuple[bytes, bytes]]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        replaced = [(key,) for key, _ in rows if key in self._undecodable]
        connection.executemany("DELETE FROM calls WHERE key = ?", replaced)
        # Many rows per statement: each statement releases the GIL once, and has to wait for it
        # while the event loop is busy.
        for i in range(0, len(rows), _ROWS):
            values = [x for row in rows[i : i + _ROWS] for x in row]
            marks = ",".join(["(?,?)"] * (len(values) // 2))
            connection.execute(f"INSERT OR IGNORE INTO calls VALUES {marks}", values)
        connection.execute("COMMIT")
        self._undecodable.difference_update(key for (key,) in replaced)

    def _shorten_log(self, connection: sqlite3.Connection) -> None:
        """Empty a log that has become long. SQLite does so itself only while nobody reads, and our
        reader always holds its transaction."""
        if not self._has_log or _size(self._log) < self._log_limit:
            return
        with self._reading:
            self._end_reading()
        # Copies the log into the file, which takes a while. Look-ups meanwhile read from the log's
        # end, so they block only the emptying.
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        with self._reading:
            self._end_reading()
            # Try once, without waiting: look-ups wait, and another program may read for hours.
            connection.execute("PRAGMA busy_timeout=0")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            connection.execute(f"PRAGMA busy_timeout={int(_TIMEOUT * 1000)}")
        self._log_limit = _size(self._log) + _LOG_BYTES


def _transactions(rows: Mapping[bytes, bytes]) -> Iterator[list[tuple[bytes, bytes]]]:
    """The rows in lists that each add at most about `_TRANSACTION_BYTES` to the log. A row's place in
    the file is random, so it costs a page or two besides its own bytes."""
    part: list[tuple[bytes, bytes]] = []
    size = 0
    for row in rows.items():
        part.append(row)
        size += 2 * _PAGE + len(row[1])
        if size >= _TRANSACTION_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _find_table(connection: sqlite3.Connection) -> bool:
    """True if the file has any table."""
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None


def _size(path: Path) -> int:
    """The file's size in bytes; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
