from __future__ import annotations

import hashlib
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from factory.core.errors import LedgerError
from factory.engines.base import Completion, Request, Scoring
from factory.engines.call_key import call_key
from factory.pipeline.ledger import Ledger

DONE = Completion("hello", "stop", 10, 3, 2, {"A": -0.5})


def request(**changes: object) -> Request:
    fields = {
        "messages": [{"role": "user", "content": "hi"}],
        "sampling": {"temperature": 1.0, "max_tokens": 8},
        "draw": 1,
    }
    return Request(**{**fields, **changes})


def test_a_completion_is_found_before_and_after_it_is_committed(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        ledger.put(b"k" * 16, DONE)
        assert ledger.get(b"k" * 16) == DONE
        ledger.flush()
        assert ledger.get(b"k" * 16) == DONE
        assert ledger.get(b"x" * 16) is None
    with Ledger(tmp_path / "l") as again:
        assert again.get(b"k" * 16) == DONE
        assert len(again) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"draw": 2},
        {"prefix": "The"},
        {"labels": ("A", "B")},
        {"messages": [{"role": "user", "content": "ho"}]},
        {"sampling": {"temperature": 1.0, "max_tokens": 9}},
    ],
)
def test_all_that_determines_a_completion_is_in_its_key(change: dict[str, object]) -> None:
    assert call_key("model", request()) != call_key("model", request(**change))


def test_the_model_is_in_the_key_and_priority_and_seed_are_not() -> None:
    assert call_key("a", request()) != call_key("b", request())
    assert call_key("a", request()) == call_key("a", request(priority=9, seed=1))


def test_keys_are_those_that_ledgers_have_had_from_the_first() -> None:
    """Recorded from the version in which the engine was seeded with every draw."""
    judged = Request(
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Ist 2 < 3? é"}],
        {"temperature": 0.0, "max_tokens": 1},
        prefix="The better answer is (",
        labels=("A", "B"),
    )
    scored = Request(
        [{"role": "user", "content": "hi"}], {}, scoring=Scoring(steps=("1", "2"), tag="<x>")
    )
    assert call_key("model", request()).hex() == "b74acc0b8a5bdbcef20f86e6453460dd"
    assert call_key("judge", judged).hex() == "489c402d5821036dc4a915eda5e04640"
    assert call_key("rm", scored).hex() == "35df3640310b9ca9135737bfc17a8448"


def test_a_ledger_of_another_format_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "l"
    Ledger(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=99")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="format 99"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_database_that_is_no_ledger_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE mine (x)")
    with pytest.raises(LedgerError, match="not a ledger"):
        Ledger(path)
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM mine").fetchone() == (0,)


def test_a_corrupt_ledger_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "l"
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(LedgerError, match=r"cannot be used.*left as it is"):
        Ledger(path)
    assert path.read_bytes() == b"garbage" * 1000


