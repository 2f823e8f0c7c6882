"""Each kind of source gives the same samples, and everything wrong with a row is data."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.core.errors import SourceError
from factory.core.records import BadRow, Sample, from_row
from factory.sources.source import Columns, Source, SourceConfig, open_source

PUBLIC = Path(__file__).parents[2] / "shared" / "data" / "prompts"
needs_public_data = pytest.mark.skipif(not PUBLIC.is_dir(), reason="no shared/data")

ROWS = [
    {"prompt": "Why is the sky blue?", "id": "sky", "tags": ["science"], "reference": "Rayleigh"},
    {"prompt": "What is 2 + 2?", "id": "sum", "tags": ["maths", "easy"], "reference": "4"},
    {"prompt": "Say hello.", "id": "hello", "tags": None, "reference": None},
]
SAMPLES = [
    Sample(
        "sky", 0, [{"role": "user", "content": "Why is the sky blue?"}], ["science"], "Rayleigh"
    ),
    Sample("sum", 1, [{"role": "user", "content": "What is 2 + 2?"}], ["maths", "easy"], "4"),
    Sample("hello", 2, [{"role": "user", "content": "Say hello."}]),
]


def opened(path: Path, **options: Any) -> Source:
    return open_source(SourceConfig(path=path.name, **options), path.parent)


def read(path: Path, **options: Any) -> list[Sample | BadRow]:
    return list(opened(path, **options))


def jsonl(folder: Path, *rows: object, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def raw(folder: Path, content: bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def good(record: Sample | BadRow) -> Sample:
    assert isinstance(record, Sample), record
    return record


def bad(record: Sample | BadRow) -> BadRow:
    assert isinstance(record, BadRow), record
    return record


def one(folder: Path, row: object, **options: Any) -> Sample:
    """The sample that a single row makes."""
    [record] = read(jsonl(folder, row), **options)
    return good(record)


def error(folder: Path, row: object, **options: Any) -> str:
    """What is wrong with a single row."""
    [record] = read(jsonl(folder, row), **options)
    return bad(record).error


def refusal(path: Path, **options: Any) -> str:
    """Why a source is refused on opening."""
    with pytest.raises(SourceError) as caught:
        opened(path, **options)
    return str(caught.value)


def table() -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(ROWS)


# Formats ---------------------------------------------------------------------------------------


def test_jsonl(tmp_path: Path) -> None:
    assert read(jsonl(tmp_path, *ROWS)) == SAMPLES


def test_jsonl_gz(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(jsonl(tmp_path, *ROWS).read_bytes()))
    assert read(path) == SAMPLES


def test_parquet_across_row_groups(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table(), tmp_path / "rows.parquet", row_group_size=2)
    assert read(tmp_path / "rows.parquet") == SAMPLES


@pytest.mark.parametrize("kind", ["new_stream", "new_file"])
def test_arrow_stream_and_file(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa

    path = tmp_path / "rows.arrow"
    with getattr(pa.ipc, kind)(path, table().schema) as writer:
        writer.write_table(table(), max_chunksize=2)
    assert read(path) == SAMPLES
    assert opened(path).count() == 3


def test_compressed_arrow_with_other_columns(tmp_path: Path) -> None:
    import pyarrow as pa

    wide = table().add_column(0, "embedding", pa.array([[0.5], [0.25], None]))
    path = tmp_path / "rows.arrow"
    with pa.ipc.new_file(
        path, wide.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as w:
        w.write_table(wide)
    assert read(path) == SAMPLES


def test_saved_dataset(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(tmp_path / "rows")
    assert read(tmp_path / "rows") == SAMPLES


def test_saved_dataset_of_several_files(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(tmp_path / "rows", num_shards=2)
    assert len(list((tmp_path / "rows").glob("*.arrow"))) == 2
    source = opened(tmp_path / "rows")
    assert source.count() == 3
    for start in range(5):
        assert list(source.rows(start)) == SAMPLES[start:]


def test_saved_splits(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    splits = {"train": Dataset.from_list(ROWS[:1]), "test": Dataset.from_list(ROWS)}
    DatasetDict(splits).save_to_disk(tmp_path / "rows")
    assert read(tmp_path / "rows", split="test") == SAMPLES
    assert read(tmp_path / "rows") == SAMPLES[:1]
    assert "no split 'dev' (have: train, test)" in refusal(tmp_path / "rows", split="dev")


@pytest.mark.parametrize(("name", "delimiter"), [("rows.csv", ","), ("rows.tsv", "\t")])
def test_csv_and_tsv(tmp_path: Path, name: str, delimiter: str) -> None:
    text = "prompt,id,tags\nSay hello.,hello,\n2 + 2?,sum,maths\n".replace(",", delimiter)
    assert read(raw(tmp_path, text.encode(), name)) == [
        Sample("hello", 0, [{"role": "user", "content": "Say hello."}]),
        Sample("sum", 1, [{"role": "user", "content": "2 + 2?"}], ["maths"]),
    ]


def test_csv_gz(tmp_path: Path) -> None:
    path = raw(tmp_path, gzip.compress(b"prompt,id\nhi,7\n"), "rows.csv.gz")
    assert read(path) == [Sample("7", 0, [{"role": "user", "content": "hi"}])]


def test_csv_cells_hold_newlines_and_quotes(tmp_path: Path) -> None:
    path = raw(tmp_path, b'id,prompt\na,"one\ntwo, ""three"""\nb,four\n', "rows.csv")
    first, second = read(path)
    assert good(first).prompt[0]["content"] == 'one\ntwo, "three"'
    assert good(second).id == "b"


