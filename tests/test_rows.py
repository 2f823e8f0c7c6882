"""Rows of every format and form are read in one way by train, score and eval, and none is lost
without a count."""

from __future__ import annotations

import datetime
import gzip
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from benchmarks import hostile_sources
from factory.core.errors import RecipeError, SampleError
from factory.evaluation.rows import open_rows, sample_of, shape_of
from factory.sources.benchmarks import Labels, parse_labels
from factory.sources.conversation import countable, read_exchange, read_prompt
from factory.sources.formats.table import Table, add_types, conformed
from factory.sources.formats.text import split_cell
from factory.training.common.data import Opened, open_dataset, to_messages
from factory.training.common.rows import read_row
from factory.training.common.rows import shape_of as training_shape

PUBLIC = Path(__file__).parents[2] / "shared" / "data"
PAIR = ("prompt", "chosen", "rejected")
ANSWER = ("prompt", "completion")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the format that the name says."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return lines(path, *rows)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix in (".csv", ".tsv"):
        mark = "," if path.suffix == ".csv" else "\t"
        cells = [rows[0].keys(), *(row.values() for row in rows)]
        path.write_text("".join(mark.join(f'"{c}"' for c in row) + "\n" for row in cells))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".arrow":
        made = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(str(path), made.schema) as writer:
            writer.write_table(made)
    else:
        Dataset.from_list(rows).save_to_disk(str(path))
    return path


FORMATS = ["x.jsonl", "x.jsonl.gz", "x.json", "x.csv", "x.tsv", "x.parquet", "x.arrow", "x"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_a_source_is_one_of_train_and_score(tmp_path, name):
    rows = [{"prompt": "Born?", "completion": "2024-01-31", "reference": "007"}]
    path = table(tmp_path / name, rows)
    assert open_dataset(path, "sft", ANSWER).dataset[0] == rows[0]
    found = open_rows(str(path))
    sample = sample_of(next(found.read()), 0, shape_of(found))
    assert (sample.candidates[0].text, sample.reference) == ("2024-01-31", "007")


# -- text is text ---------------------------------------------------------------------------------


def test_nothing_in_json_is_taken_for_a_date_and_no_digit_is_lost(tmp_path):
    big, exact = 10**29 + 7, "3.14159265358979323846264338327"
    text = f'{{"prompt": "a", "completion": "2024-01-31T10:00:00", "n": {big}, "x": {exact}}}\n'
    text += '{"prompt": "b", "completion": "1e5", "n": 3, "x": 0.5}\n'
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    data = open_dataset(path, "sft", ANSWER).dataset
    assert data["completion"][:] == ["2024-01-31T10:00:00", "1e5"]
    assert data["n"][:] == [str(big), "3"]
    assert data["x"][:] == [exact, "0.5"]


@pytest.mark.parametrize("cell", ["007", "1e5", "NaN", "null", "True", "None", "2024-01-31"])
def test_a_cell_is_its_text(tmp_path, cell):
    path = tmp_path / "x.csv"
    path.write_text(f"prompt,completion\na,{cell}\n")
    assert open_dataset(path, "sft", ANSWER).dataset["completion"][:] == [cell]
    assert next(open_rows(str(path)).read())["completion"] == cell


def test_references_are_text_whatever_their_type(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = {
        "day": pa.array([datetime.date(2024, 1, 31)]),
        "price": pa.array([Decimal("1.50")]),
        "whole": pa.array([2**62]),
    }
    for name, array in values.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"prompt": ["a"], "completion": ["b"], "reference": array}), path)
        expected = {"day": "2024-01-31", "price": "1.50", "whole": str(2**62)}[name]
        assert open_dataset(path, "grpo", ("prompt",)).dataset["reference"][:] == [expected]
        rows = open_rows(str(path))
        assert sample_of(next(rows.read()), 0, "completion").reference == expected


