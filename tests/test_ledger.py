from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from factory.engines.base import Completion, Request
from factory.errors import LedgerError
from factory.ledger import Ledger, call_key

DONE = Completion("hello", "stop", 10, 3, 2, {"A": -0.5})


def request(**changes: object) -> Request:
    fields = {
        "messages": [{"role": "user", "content": "hi"}],
        "sampling": {"temperature": 1.0, "max_tokens": 8},
        "seed": 1,
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
        {"seed": 2},
        {"prefix": "The"},
        {"labels": ("A", "B")},
        {"messages": [{"role": "user", "content": "ho"}]},
        {"sampling": {"temperature": 1.0, "max_tokens": 9}},
    ],
)
def test_all_that_determines_a_completion_is_in_its_key(change: dict[str, object]) -> None:
    assert call_key("model", request()) != call_key("model", request(**change))


def test_the_model_is_in_the_key_and_the_priority_is_not() -> None:
    assert call_key("a", request()) != call_key("b", request())
    assert call_key("a", request()) == call_key("a", request(priority=9))


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
from factory.ledger import Ledger
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
from factory.errors import LedgerError
from factory.ledger import Ledger
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