def test_files_from_windows(tmp_path: Path) -> None:
    text = b'\xef\xbb\xbf{"prompt": "a", "id": 1}\r\n\r\n{"prompt": "b", "id": 2}\r\n'
    assert [good(record).id for record in read(raw(tmp_path, text))] == ["1", "2"]
    text = b"\xef\xbb\xbfprompt,id\r\na,1\r\n\r\nb,2\r\n"
    assert read(raw(tmp_path, text, "rows.csv")) == [
        Sample("1", 0, [{"role": "user", "content": "a"}]),
        Sample("2", 1, [{"role": "user", "content": "b"}]),
    ]


def test_no_newline_at_the_end(tmp_path: Path) -> None:
    assert len(read(raw(tmp_path, b'{"prompt": "a"}\n{"prompt": "b"}'))) == 2


def test_parquet_reads_only_the_columns_it_needs(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    unreadable = pa.array([2**60], pa.timestamp("ms"))  # no Python datetime holds it
    pq.write_table(pa.table({"prompt": ["hi"], "at": unreadable}), tmp_path / "rows.parquet")
    assert good(*read(tmp_path / "rows.parquet")).index == 0


# Fields ----------------------------------------------------------------------------------------


def test_a_history_of_several_turns(tmp_path: Path) -> None:
    history = [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye."},
    ]
    assert one(tmp_path, {"prompt": history}).prompt == history


def test_sharegpt_names(tmp_path: Path) -> None:
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hi."},
        {"from": "gpt", "value": "Hello!"},
        {"from": "human", "value": "Bye."},
    ]
    sample = one(tmp_path, {"conversations": turns}, columns=Columns(prompt="conversations"))
    assert [turn["role"] for turn in sample.prompt] == ["system", "user", "assistant", "user"]
    assert sample.prompt[-1] == {"role": "user", "content": "Bye."}


def test_messages_from_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    messages = [{"role": "user", "content": "Hi."}]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([{"messages": messages}]), path)
    [sample] = read(path, columns=Columns(prompt="messages"))
    assert good(sample).prompt == messages


def test_columns_of_other_names(tmp_path: Path) -> None:
    row = {"question": "6 * 7?", "answer": 42, "key": 5, "topic": "maths", "persona": "A tutor."}
    columns = Columns(
        prompt="question", reference="answer", id="key", tags="topic", system="persona"
    )
    assert one(tmp_path, row, columns=columns) == Sample(
        "5",
        0,
        [{"role": "system", "content": "A tutor."}, {"role": "user", "content": "6 * 7?"}],
        ["maths"],
        "42",
    )


def test_system_of_the_row_goes_before_the_recipes(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"prompt": "a"}, {"prompt": "b", "system": "Row."})
    first, second = read(path, system="Recipe.")
    assert good(first).prompt[0] == {"role": "system", "content": "Recipe."}
    assert good(second).prompt[0] == {"role": "system", "content": "Row."}


def test_system_of_the_history_stays(tmp_path: Path) -> None:
    history = [{"role": "system", "content": "Own."}, {"role": "user", "content": "Hi."}]
    row = {"prompt": history, "system": "Row."}
    assert one(tmp_path, row, system="Recipe.").prompt == history