def test_columns_of_numbers_in_cells_are_numbers_to_trainers(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("prompt;completion;label;score\na;b;True;1e2\na;c;0;\n")
    data = open_dataset(path, "kto", (*ANSWER, "label")).dataset
    assert data["label"][:] == [True, False]
    assert data["score"][:] == [100.0, None]


def test_a_type_is_what_all_rows_have_in_common():
    rows = [{"a": 1, "b": 1, "c": [1], "d": "x", "e": {"k": 1}, "f": 2**60},
            {"a": 0.5, "b": True, "c": None, "d": [1], "e": {"l": "z"}, "f": 0.5}]  # fmt: skip
    types = {}
    for row in rows:
        add_types(types, row)
    assert types == {
        "a": "float",
        "b": "text",
        "c": ("list", "int"),
        "d": "text",
        "e": ("object", {"k": "int", "l": "text"}),
        "f": "text",
    }
    assert [conformed(row["d"], "text") for row in rows] == ["x", "[1]"]
    assert conformed(rows[1]["e"], types["e"]) == {"k": None, "l": "z"}


def test_lines_that_cannot_be_read_are_counted_and_the_first_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"prompt": "a", "completion": "b"}\n{"prompt"\n[1]\n{"prompt": "\xff"}\n')
    found = Table(path)
    reasons = {"not JSON": 1, "JSON, but a list and not an object": 1, "not UTF-8": 1}
    assert (found.count, dict(found.left_out)) == (1, reasons)
    assert found.first_bad.startswith("line 2: not JSON")
    assert open_dataset(path, "sft", ANSWER).left_out == reasons


# -- forms of a conversation ----------------------------------------------------------------------


def read(path: Path, kind: str, columns: tuple[str, ...] = PAIR, **more: Any) -> Opened:
    return open_dataset(path, kind, columns, **more)


def test_texts_stay_texts_until_the_model_has_a_template(tmp_path):
    path = lines(tmp_path / "x.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1})
    opened = read(path, "dpo")
    assert (opened.is_plain, opened.forms) == (True, {"strings": 1})
    [row] = to_messages(opened.dataset, "dpo")
    assert row == {
        "prompt": [user("a")],
        "chosen": [assistant("b")],
        "rejected": [assistant("c")],
        "margin": 1,
    }


def test_texts_and_messages_in_one_file_become_messages(tmp_path):
    text = {"prompt": "a", "chosen": "b", "rejected": "c"}
    turns = {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c")]}
    opened = read(lines(tmp_path / "x.jsonl", text, turns), "dpo")
    assert (opened.is_plain, opened.forms) == (False, {"strings": 1, "messages": 1})
    assert opened.dataset[0] == opened.dataset[1] == turns


def test_rows_of_mixed_types_are_scored_and_stored(tmp_path):
    text = {"prompt": "a", "completion": "b", "n": 1}
    turns = {"prompt": [user("a")], "completion": [assistant("b")], "n": "one"}
    rows = open_rows(str(lines(tmp_path / "x.jsonl", text, turns)))
    samples = [sample_of(row, i, "completion") for i, row in enumerate(rows.read())]
    assert [s.candidates[0].text for s in samples] == ["b", "b"]
    stored = [rows.stored(row) for row in rows.read()]
    assert stored == [turns | {"n": "1"}, turns]
    rows.features.encode_example(stored[0])


def test_ultrafeedback_repeats_the_prompt():
    row = {"prompt": "a ", "chosen": [user("a"), assistant("b")]}
    assert read_exchange(row, row["chosen"], "chosen") == ([user("a")], [assistant("b")])
    other = [user("z"), assistant("b")]
    with pytest.raises(SampleError, match="whose prompt is not the row's"):
        read_exchange(row, other, "chosen")


def test_ultrafeedback_as_published_is_lists_with_scores(tmp_path):
    answers = [{"response": "r", "overall_score": 3.5}, {"response": "s", "overall_score": 1}]
    path = lines(tmp_path / "x.jsonl", {"instruction": "a", "completions": answers})
    lists = ("prompt", "responses", "scores")
    [row] = read(path, "reward", ("chosen", "rejected"), or_columns=lists).dataset
    assert row == {"prompt": [user("a")], "responses": ["r", "s"], "scores": [3.5, 1.0]}
    assert shape_of(open_rows(str(path))) == "reward"


@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        ("Why?", [user("Why?")]),
        ("\n\nHuman: Why?\n\nAssistant:", [user("Why?")]),
        ("\n\nHuman: A\n\nAssistant: B\n\nHuman: C", [user("A"), assistant("B"), user("C")]),
        ("Human: a word", [user("Human: a word")]),
        ([{"from": "human", "value": "Why?"}], [user("Why?")]),
        ({"role": "user", "content": "Why?"}, [user("Why?")]),
        ([{"role": "user", "content": [{"type": "text", "text": "Why?"}]}], [user("Why?")]),
    ],
)
def test_forms_of_a_prompt(prompt, messages):
    assert read_prompt(prompt, "prompt") == messages


def test_a_transcript_of_a_whole_conversation_needs_no_prompt(tmp_path):
    text = "\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant: "
    path = lines(tmp_path / "x.jsonl", {"chosen": f"{text}D", "rejected": f"{text}E"})
    for kind in ("dpo", "reward"):
        [row] = read(path, kind).dataset
        assert row["prompt"] == [user("A"), assistant("B"), user("C")]
        assert (row["chosen"], row["rejected"]) == ([assistant("D")], [assistant("E")])


BAD_PAIRS = [
    ({"chosen": None}, "column 'chosen': expected text or messages, found null"),
    ({"chosen": 7}, "column 'chosen': expected text or messages, found a number"),
    ({"rejected": " "}, "column 'rejected' holds a blank answer"),
    ({"rejected": []}, "column 'rejected' holds a blank answer"),
    ({"prompt": 3}, "column 'prompt': expected text or messages, found a number"),
    ({"prompt": ""}, "column 'prompt' is blank: there is no user's message before the answer"),
    (
        {"chosen": [assistant("b") | {"content": None}]},
        "field 'chosen[].content' is null, expected a string",
    ),
    ({"chosen": [{"content": "b"}]}, "field 'chosen[].role' is null, expected a string"),
    (
        {"chosen": [{"role": "critic", "content": "b"}]},
        "field 'chosen[]': unknown role, expected system, user, assistant, tool",
    ),
    (
        {"chosen": [user("x"), assistant("b")]},
        "column 'chosen' is a conversation whose prompt is not the row's",
    ),
    ({"chosen": "a\0b"}, "field 'chosen' holds a NUL character; remove it"),
]


def test_rows_that_cannot_be_trained_on_are_counted_by_reason(tmp_path):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    rows = [good, *(good | change for change, _ in BAD_PAIRS)]
    opened = read(lines(tmp_path / "x.jsonl", *rows), "dpo")
    assert len(opened.dataset) == 1
    assert opened.left_out == Counter(reason for _, reason in BAD_PAIRS)


def test_where_no_row_is_left_the_first_is_named(tmp_path):
    path = lines(tmp_path / "x.jsonl", {"prompt": "a", "completion": None}, {"completion": 4})
    with pytest.raises(
        RecipeError, match=r"none of the 2 rows .*; the first, line 1: column 'comp"
    ):
        read(path, "sft", ANSWER)


def test_ragged_lists_and_odd_steps_are_left_out(tmp_path):
    good = {"prompt": "a", "responses": ["b", "c"], "scores": [1, 0]}
    bad = [good | {"scores": [1]}, good | {"responses": ["b", None]}, good | {"responses": "b"}]
    path = lines(tmp_path / "x.jsonl", good, *bad)
    opened = read(path, "reward", ("chosen", "rejected"), or_columns=tuple(good))
    assert (len(opened.dataset), sum(opened.left_out.values())) == (1, 3)
    assert opened.left_out["not as many scores as responses"] == 1
    steps = {"prompt": "a", "completions": ["b", "c"], "labels": [True, None]}
    odd = [steps | {"labels": [1, -1]}, steps | {"completions": "bc"}, steps | {"labels": ["x", 1]}]
    opened = read(lines(tmp_path / "y.jsonl", steps, *odd), "prm", tuple(steps))
    assert opened.dataset["labels"][:] == [[1, None], [1, -1]]
    assert sum(opened.left_out.values()) == 2


def test_pairs_of_two_conversations_are_left_out(tmp_path):
    def talk(question: str, answer: str) -> str:
        return f"\n\nHuman: {question}\n\nAssistant: {answer}"

    rows = [
        (talk("a", "b"), talk("a", "c")),
        (talk("a", "b"), talk("z", "c")),
        (talk("a", ""), "x"),
    ]
    path = lines(tmp_path / "x.jsonl", *({"chosen": c, "rejected": r} for c, r in rows))
    opened = read(path, "reward", ("chosen", "rejected"))
    assert opened.left_out == {
        "chosen and rejected do not follow the same conversation": 1,
        "column 'chosen' holds a blank answer": 1,
    }


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="no shared/data")
def test_hh_rlhf_as_published():
    opened = read(
        PUBLIC / "preferences" / "hh_harmless_1800.jsonl", "reward", ("chosen", "rejected")
    )
    assert (len(opened.dataset), sorted(opened.left_out.values())) == (1794, [2, 4])