def test_a_ledger_damaged_in_the_middle_says_so(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with Ledger(path) as ledger:
        for i in range(5000):
            ledger.put(i.to_bytes(16, "big"), DONE)
    whole = bytearray(path.read_bytes())
    whole[8192:-4096] = b"\xff" * (len(whole) - 8192 - 4096)
    path.write_bytes(bytes(whole))
    with pytest.raises(LedgerError, match="cannot be used"):
        read_all(path)
    assert path.read_bytes() == bytes(whole)


def read_all(path: Path) -> None:
    with Ledger(path) as ledger:
        for i in range(5000):
            ledger.get(i.to_bytes(16, "big"))


WRITER = """
import sys, time
from pathlib import Path
from factory.engines.base import Completion
from factory.pipeline.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
i = 0
while True:
    ledger.put(i.to_bytes(16, "big"), Completion("x" * 200, "stop", 1, 0, 1))
    print(i, time.monotonic(), flush=True)
    i += 1
    time.sleep(0.001)
"""


def test_kill_9_loses_at_most_200_ms_of_calls(tmp_path: Path) -> None:
    path = tmp_path / "l"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    lines = [writer.stdout.readline() for _ in range(300)]
    killed_at = time.monotonic()
    writer.send_signal(signal.SIGKILL)
    lines += writer.stdout.read().splitlines()
    writer.wait()
    put_at = [float(line.split()[1]) for line in lines if len(line.split()) == 2]
    with Ledger(path) as ledger:
        kept = len(ledger)
        assert all(ledger.get(i.to_bytes(16, "big")) for i in range(kept)), "a gap"
    must_have = sum(at < killed_at - 0.2 for at in put_at)
    assert must_have > 100
    assert kept >= must_have


FILLER = """
import sys, resource, signal
from pathlib import Path
from factory.engines.base import Completion
from factory.core.errors import LedgerError
from factory.pipeline.ledger import Ledger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger = Ledger(Path(sys.argv[1]))
ledger.put(b"first" + b"0" * 11, Completion("x", "stop", 1, 0, 1)); ledger.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    for i in range(100_000):
        ledger.put(i.to_bytes(16, "big"), Completion("x" * 2000, "stop", 1, 0, 1))
        if i % 100 == 0: ledger.flush()
except LedgerError as error:
    print(error); sys.exit(7)
"""


def test_a_full_disk_stops_with_a_clear_error_and_keeps_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "l"
    done = subprocess.run(
        [sys.executable, "-c", FILLER, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert "free some space" in done.stdout
    with Ledger(path) as ledger:
        assert ledger.get(b"first" + b"0" * 11) is not None


def test_look_ups_see_every_commit(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        for i in range(300):
            key = i.to_bytes(16, "big")
            assert ledger.get(key) is None
            ledger.put(key, DONE)
            if i % 3 == 0:
                ledger.flush()
            assert ledger.get_many([key, b"x" * 16]) == {key: DONE}


# A log that stays short -------------------------------------------------------------------------


def test_the_log_stays_short_while_calls_are_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.pipeline.ledger._LOG_BYTES", 1 << 20)
    monkeypatch.setattr("factory.pipeline.ledger._TRANSACTION_BYTES", 1 << 18)
    path = tmp_path / "l"
    peak = 0
    with Ledger(path) as ledger:
        for i in range(3000):
            key = hashlib.blake2b(i.to_bytes(4, "big"), digest_size=16).digest()
            assert ledger.get(key) is None
            ledger.put(key, DONE)
            if i % 100 == 0:
                ledger.flush()
                peak = max(peak, (tmp_path / "l-wal").stat().st_size)
        assert len(ledger) == 3000
    assert 1 << 18 < peak < 3 << 20
    assert not (tmp_path / "l-wal").exists()


def test_another_program_that_reads_all_the_while_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.pipeline.ledger._LOG_BYTES", 1 << 16)
    path = tmp_path / "l"
    with Ledger(path) as ledger, sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM calls").fetchone() == (0,)
        put_many(ledger, 300)
        assert other.execute("SELECT count(*) FROM calls").fetchone() == (0,)
        other.execute("COMMIT")
        put_many(ledger, 300, first=300)
        assert len(ledger) == 600


def put_many(ledger: Ledger, count: int, first: int = 0) -> None:
    for i in range(first, first + count):
        ledger.put(i.to_bytes(16, "big"), DONE)
        if i % 20 == 0:
            ledger.flush()


# A ledger that was never begun ------------------------------------------------------------------

HALF_MADE = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA journal_mode=WAL")
if sys.argv[2] == "begun":
    database.execute("BEGIN")
    database.execute("CREATE TABLE calls (x)")
os._exit(9)
"""


@pytest.mark.parametrize("how", ["empty", "wal", "begun"])
def test_a_ledger_whose_making_was_killed_is_begun_again(tmp_path: Path, how: str) -> None:
    path = tmp_path / "l"
    if how == "empty":
        path.touch()
    else:
        subprocess.run([sys.executable, "-c", HALF_MADE, str(path), how], check=False)
    with Ledger(path) as ledger:
        ledger.put(b"k" * 16, DONE)
    with Ledger(path) as ledger:
        assert ledger.get(b"k" * 16) == DONE


@pytest.mark.parametrize("size", [1, 100, 4096, 100_000])
def test_a_file_of_zero_bytes_alone_is_begun_as_a_ledger(tmp_path: Path, size: int) -> None:
    path = tmp_path / "l"
    path.write_bytes(bytes(size))
    with Ledger(path) as ledger:
        ledger.put(b"k" * 16, DONE)
    with Ledger(path) as ledger:
        assert ledger.get(b"k" * 16) == DONE


@pytest.mark.parametrize("beside", ["", "-wal", "-journal"])
def test_a_file_that_holds_anything_is_left_as_it_is(tmp_path: Path, beside: str) -> None:
    path = tmp_path / "l"
    path.write_bytes(bytes(5000) + (b"" if beside else b"x"))
    (tmp_path / f"l{beside or '-other'}").write_bytes(b"log")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="it was left as it is"):
        Ledger(path)
    assert path.read_bytes() == before


FULL = """
import resource, signal, sys
from pathlib import Path
from factory.engines.base import Completion
from factory.core.errors import LedgerError
from factory.pipeline.ledger import Ledger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
refused = 0
for limit in [*range(0, 5000, 500), 33_000]:
    path = Path(sys.argv[1]) / str(limit)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        Ledger(path).close()
    except LedgerError as error:
        assert "free some space" in str(error)
        refused += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    with Ledger(path) as ledger:
        ledger.put(b"k" * 16, Completion("x", "stop", 1, 0, 1))
        ledger.flush()
        assert len(ledger) == 1
print(refused)
"""


def test_a_disk_that_is_full_while_a_ledger_is_made_leaves_one_that_can_be_begun(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5


@pytest.mark.parametrize(
    "statement", ["PRAGMA application_id=7", "PRAGMA user_version=3", "CREATE VIEW v AS SELECT 1"]
)
def test_a_file_that_somebody_else_marked_is_refused(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "l"
    with sqlite3.connect(path) as database:
        database.execute(statement)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="not a ledger"):
        Ledger(path)
    assert path.read_bytes() == before


# Rows that cannot be read -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        ["x", "stop", 1, 0, 1, {"A": None}],
        ["x", "stop", 1, 0, 1, {"A": "likely"}],
        ["x", "stop", True, 0, 1],
        ["x", "stop", 1.5, 0, 1],
        ["x", "stop", 1, 0, -1],
        ["x", "stop", 1, 0, 2**31],
        ["x", "stop", 1, 0, 2**63],
        [None, "stop", 1, 0, 1],
        ["x", "stop", 1, 0, 1, None, [["high"]]],
        "nonsense",
        None,
    ],
)
def test_a_row_that_cannot_be_decoded_is_a_call_that_was_never_made(
    tmp_path: Path, row: object
) -> None:
    path, key = tmp_path / "l", b"k" * 16
    Ledger(path).close()
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO calls VALUES (?, ?)", (key, msgspec.msgpack.encode(row)))
    with Ledger(path) as ledger:
        assert ledger.get(key) is None
        ledger.put(key, DONE)
    with Ledger(path) as ledger:
        assert ledger.get(key) == DONE
        assert len(ledger) == 1


@pytest.mark.parametrize(
    "odd",
    [
        Completion("x", "stop", 1, 0, 1, {"A": None}),  # type: ignore[dict-item]
        Completion("x", "stop", True, 0, 1),
        Completion("x", "stop", 1, 0, 2**31),
        Completion("x", "stop", 1, -2, 1),
        Completion("x", "stop", 1, 0, 1, None, [[1.0], None]),  # type: ignore[list-item]
        Completion("\ud800", "stop", 1, 0, 1),
        Completion("x", object(), 1, 0, 1),  # type: ignore[arg-type]
    ],
)
def test_a_completion_that_could_not_be_read_back_is_not_remembered(
    tmp_path: Path, odd: Completion
) -> None:
    with Ledger(tmp_path / "l") as ledger:
        with pytest.raises((msgspec.MsgspecError, TypeError, ValueError)):
            ledger.put(b"k" * 16, odd)
        ledger.put(b"x" * 16, DONE)
        assert len(ledger) == 1


# Where there is no write-ahead log --------------------------------------------------------------


def no_shared_memory(path: Path) -> None:
    """SQLite says `wal`, and then cannot open what the log needs."""
    path.with_name(path.name + "-shm").mkdir()


def no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own locking for file systems that share nothing: it answers `delete`."""
    really = sqlite3.connect

    def dotfile(path: Path, **options: Any) -> sqlite3.Connection:
        return really(f"file:{path}?vfs=unix-dotfile", uri=True, **options)

    monkeypatch.setattr("factory.pipeline.ledger.sqlite3.connect", dotfile)


@pytest.mark.parametrize("how", ["shared memory", "answer"])
@pytest.mark.parametrize("is_new", [True, False])
def test_without_a_log_another_journal_is_used_and_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
    is_new: bool,
) -> None:
    path = tmp_path / "l"
    if not is_new:
        with Ledger(path) as ledger:
            ledger.put(b"o" * 16, DONE)
    if how == "answer":
        no_log(monkeypatch)
    else:
        no_shared_memory(path)
    with Ledger(path) as ledger:
        assert ledger.get(b"k" * 16) is None
        put_many(ledger, 40)
        assert ledger.get((7).to_bytes(16, "big")) == DONE
        assert (ledger.get(b"o" * 16) == DONE) is not is_new
    assert caplog.text.count("keep a write-ahead log") == 1
    with Ledger(path) as ledger:
        assert len(ledger) == 40 + (not is_new)