def test_an_absent_id_is_a_hash_of_the_prompt(tmp_path: Path) -> None:
    # python -c 'import hashlib; print(hashlib.blake2b(
    #     b"[{\"role\":\"user\",\"content\":\"hi\"}]", digest_size=8).hexdigest())'
    assert one(tmp_path, {"prompt": "hi"}).id == "c69fb9f3417824b7"
    assert one(tmp_path, {"prompt": "hi", "id": None, "tags": ["x"]}).id == "c69fb9f3417824b7"
    assert one(tmp_path, {"prompt": "ho"}).id != "c69fb9f3417824b7"


@pytest.mark.parametrize(
    ("value", "expected"), [(4, "4"), (0.5, "0.5"), (0, "0"), ("a", "a"), ("", None), (None, None)]
)
def test_references(tmp_path: Path, value: object, expected: str | None) -> None:
    assert one(tmp_path, {"prompt": "hi", "reference": value}).reference == expected


@pytest.mark.parametrize(
    ("value", "expected"), [("a", ["a"]), (["a", "b"], ["a", "b"]), ([], []), (None, []), ("", [])]
)
def test_tags(tmp_path: Path, value: object, expected: list[str]) -> None:
    assert one(tmp_path, {"prompt": "hi", "tags": value}).tags == expected


# Bad rows --------------------------------------------------------------------------------------


def test_bad_rows_keep_their_places(tmp_path: Path) -> None:
    path = raw(tmp_path, b'{"prompt": "a"}\n\n  \nnot json\n{"prompt": "b"}\n')
    first, second, third = read(path)
    assert good(first).index == 0
    assert bad(second).index == 1
    assert bad(second).line == 4
    assert bad(second).raw == "not json"
    assert bad(second).error.startswith("not JSON: ")
    assert good(third).index == 2


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([1, 2], "JSON, but a list and not an object"),
        ("text", "JSON, but a string and not an object"),
        (None, "JSON, but null and not an object"),
        ({"prompt": ""}, "field 'prompt' is an empty prompt"),
        ({"prompt": " \n\t"}, "field 'prompt' is an empty prompt"),
        ({"prompt": []}, "field 'prompt' is an empty prompt"),
        ({"prompt": None}, "field 'prompt' is null, expected a string or a list of messages"),
        ({"prompt": 7}, "field 'prompt' is a number, expected a string or a list of messages"),
        ({"prompt": {}}, "field 'prompt' is an object, expected a string or a list of messages"),
        ({"prompt": "a\0b"}, "field 'prompt' holds a NUL character; remove it"),
        (
            {"prompt": ["hi"]},
            "field 'prompt[0]' is a string, expected an object with role and content",
        ),
        (
            {"prompt": [{"role": "user", "content": None}]},
            "field 'prompt[0].content' is null, expected a string",
        ),
        ({"prompt": [{"content": "hi"}]}, "field 'prompt[0].role' is null, expected a string"),
        (
            {"prompt": [{"role": "tool", "content": "hi"}]},
            "field 'prompt[0]': unknown role 'tool', expected system, user, assistant",
        ),
        (
            {"prompt": [{"role": "user", "content": " "}]},
            "field 'prompt' is an empty prompt",
        ),
        (
            {"prompt": "hi", "tags": 3},
            "field 'tags' is a number, expected a string or a list of strings",
        ),
        (
            {"prompt": "hi", "tags": False},
            "field 'tags' is a boolean, expected a string or a list of strings",
        ),
        ({"prompt": "hi", "tags": ["a", 3]}, "field 'tags[1]' is a number, expected a string"),
        (
            {"prompt": "hi", "id": 1.5},
            "field 'id' is a number, expected a string or an integer",
        ),
        (
            {"prompt": "hi", "id": True},
            "field 'id' is a boolean, expected a string or an integer",
        ),
        (
            {"prompt": "hi", "reference": ["4"]},
            "field 'reference' is a list, expected a string or a number",
        ),
        ({"prompt": "hi", "system": 1}, "field 'system' is a number, expected a string"),
    ],
)
def test_rows_that_are_no_prompt(tmp_path: Path, row: object, expected: str) -> None:
    assert error(tmp_path, row) == expected


def test_a_finished_conversation_is_no_prompt(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}]
    assert error(tmp_path, {"messages": turns}, columns=Columns(prompt="messages")) == (
        "field 'messages' ends with a message of role 'assistant', expected 'user': "
        "remove the answer, or set source.columns.prompt to a field without it"
    )