def test_a_view_of_ours_is_read_where_it_lies(tmp_path):
    from datasets import Dataset

    rows = [{"prompt": [user("a")], "completion": [assistant("b")], "reference": None}]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "view"))
    opened = read(tmp_path / "view", "sft", ANSWER)
    assert opened.dataset.cache_files  # memory-mapped, nothing was built


def test_reasons_are_few():
    assert countable(SampleError("field 'a[12].content' is null")) == "field 'a[].content' is null"
    shape = training_shape("sft", ANSWER)
    with pytest.raises(SampleError, match="calls a tool"):
        read_row({"prompt": "a", "completion": [assistant("") | {"tool_calls": [1]}]}, shape)


@pytest.mark.parametrize(
    ("cell", "tags"),
    [
        ("a, b", ["a", "b"]),
        ("a;b", ["a", "b"]),
        ("plain words", ["plain words"]),
        ('["safety", "a, b"]', ["safety", "a, b"]),
        ("['safety', 'advice']", ["safety", "advice"]),
        ("[not a list]", ["[not a list]"]),
        ("[1, 2]", ["[1", "2]"]),
    ],
)
def test_a_cell_of_tags(cell, tags):
    assert split_cell(cell) == tags


# -- labels of people -----------------------------------------------------------------------------


def looked(*values: object, coding: dict[Any, str] | None = None) -> Labels:
    labels = Labels(coding)
    for value in values:
        labels.look(value)
    labels.check("x.jsonl")
    return labels


