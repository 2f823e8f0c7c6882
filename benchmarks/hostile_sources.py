"""Hostile files through every reader of rows: none may end in a traceback, or hang.

    python -m benchmarks.hostile_sources --count 1000

Makes files that are wrong in seeded ways (damaged bytes, odd types, huge numbers, pipes, devices,
packed bombs, damaged dataset folders) and hands each to the reader of a recipe's source, of `train`,
of `score` and of `eval`. Whatever they refuse must be a `FactoryError`; each has a time limit.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import decimal
import gzip
import io
import json
import os
import random
import shutil
import signal
import socket
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from factory.core.errors import FactoryError
from factory.sources.formats.text import MAX_LINE

LIMIT_S = 20.0
"""Of one reader, on the clock: it hangs. What takes over a second of this process's own is listed."""

COLUMNS = (
    *("prompt", "chosen", "rejected", "completion", "completions", "responses", "scores", "labels"),
    *("label", "reference", "tags", "id", "system", "prompt_id", "preference", "margin", "score"),
    *("instruction", "response1", "response2", "annotator1", "problem", "steps", "question"),
    *("response_a", "response_b", "chosen_s", "rejected_s", "s_steps", "_type", "extra", "", "\n"),
)
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sft": (("prompt", "completion"), ()),
    "dpo": (("prompt", "chosen", "rejected"), ()),
    "kto": (("prompt", "completion", "label"), ()),
    "reward": (("chosen", "rejected"), ("prompt", "responses", "scores")),
    "prm": (("prompt", "completions", "labels"), ()),
    "grpo": (("prompt",), ()),
}
SHAPES = (
    ("prompt", "chosen", "rejected", "chosen_s", "rejected_s"),
    ("prompt", "completion", "label", "score"),
    ("prompt", "responses", "scores"),
    ("prompt", "completions", "labels", "s_steps"),
    ("prompt", "response_a", "response_b", "label"),
    ("id", "problem", "steps", "label", "final_answer_correct"),
    ("question", "label"),
    ("chosen", "rejected"),
)
NUMBERS = (
    *(
        "123456789012345678901234567890",
        "-1",
        "1e999",
        "1e-999",
        "NaN",
        "Infinity",
        "0",
        "007",
        "1.",
    ),
    *("3.14159265358979323846264338327", "9" * 5000, "-0", "18446744073709551616", "1e5", "0x1f"),
)


class Hang(BaseException):
    """The time limit. No `Exception`, so that nobody takes it for an error of a file."""


# Files -------------------------------------------------------------------------------------------


def hostile_file(seed: int, folder: Path) -> Path:
    """A file or folder that is wrong in ways of the seed's."""
    rng = random.Random(seed)
    makers = (_json_lines, _json_lines, _json_list, _delimited, _table, _table, _saved, _special)
    path: Path = rng.choice(makers)(rng, folder)
    if path.is_file() and not path.is_symlink() and rng.random() < 0.35:
        _damage(rng, path)
    if path.is_file() and not path.is_symlink() and rng.random() < 0.08:
        other = path.with_suffix(
            rng.choice((".jsonl", ".parquet", ".csv", ".arrow", ".gz", ".xyz"))
        )
        path = path.rename(other)
    return path


def _value(rng: random.Random, depth: int = 0) -> Any:
    texts = (
        "",
        " ",
        "a",
        "Ω\u2028",
        "a\0b",
        "\n\nHuman: a\n\nAssistant: b",
        "true",
        "2024-01-31",
        "x" * 99,
    )
    plain: list[Any] = [None, True, False, 0, 1, -1, 2, 10**30, 0.5, 1e300, *texts]
    if depth > 3 or rng.random() < 0.55:
        return rng.choice(plain)
    if rng.random() < 0.5:
        roles = ("user", "assistant", "system", "human", "gpt", "critic", "", None, 3)
        return [
            {"role": rng.choice(roles), "content": _value(rng, 3)}
            if rng.random() < 0.7
            else {"from": rng.choice(roles), "value": _value(rng, 3)}
            for _ in range(rng.randrange(4))
        ]
    if rng.random() < 0.5:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(COLUMNS): _value(rng, depth + 1) for _ in range(rng.randrange(4))}


def _row(rng: random.Random) -> dict[str, Any]:
    names = list(rng.choice(SHAPES)) + rng.sample(COLUMNS, rng.randrange(3))
    row = {name: _value(rng) for name in names}
    if rng.random() < 0.6:  # that some rows are good, or nearly so
        good = rng.choice((_GOOD, _GOOD | _MESSAGES))
        kept = [name for name in row if name in good and rng.random() < 0.9]
        row |= {name: good[name] for name in kept}
    return row