def test_a_missing_prompt_names_the_likely_field(tmp_path: Path) -> None:
    assert error(tmp_path, {"question": "6 * 7?", "answer": "42"}) == (
        "no field 'prompt' (have: question, answer); set source.columns.prompt: question"
    )
    assert error(tmp_path, {"promt": "hi"}) == (
        "no field 'prompt' (have: promt); set source.columns.prompt: promt"
    )
    assert error(tmp_path, {}) == (
        "no field 'prompt' (have: nothing); set source.columns.prompt to the name of its "
        "prompt field"
    )


def test_a_misspelt_prompt_names_the_nearest_field(tmp_path: Path) -> None:
    row = {"messages": "hi", "question": "hi"}
    assert error(tmp_path, row, columns=Columns(prompt="qestion")) == (
        "no field 'qestion' (have: messages, question); set source.columns.prompt: question"
    )


def test_json_that_is_not_utf8(tmp_path: Path) -> None:
    [record] = read(raw(tmp_path, b'{"prompt": "caf\xe9"}\n'))
    assert bad(record).error == "not UTF-8: byte 0xe9 at byte offset 15 of the row"
    assert bad(record).raw == '{"prompt": "caf\\xe9"}'


def test_a_nul_byte_in_json(tmp_path: Path) -> None:
    [record] = read(raw(tmp_path, b'{"prompt": "a\0b"}\n'))
    assert bad(record).error == "a NUL byte at byte offset 13 of the row"


def test_json_nested_too_deeply(tmp_path: Path) -> None:
    first, second = read(raw(tmp_path, b"[" * 100_000 + b'\n{"prompt": "a"}\n'))
    assert bad(first).error.startswith("not JSON: ")
    assert len(bad(first).raw) == 2000
    assert good(second).index == 1


def test_a_line_without_end_is_one_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.sources.formats.text.MAX_LINE", 2**20)
    first, second = read(raw(tmp_path, b"x" * 2**22 + b'\n{"prompt": "a"}\n'))
    expected = "1 MiB or longer: newlines are missing, or a quote is not closed"
    assert bad(first).error == expected
    assert good(second).index == 1


def csv_errors(path: Path) -> dict[int | None, str]:
    """Errors by the line where their row starts."""
    return {r.line: r.error for r in read(path) if isinstance(r, BadRow)}


def test_csv_rows_of_the_wrong_width(tmp_path: Path) -> None:
    path = raw(tmp_path, b'prompt,id\n"a\nb",1\nc,2,3\nd\ne,5\n', "rows.csv")
    assert len(read(path)) == 4
    remedy = "quote a cell that holds the delimiter"
    assert csv_errors(path) == {
        4: f"3 cells where the header has 2; {remedy}",
        5: f"1 cell where the header has 2; {remedy}",
    }


def test_csv_line_numbers_after_quoted_newlines(tmp_path: Path) -> None:
    path = raw(tmp_path, b'prompt,id\r\n"a\r\nb\r\nc",1\r\n\r\n"  \r\n",2\r\n', "rows.csv")
    assert csv_errors(path) == {6: "field 'prompt' is an empty prompt"}


def test_csv_that_is_not_utf8(tmp_path: Path) -> None:
    path = raw(tmp_path, b"prompt,id\na,1\ncaf\xe9,2\nb,3\n", "rows.csv")
    first, second, third = read(path)
    assert bad(second).error == "not UTF-8: byte 0xe9 at byte offset 3 of the row"
    assert bad(second).line == 3
    assert bad(second).raw == "caf\\xe9,2"
    assert [good(first).id, good(third).id] == ["1", "3"]


def test_csv_nul_and_stray_quotes(tmp_path: Path) -> None:
    path = raw(tmp_path, b'prompt,id\na\0b,1\n"a"b,2\nc,3\n"d,4\n', "rows.csv")
    errors = csv_errors(path)
    assert errors[2] == "a NUL byte at byte offset 1 of the row"
    assert errors[3] == "not ','-separated: ',' expected after '\"'"
    assert errors[5] == "not ','-separated: unexpected end of data"
    assert len(errors) == 3