@pytest.mark.parametrize(
    "codes",
    [
        (0, 1),
        ("0", "1"),
        (0, 0),
        (1.0, 0.0),
        (1.0, 2.0, 0.0),
        (True, False),
        ("1.0", "2.0"),
        (1, 2, 3),
        (-1, 1),
        (0.5,),
    ],
)
def test_codes_that_could_mean_one_thing_or_another_are_refused(codes):
    with pytest.raises(RecipeError, match=r"x\.jsonl has the labels .*--labels 1=a,0=b"):
        looked(*codes)


@pytest.mark.parametrize("codes", [(1, 2, 0), ("1", "2"), (2, 0), (1, None, ""), ("a", "tie", "b")])
def test_documented_codes_and_words_need_no_coding(codes):
    assert looked(*codes).read(codes[0]) in (1, 2)


def test_a_coding_says_what_codes_mean():
    labels = looked(0, 1, coding={1: "a", 0: "b"})
    read = [labels.read(value) for value in (1, 0, "1", 1.0, True, None, float("nan"), "tie")]
    assert read == [1, 2, 1, 1, 1, None, None, 0]
    with pytest.raises(SampleError, match="not one of the codes 1, 0"):
        labels.read(2)
    assert looked(True, False, coding=parse_labels("true=a,false=b")).read(False) == 2
    assert looked("1.0", "0.0", coding=parse_labels("1=a,0=b")).read("0.0") == 2
    assert looked("win", coding=parse_labels("win=a, loss=b")).read("Loss") == 2


@pytest.mark.parametrize("text", ["", "1", "=a", "1=x"])
def test_codings_that_are_none(text):
    with pytest.raises(RecipeError, match="labels"):
        Labels(parse_labels(text))


# -- hostile files --------------------------------------------------------------------------------


def test_hostile_files_end_in_one_message_each(capsys):
    """The command `python -m benchmarks.hostile_sources` makes a thousand of them."""
    hostile_sources.load()
    wrong = [w for seed in range(60) for w in hostile_sources.try_all(seed, Counter())]
    assert wrong == []


@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_pipes_and_devices_are_not_waited_for(tmp_path, kind, suffix):
    import os
    import socket

    path = tmp_path / f"x{suffix}"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    with hostile_sources.time_limit(5):
        for reader in (lambda: open_rows(str(path)), lambda: read(path, "sft", ANSWER)):
            with pytest.raises(RecipeError, match="not a file"):
                reader()


def test_a_packed_bomb_is_refused(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b" " * 2**26, 1))
    with pytest.raises(RecipeError, match="more than 200 times its size"):
        read(path, "sft", ANSWER)