_GOOD: dict[str, Any] = {
    "prompt": "Why?",
    **{"chosen": "a", "rejected": "b", "completion": "c", "response_a": "d", "response_b": "e"},
    **{"label": 1, "responses": ["a", "b"], "scores": [1, 0.5], "completions": ["a", "b"]},
    **{"labels": [True, None], "chosen_s": 1, "rejected_s": 0.5, "s_steps": [0.5, 0.25]},
    **{
        "score": 3,
        "id": "x-1",
        "problem": "Why?",
        "steps": ["a", "b"],
        "final_answer_correct": True,
    },
}
_MESSAGES: dict[str, Any] = {
    "prompt": [{"role": "user", "content": "Why?"}],
    "chosen": [{"role": "assistant", "content": "a"}],
    "rejected": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "b"}],
    "completion": [{"from": "gpt", "value": "c"}],
    "labels": [1, -1],
    "label": False,
}


def _json_text(rng: random.Random) -> bytes:
    text = json.dumps(_row(rng), ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.3:
        text = text[:-1] + f', "n": {rng.choice(NUMBERS)}}}'
    odd = rng.random()
    if odd < 0.04:
        deep = rng.choice((90, 500, 5000, 100_000))
        text = text[:-1] + ', "deep": ' + "[" * deep + "]" * deep + "}"
    elif odd < 0.08:
        text = text[:-1] + ', "s": "\\ud800"}'
    elif odd < 0.12:
        text = text[:-1] + ', "prompt": 1, "prompt": "again"}'
    elif odd < 0.14:
        text = rng.choice(("[1]", "null", "3", '"x"', "{", "", "  "))
    return text.encode("utf-8", "surrogatepass")


def _json_lines(rng: random.Random, folder: Path) -> Path:
    many = [_json_text(rng) for _ in range(rng.choice((0, 1, 3, 12)))]
    data = rng.choice((b"\n", b"\r\n", b"\n\n")).join(many)
    if rng.random() < 0.1:
        data = rng.choice(
            (b"\xef\xbb\xbf" + data, data.decode("utf-8", "replace").encode("utf-16"))
        )
    if rng.random() < 0.25:
        return _packed(rng, folder / "rows.jsonl.gz", data)
    path = folder / "rows.jsonl"
    path.write_bytes(data)
    return path


def _packed(rng: random.Random, path: Path, data: bytes) -> Path:
    if rng.random() < 0.2:
        data += b"x" * 2**26  # packed to a thousandth
    path.write_bytes(gzip.compress(data, 1))
    return path


def _json_list(rng: random.Random, folder: Path) -> Path:
    path = folder / "rows.json"
    inside = b",\n".join(_json_text(rng) for _ in range(rng.randrange(5)))
    path.write_bytes(rng.choice((b"[%s]", b"[%s", b'{"data": [%s]}', b"%s")) % inside)
    return path


def _delimited(rng: random.Random, folder: Path) -> Path:
    mark = rng.choice((",", ";", "\t", "|"))
    names = list(rng.choice(SHAPES)) + rng.sample(COLUMNS, rng.randrange(2))
    cells = (*NUMBERS, "", "null", "True", "a, b", '"', '""', "a\nb", "\0", "é", "x" * 70_000)
    lines = [mark.join(names)]
    for _ in range(rng.randrange(6)):
        width = len(names) if rng.random() < 0.8 else rng.randrange(9)
        row = [rng.choice(cells) for _ in range(width)]
        lines.append(mark.join(f'"{cell}"' if rng.random() < 0.4 else cell for cell in row))
    path = folder / rng.choice(("rows.csv", "rows.tsv"))
    encoding = rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
    path.write_bytes(rng.choice(("\n", "\r\n", "\r")).join(lines).encode(encoding, "replace"))
    return path


def _arrays(rng: random.Random) -> list[Any]:
    import pyarrow as pa

    day = datetime.date(2024, 1, 31)
    return [
        pa.array(["a", None, "\n\nHuman: a\n\nAssistant: b"]),
        pa.array([1, 2, None]),
        pa.array([0.5, float("nan"), None], pa.float32()),
        pa.array([True, None, False]),
        pa.array([None] * 3),
        pa.array([day, None, day]),
        pa.array([2**62, -(2**62), 0], pa.timestamp("s")),
        pa.array([datetime.timedelta(1), None, None]),
        pa.array([decimal.Decimal("1.50"), None, None], pa.decimal256(60, 2)),
        pa.array(["a", "b", None]).dictionary_encode(),
        pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
        pa.array([b"\xff", b"ok", None]),
        pa.array([[{"role": "user", "content": "a"}], [], None]),
        pa.array([[1.0], None, [None]]),
        pa.array([{"a": 1}, None, {"a": None}]),
        pa.array([["a", "b"], ["c"], None]),
        pa.array([[True, None], [False], None]),
        pa.array([b"abcd"] * 3, pa.binary(4)),
        pa.array([datetime.time(1), None, None], pa.time64("ns")),
        pa.array([{}, {}, None], pa.struct([])),
    ]


def _table(rng: random.Random, folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(rng.choice(SHAPES)) + rng.sample(COLUMNS, rng.randrange(3))
    arrays = _arrays(rng)
    columns = [rng.choice(arrays) if rng.random() < 0.7 else arrays[0] for _ in names]
    if rng.random() < 0.05:
        names, columns = [], []
    table = pa.Table.from_arrays(columns, names=names)
    if rng.random() < 0.1:
        table = table.slice(0, 0)
    if rng.random() < 0.1:
        meta = rng.choice(
            (b"{", b'{"info": {"features": {"prompt": {"_type": "Nothing"}}}}', b"\xff")
        )
        table = table.replace_schema_metadata({b"huggingface": meta})
    with contextlib.suppress(pa.ArrowException, NotImplementedError):
        if rng.random() < 0.5:
            pq.write_table(table, folder / "rows.parquet")
            return folder / "rows.parquet"
    new = rng.choice((pa.ipc.new_file, pa.ipc.new_stream))
    with new(str(folder / "rows.arrow"), table.schema) as writer:
        writer.write_table(table)
    return folder / "rows.arrow"


def _saved(rng: random.Random, folder: Path) -> Path:
    """A folder that looks like one of `datasets`."""
    path = folder / "saved"
    path.mkdir()
    inner = _table(rng, path)
    data = path / "data-00000-of-00001.arrow"
    if inner.suffix == ".arrow":
        inner.rename(data)
    names = rng.choice(
        (
            ["data-00000-of-00001.arrow"],
            ["none.arrow"],
            ["../rows.arrow"],
            [],
            ["/dev/zero"],
            ["a\0b"],
        )
    )
    state = json.dumps({"_data_files": [{"filename": name} for name in names], "_fingerprint": "x"})
    (path / "state.json").write_text(rng.choice((state, state, state, "{", "[]", "", "{}")))
    info = '{"features": {}, "splits": null}'
    (path / "dataset_info.json").write_text(rng.choice((info, info, "{", "[1]", '{"features": 3}')))
    if rng.random() < 0.1:
        splits = rng.choice(('{"splits": ["train", "../x"]}', "{", '{"splits": ["train"]}'))
        (path / "dataset_dict.json").write_text(splits)
    if rng.random() < 0.3 and data.exists():
        _damage(rng, data)
    if rng.random() < 0.1:
        data.unlink(missing_ok=True)
        os.mkfifo(data)
    return path


def _special(rng: random.Random, folder: Path) -> Path:
    suffix = rng.choice((".jsonl", ".csv", ".parquet", ".arrow", ".json", ".jsonl.gz", ""))
    path = folder / f"special{suffix}"
    kind = rng.randrange(9)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to(rng.choice(("/dev/zero", "/dev/random", "/dev/null", "/dev/full")))
    elif kind == 2:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == 3:
        path.mkdir()
    elif kind == 4:
        path.symlink_to(path.name)  # to itself
    elif kind == 5:
        path.symlink_to("nowhere")
    elif kind == 6:
        path.write_bytes(b"")
    elif kind == 7:
        path.write_bytes(rng.randbytes(rng.choice((1, 100, 5000))))
    else:
        path.write_bytes(b"x" * (MAX_LINE + 1))  # a line without an end
    return path


def _damage(rng: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    if not data:
        return
    match rng.randrange(4):
        case 0:
            del data[rng.randrange(len(data)) :]
        case 1:
            for _ in range(rng.randrange(1, 30)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        case 2:
            at = rng.randrange(len(data))
            data[at:at] = rng.choice((b"\0", b"\xff\xfe", b"\xed\xa0\x80", b'"', b"{", b"\n"))
        case 3:
            data += data[: rng.randrange(len(data))]
    path.write_bytes(data)


# Readers -----------------------------------------------------------------------------------------


def read_source(path: Path, rng: random.Random) -> None:
    from factory.core.records import Sample
    from factory.sources.source import Columns, SourceConfig, open_source

    columns = Columns(prompt=rng.choice(("prompt", "question", "chosen")))
    source = open_source(SourceConfig(path=path.name, columns=columns, limit=10**12), path.parent)
    rows = list(source.rows())
    assert [row.index for row in rows] == list(range(len(rows)))
    assert all(json.loads(row.extra or "{}") is not None for row in rows if isinstance(row, Sample))
    source.count()
    source.digest()


def read_train(kind: str, path: Path, rng: random.Random) -> None:
    from factory.training.common.data import open_dataset, to_messages
    from factory.training.offline.process_data import open_rows

    if kind == "prm":
        open_rows("prm", path, {})
        return
    opened = open_dataset(path, kind, *KINDS[kind])
    rows = to_messages(opened.dataset, kind) if opened.is_plain else opened.dataset
    for row in rows:
        assert row["prompt"][-1]["content"].strip()


def read_score(path: Path, rng: random.Random) -> None:
    from factory.evaluation.rows import open_rows, sample_of, shape_of
    from factory.export.write import DatasetWriter

    rows = open_rows(str(path))
    shape = shape_of(rows)
    writer = DatasetWriter(path.parent / "scored", rows.features)
    for index, row in enumerate(rows.read()):
        sample_of(row, index, shape)
        writer.add(rows.stored(row))
    writer.finish()
    writer.abandon()


def read_eval(path: Path, rng: random.Random) -> None:
    from factory.evaluation.eval_judge import comparison, judge_columns
    from factory.evaluation.eval_process import evaluate_process
    from factory.evaluation.eval_reward import evaluate_reward
    from factory.evaluation.rows import open_rows
    from factory.sources.benchmarks import Labels

    rows = open_rows(str(path)).limited(2**63)
    match rng.randrange(3):
        case 0:
            evaluate_reward(rows, None, score="s")
        case 1:
            evaluate_process(rows, None, score="s")
        case 2:
            where, labels = judge_columns(rows, {}), Labels(rng.choice((None, {1: "a", 0: "b"})))
            for row in rows.read():
                labels.look(row.get(where.labels[0]))
            labels.check(rows.name)
            for index, row in enumerate(rows.read()):
                comparison(row, index, where, labels)


READERS: dict[str, Callable[[Path, random.Random], None]] = {
    "source": read_source,
    **{f"train {kind}": partial(read_train, kind) for kind in KINDS},
    "score": read_score,
    "eval": read_eval,
}


def load() -> None:
    """Import what the readers import at their first call: it takes seconds, which are no reader's."""
    import datasets  # noqa: F401

    for seed in (1, 2, 3):
        try_all(seed, Counter(), limit_s=300)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def try_all(seed: int, counts: Counter[str], limit_s: float = LIMIT_S) -> list[str]:
    """What went wrong with the file of this seed: reader, and traceback or the word hang."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    wrong = []
    try:
        path = hostile_file(seed, folder)
        for name, reader in READERS.items():
            began = time.process_time()
            try:
                with time_limit(limit_s), contextlib.redirect_stderr(io.StringIO()):
                    reader(path, random.Random(seed))
                counts[f"{name}: read"] += 1
            except FactoryError as error:
                counts[f"{name}: refused"] += 1
                if not str(error).strip() or len(str(error)) > 5000:
                    wrong.append(f"seed {seed} {name}: a message of {len(str(error))} characters")
            except Hang:
                wrong.append(f"seed {seed} {name} {path.name}: hangs")
            except Exception:
                wrong.append(f"seed {seed} {name} {path.name}: {traceback.format_exc(limit=-4)}")
            if (took := time.process_time() - began) > 1:
                counts[f"over a second: {name} {path.name} {took:.1f} s, seed {seed}"] += 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="The first seed.")
    args = parser.parse_args()
    load()
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    began = time.monotonic()
    for seed in range(args.first, args.first + args.count):
        wrong += try_all(seed, counts)
    print("\n".join(wrong[:20]))
    print(f"{args.count} files, {len(wrong)} tracebacks or hangs, {time.monotonic() - began:.0f} s")
    for name, count in sorted(counts.items()):
        print(f"  {name:16} {count:6,}")


if __name__ == "__main__":
    main()