def test_blank_lines_of_tabs_are_rows_of_a_tsv(tmp_path: Path) -> None:
    path = raw(tmp_path, b"prompt\tid\n\n\t\n", "rows.tsv")
    assert csv_errors(path) == {3: "field 'prompt' is an empty prompt"}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columnar_text_that_is_not_utf8(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    offsets, text = pa.array([0, 2, 5, 7], pa.int32()).buffers()[1], pa.py_buffer(b"okno\xff!!")
    rows = pa.table({"prompt": pa.StringArray.from_buffers(3, offsets, text)})
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(rows, path)
    else:
        with pa.ipc.new_stream(path, rows.schema) as writer:
            writer.write_table(rows)
    first, second, third = read(path)
    assert bad(second).error == "not UTF-8: byte 0xff at byte offset 2 of a field"
    assert [good(record).prompt[0]["content"] for record in (first, third)] == ["ok", "!!"]


def test_damaged_arrow_offsets_are_never_followed(tmp_path: Path) -> None:
    import pyarrow as pa

    far = pa.array([0, 2, 2**30, 4], pa.int32()).buffers()[1]
    prompts = pa.StringArray.from_buffers(3, far, pa.py_buffer(b"okno"))
    with pa.ipc.new_stream(tmp_path / "rows.arrow", pa.schema({"prompt": pa.string()})) as writer:
        writer.write_batch(pa.record_batch({"prompt": prompts}))
    first, second, third = read(tmp_path / "rows.arrow")
    assert good(first).prompt[0]["content"] == "ok"
    assert bad(second).error.startswith("a value cannot be read: ")
    assert bad(third).error.startswith("a value cannot be read: ")


def test_bad_parquet_rows_show_what_was_read(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": [b"\xff"], "id": [7]}), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == [
        BadRow(
            0,
            None,
            "field 'prompt' is a bytes, expected a string or a list of messages",
            '{"prompt":"/w==","id":7}',
        )
    ]


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode) | st.lists(st.binary()).map(b"\n".join))
def test_any_bytes_give_one_record_a_line(content: bytes) -> None:
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    with tempfile.TemporaryDirectory() as folder:
        records = read(raw(Path(folder), content))
    assert len(records) == sum(1 for line in lines if line.strip())
    assert [record.index for record in records] == list(range(len(records)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value"]), inner)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["prompt", "id", "tags", "reference", "system"]), JSON))
def test_any_fields_give_one_record(row: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        [record] = read(jsonl(Path(folder), row))
    assert isinstance(record, BadRow) or record.prompt[-1]["role"] == "user"


@settings(deadline=None)
@given(st.text(alphabet='ab",\r\n\0é').map(str.encode) | st.binary())
def test_any_bytes_below_a_header_give_records(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        records = read(raw(Path(folder), b"prompt,id\n" + content, "rows.csv"))
    assert [record.index for record in records] == list(range(len(records)))


# Ranges, counts and digests --------------------------------------------------------------------


def every_format(folder: Path) -> list[Path]:
    """Seven rows with ids 0 to 6 (the fourth one bad), in every format."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    prompts = ["a", "b", "c", "", "e", "f", "gold"]
    rows = pa.table({"prompt": prompts, "id": [str(i) for i in range(7)]})
    lines = [f'"{prompt}",{i}' for i, prompt in enumerate(prompts)]
    pq.write_table(rows, folder / "rows.parquet", row_group_size=3)
    with pa.ipc.new_stream(folder / "rows.arrow", rows.schema) as writer:
        writer.write_table(rows, max_chunksize=3)
    Dataset(rows).save_to_disk(folder / "saved")
    return [
        jsonl(folder, *rows.to_pylist()),
        raw(folder, "\n".join(["prompt,id", *lines]).encode(), "rows.csv"),
        folder / "rows.parquet",
        folder / "rows.arrow",
        folder / "saved",
    ]


def test_reading_can_start_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.sources.formats.arrow.BATCH_ROWS", 2)
    for path in every_format(tmp_path):
        source = opened(path)
        everything = list(source)
        assert [record.index for record in everything] == list(range(7))
        assert [r.index for r in everything if isinstance(r, BadRow)] == [3]
        for start in range(9):
            assert list(source.rows(start)) == everything[start:], (path, start)


def test_limit_counts_from_the_first_row(tmp_path: Path) -> None:
    for path in every_format(tmp_path):
        source = opened(path, limit=5)
        assert [record.index for record in source] == [0, 1, 2, 3, 4]
        assert [record.index for record in source.rows(3)] == [3, 4]
        assert list(source.rows(5)) == list(source.rows(6)) == []


def test_counts(tmp_path: Path) -> None:
    for path in every_format(tmp_path):
        assert opened(path).count() == 7
        assert opened(path, limit=5).count() == 5
        assert opened(path, limit=100).count() == 7


def test_names(tmp_path: Path) -> None:
    names = [opened(path).name for path in every_format(tmp_path)]
    assert names == ["rows.jsonl", "rows.csv", "rows.parquet", "rows.arrow", "saved"]


def test_digest_changes_with_content_and_config(tmp_path: Path) -> None:
    for path in every_format(tmp_path):
        digest = opened(path).digest()
        assert len(digest) == 32
        assert opened(path).digest() == digest
        assert opened(path, system="Be brief.").digest() != digest
        data = next(path.glob("*.arrow")) if path.is_dir() else path
        content = data.read_bytes()
        data.write_bytes(content.replace(b"gold", b"mold"))
        assert opened(path).digest() != digest, path
        data.write_bytes(content)
        assert opened(path).digest() == digest


# What the source has besides -------------------------------------------------------------------


def test_other_columns_go_along(tmp_path: Path) -> None:
    path = raw(
        tmp_path,
        b'{"prompt": "a", "topic": "x", "n": 123456789012345678901234567890, "v": [0.5], "z": null}\n'
        b'{"prompt": "b", "meta": {"from": ["web"]}}\n{"prompt": "c"}\n',
    )
    assert opened(path).carried() == ["topic", "n", "v", "z", "meta"]
    assert [good(record).extra for record in read(path)] == [
        '{"topic":"x","n":123456789012345678901234567890}',
        '{"meta":{"from":["web"]}}',
        None,
    ]


def test_other_columns_of_a_table_go_along(tmp_path: Path) -> None:
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    day = datetime.date(2024, 1, 31)
    rows = pa.table({"prompt": ["a"], "day": [day], "picture": [b"\xff"], "part": ["x"]})
    pq.write_table(rows, tmp_path / "rows.parquet")
    [sample] = read(tmp_path / "rows.parquet")
    assert good(sample).extra == '{"day":"2024-01-31","part":"x"}'


def test_samples_of_traces_without_other_columns_can_be_read() -> None:
    old = {"id": "a", "index": 0, "prompt": [{"role": "user", "content": "a"}]}
    assert from_row(old).extra is None


# Text as it was written -------------------------------------------------------------------------


def test_a_json_list_and_lines_under_its_name(tmp_path: Path) -> None:
    assert read(raw(tmp_path, json.dumps(ROWS, indent=1).encode(), "rows.json")) == SAMPLES
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    assert read(raw(tmp_path, lines, "rows.json")) == SAMPLES
    assert read(raw(tmp_path, gzip.compress(json.dumps(ROWS).encode()), "rows.json.gz")) == SAMPLES
    assert "not a JSON list" in refusal(raw(tmp_path, b"[{},", "rows.json"))


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_csv_with_another_delimiter_is_read(tmp_path: Path, mark: str) -> None:
    text = f'prompt{mark}id{mark}tags\n"Why, and how?"{mark}7{mark}"a, b"\n'
    [sample] = read(raw(tmp_path, text.encode("utf-8-sig"), "rows.csv"))
    assert (good(sample).id, good(sample).tags) == ("7", ["a", "b"])
    assert good(sample).prompt[0]["content"] == "Why, and how?"


def test_utf_16_is_told_with_its_remedy(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-16-le"):
        for name in ("rows.csv", "rows.jsonl"):
            message = refusal(raw(tmp_path, '{"prompt": "hello"}'.encode(encoding), name))
            assert "UTF-16 and not UTF-8; write it again: iconv -f UTF-16 -t UTF-8" in message


@pytest.mark.parametrize(
    ("written", "reference"),
    [
        ('"2024-01-31"', "2024-01-31"),
        ('"007"', "007"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("3.14159265358979323846264338327", "3.14159265358979323846264338327"),
        ("0.1", "0.1"),
    ],
)
def test_references_keep_every_digit(tmp_path: Path, written: str, reference: str) -> None:
    [sample] = read(raw(tmp_path, f'{{"prompt": "a", "reference": {written}}}'.encode()))
    assert good(sample).reference == reference


@pytest.mark.parametrize("number", ["1e999", "1e-999", "9" * 5000, "NaN", "0." + "3" * 2000])
def test_numbers_that_nothing_holds_are_bad_rows(tmp_path: Path, number: str) -> None:
    [record] = read(raw(tmp_path, f'{{"prompt": "a", "n": {number}}}'.encode()))
    assert bad(record).error.startswith("not JSON: ")


# Sources that cannot be read -------------------------------------------------------------------


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    jsonl(tmp_path, name="everyday.jsonl")
    message = refusal(tmp_path / "everday.jsonl")
    assert f"{tmp_path}/everday.jsonl: no such file" in message
    assert f"(nearest in {tmp_path}: everyday.jsonl)" in message


def test_a_missing_folder_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    with pytest.raises(SourceError, match=r"\(nearest in .*: prompts\)"):
        open_source(SourceConfig(path="promts/a/b.jsonl"), tmp_path)


def test_an_unknown_extension_lists_those_supported(tmp_path: Path) -> None:
    message = refusal(raw(tmp_path, b"", "rows.xlsx"))
    assert "unknown kind of file '.xlsx'" in message
    assert ".jsonl, .jsonl.gz, .csv, .csv.gz, .tsv, .tsv.gz, .parquet, .arrow" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "rows.csv:1: the file is empty; the first line must name the columns"),
        (b"\n\n", "rows.csv:1: the file is empty; the first line must name the columns"),
        (b"prompt,,id\na,b,c\n", "rows.csv:1: a column has no name; "),
        (b"caf\xe9,id\n", "rows.csv:1: not UTF-8: byte 0xe9 at byte offset 3 of the row; "),
        (b"prompt,id,prompt\n", "more than one column is named 'prompt'; rename one"),
    ],
)
def test_csv_without_a_header(tmp_path: Path, content: bytes, expected: str) -> None:
    assert expected in refusal(raw(tmp_path, content, "rows.csv"))


def test_a_schema_without_the_prompt(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), tmp_path / "rows.parquet")
    expected = "no field 'prompt' (have: question, answer); set source.columns.prompt: question"
    assert refusal(tmp_path / "rows.parquet") == f"rows.parquet: {expected}"
    path = raw(tmp_path, b"question,answer\na,b\n", "rows.csv")
    assert refusal(path) == f"rows.csv: {expected}"


def test_a_renamed_column_that_is_nowhere(tmp_path: Path) -> None:
    expected = "no field 'anwser' (have: prompt, answer); set source.columns.reference: answer"
    columns = Columns(reference="anwser")
    path = raw(tmp_path, b"prompt,answer\na,b\n", "rows.csv")
    assert refusal(path, columns=columns) == f"rows.csv: {expected}"
    path = jsonl(tmp_path, {"prompt": "a"}, {"prompt": "b", "answer": "c"})
    assert refusal(path, columns=columns) == f"rows.jsonl: {expected}"


def test_a_renamed_column_may_be_absent_from_some_json_rows(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"prompt": "a"}, {"prompt": "b", "answer": "c"})
    first, second = read(path, columns=Columns(reference="answer"))
    assert good(first).reference is None
    assert good(second).reference == "c"


def test_a_renamed_column_may_come_late(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *[{"prompt": "a"}] * 1500, {"prompt": "b", "answer": "c"})
    records = read(path, columns=Columns(reference="answer"))
    assert good(records[1500]).reference == "c"


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow", "rows.jsonl.gz", "rows.csv.gz"])
def test_corrupt_files(tmp_path: Path, name: str) -> None:
    message = refusal(raw(tmp_path, b"not what the name says", name))
    assert f"{tmp_path}/{name}: cannot be read: " in message
    assert "write or copy it again" in message


@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl.gz"])
def test_a_file_cut_short_is_refused_wherever_it_is_noticed(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, rows = tmp_path / f"rows.{kind}", table()
    if kind == "parquet":
        pq.write_table(rows, path)
    elif kind == "arrow":
        with pa.ipc.new_stream(path, rows.schema) as writer:
            writer.write_table(rows)
    else:
        path.write_bytes(gzip.compress(jsonl(tmp_path, *ROWS).read_bytes()))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match="cannot be read"):
        read(path)


def test_a_damaged_parquet_page(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["hello " * 50] * 500}), path, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read"):
        read(path)


def test_a_folder_that_datasets_did_not_save(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    jsonl(folder, name="a.jsonl")
    message = refusal(folder)
    assert "not one saved by datasets.save_to_disk" in message
    assert message.endswith("name one of its files (a.jsonl)")


def test_a_damaged_saved_dataset(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(tmp_path / "rows")
    (tmp_path / "rows" / "state.json").write_text("{")
    assert f"{tmp_path}/rows: cannot be read: " in refusal(tmp_path / "rows")


# Hub -------------------------------------------------------------------------------------------


class FakeHub:
    """A Hub of one dataset, `owner/rows`, whose commit is `commit`."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets
        import huggingface_hub

        self.asked: list[Any] = []
        self.commit = "abc"
        data = datasets.load_dataset(
            "json", data_files=str(path), split="train", streaming=True
        ).cast(datasets.Dataset.from_list(ROWS).features)

        def dataset_info(_: Any, name: str, *, revision: str | None, **__: Any) -> Any:
            if name != "owner/rows":
                raise ConnectionError("404: no such dataset")
            return SimpleNamespace(sha="commit of v1" if revision == "v1" else self.commit)

        def load_dataset(*args: Any, **options: Any) -> Any:
            self.asked.append((args, options))
            return data

        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    (tmp_path / "hub").mkdir()
    return FakeHub(jsonl(tmp_path / "hub", *ROWS), monkeypatch)


def test_hub_dataset_is_streamed_at_one_commit(tmp_path: Path, hub: FakeHub) -> None:
    source = open_source(SourceConfig(path="owner/rows", subset="main"), tmp_path)
    assert list(source) == SAMPLES
    assert list(source.rows(1)) == SAMPLES[1:]
    assert source.name == "owner/rows"
    assert source.count() is None
    assert hub.asked == [
        (("owner/rows", "main"), {"split": "train", "streaming": True, "revision": "abc"})
    ]


def test_hub_dataset_can_be_of_a_revision(tmp_path: Path, hub: FakeHub) -> None:
    open_source(SourceConfig(path="owner/rows", revision="v1"), tmp_path)
    assert hub.asked[0][1]["revision"] == "commit of v1"


def test_hub_digest_changes_with_the_commit(tmp_path: Path, hub: FakeHub) -> None:
    config = SourceConfig(path="owner/rows")
    digest = open_source(config, tmp_path).digest()
    assert open_source(config, tmp_path).digest() == digest
    hub.commit = "def"
    assert open_source(config, tmp_path).digest() != digest


def test_hub_dataset_without_the_prompt(tmp_path: Path, hub: FakeHub) -> None:
    config = SourceConfig(path="owner/rows", columns=Columns(prompt="promt"))
    with pytest.raises(SourceError, match=r"set source\.columns\.prompt: prompt"):
        open_source(config, tmp_path)


def test_hub_that_cannot_be_reached(tmp_path: Path, hub: FakeHub) -> None:
    jsonl(tmp_path, name="everyday.jsonl")
    with pytest.raises(SourceError) as caught:
        open_source(SourceConfig(path="everyday"), tmp_path)
    message = str(caught.value)
    assert message.startswith("Hub dataset 'everyday', split 'train': 404: no such dataset; check")
    assert message.endswith(f"(nearest in {tmp_path}: everyday.jsonl))")


@pytest.mark.parametrize("path", ["./rows", "/rows", "~/rows", "a/b/c", "../rows", "rows.jsonl"])
def test_paths_that_are_no_hub_id(tmp_path: Path, path: str) -> None:
    with pytest.raises(SourceError, match="no such file"):
        open_source(SourceConfig(path=path), tmp_path)


def test_a_version_number_is_no_extension(tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(SourceError, match=r"Hub dataset 'owner/data-v1\.5'"):
        open_source(SourceConfig(path="owner/data-v1.5"), tmp_path)


# Public data -----------------------------------------------------------------------------------


@needs_public_data
def test_gsm8k_has_no_bad_rows() -> None:
    columns = Columns(prompt="question", reference="answer")
    samples = read(PUBLIC / "gsm8k_train_2000.jsonl", columns=columns)
    assert len(samples) == 2000
    assert all("####" in (good(sample).reference or "") for sample in samples)


@needs_public_data
def test_mt_bench_has_no_bad_rows() -> None:
    samples = read(PUBLIC / "mt_bench_80.jsonl", columns=Columns(tags="category"))
    assert [good(sample).id for sample in samples] == [str(i) for i in range(81, 161)]
    assert good(samples[0]).tags == ["writing"]
