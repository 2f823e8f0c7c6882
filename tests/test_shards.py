from __future__ import annotations

import re
import types
import typing
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factory.core.errors import FactoryError, SampleError
from factory.core.records import (
    Candidate,
    Critique,
    Message,
    Reading,
    Sample,
    Score,
    Verdict,
    to_row,
)
from factory.pipeline import traces as shards
from factory.pipeline.traces import (
    check_storable,
    drop_parts_from,
    part_path,
    read_samples,
    write_json,
    write_part,
)
from tests.test_records import samples

EMPTY = Sample("empty", 0, [{"role": "user", "content": ""}])
FULL = Sample(
    id="日本語",
    index=2**40,
    prompt=[{"role": "system", "content": "é"}, {"role": "user", "content": "👩‍👩‍👧 NUL \0 end"}],
    tags=["safety", ""],
    reference="42",
    candidates=[
        Candidate(0, "first\r\n\t", "generate", "policy", "ab" * 16),
        Candidate(1, "𝔘nicode", "revise", "policy", "cd" * 16, 0, 1, "length", 96, "too-short"),
    ],
    critiques=[Critique(0, 1, ["kind-words", "plain-words"], "Rude.", "ef" * 16, "Say why.", 2)],
    verdicts=[
        Verdict(
            "judge",
            1,
            0,
            0.675,
            0.15,
            True,
            0.875,
            ["kind-words"],
            [
                Reading("kind-words", False, 0.9, 0.999, "01" * 16, "Because."),
                Reading("kind-words", True, None, 1e-9, "02" * 16),
            ],
        ),
        Verdict("judge", 1, 0, None, None, None, None, [], []),
    ],
    scores=[Score("helpful", 0, 3.7, "why", ["03" * 16]), Score("helpful", 1, None)],
)


def written(run: Path, *parts: list[Sample]) -> Path:
    for part, its in enumerate(parts):
        write_part(run, part, its)
    return run


# Round trip ------------------------------------------------------------------------------------


def test_samples_come_back_as_they_were_in_order(tmp_path: Path) -> None:
    assert list(read_samples(written(tmp_path, [FULL, EMPTY], [EMPTY, FULL, FULL]))) == [
        *(FULL, EMPTY),
        *(EMPTY, FULL, FULL),
    ]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(samples, max_size=3))
def test_any_samples_come_back_as_they_were(tmp_path: Path, some: list[Sample]) -> None:
    write_part(tmp_path, 0, some)
    assert list(read_samples(tmp_path)) == some


def test_a_part_whose_samples_all_failed_is_empty(tmp_path: Path) -> None:
    assert list(read_samples(written(tmp_path, [], [FULL]))) == [FULL]


def test_a_run_without_traces_has_no_samples(tmp_path: Path) -> None:
    assert list(read_samples(tmp_path)) == []


def test_the_same_samples_are_the_same_bytes(tmp_path: Path) -> None:
    written(tmp_path / "one", [FULL, EMPTY])
    written(tmp_path / "two", [EMPTY])
    written(tmp_path / "two", [FULL, EMPTY])
    assert (
        part_path(tmp_path / "one", 0).read_bytes() == part_path(tmp_path / "two", 0).read_bytes()
    )


def test_parts_are_read_by_number_and_not_by_name(tmp_path: Path) -> None:
    first, second = (msgspec.structs.replace(EMPTY, id=i) for i in "ab")
    write_part(tmp_path, 99_999, [first])
    write_part(tmp_path, 100_000, [second])
    assert [s.id for s in read_samples(tmp_path)] == ["a", "b"]


def test_files_that_are_no_parts_are_not_read(tmp_path: Path) -> None:
    run = written(tmp_path, [FULL])
    (run / "traces" / "part-00001.half").write_bytes(b"half")
    (run / "traces" / "part-00000 (copy).parquet").write_bytes(b"copy")
    assert list(read_samples(run)) == [FULL]


def _arrow_of(annotation: object) -> pa.DataType:
    """The Arrow type that a record's field is stored as."""
    if isinstance(annotation, types.UnionType):
        (annotation,) = (a for a in typing.get_args(annotation) if a is not type(None))
    if typing.get_origin(annotation) is list:
        return pa.list_(_arrow_of(typing.get_args(annotation)[0]))
    simple = {str: pa.string(), int: pa.int32(), float: pa.float64(), bool: pa.bool_()}
    if annotation in simple:
        return simple[annotation]
    hints = typing.get_type_hints(annotation)
    return pa.struct({name: _arrow_of(hint) for name, hint in hints.items()})


def test_a_trace_has_a_column_for_every_field_of_every_record() -> None:
    assert set(typing.get_type_hints(Message)) == {"role", "content"}
    expected = {
        name: pa.int64() if name == "index" else _arrow_of(hint)
        for name, hint in typing.get_type_hints(Sample).items()
    }
    assert shards.schema() == pa.schema(expected)


# Whole or absent -------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = written(tmp_path, [EMPTY])

    def fail(table: pa.Table, where: Path, **_: object) -> None:
        where.write_bytes(b"PAR1 half of it")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", fail)
        with pytest.raises(OSError, match="disk full"):
            write_part(run, 0, [FULL])
        with pytest.raises(OSError, match="disk full"):
            write_part(run, 1, [FULL])
    assert list(read_samples(run)) == [EMPTY]
    drop_parts_from(run, 1)
    assert [path.name for path in (run / "traces").iterdir()] == ["part-00000.parquet"]


def test_parts_beyond_the_end_are_dropped(tmp_path: Path) -> None:
    run = written(tmp_path, [FULL], [EMPTY], [EMPTY])
    write_part(run, 100_000, [EMPTY])
    drop_parts_from(run, 1)
    assert list(read_samples(run)) == [FULL]
    drop_parts_from(run, 0)
    assert list((run / "traces").iterdir()) == []


def test_dropping_parts_of_a_run_without_traces_does_nothing(tmp_path: Path) -> None:
    drop_parts_from(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_json_file_is_replaced_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"rows": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "manifest.json", {"rows": object()})
    write_json(tmp_path / "other.json", {"é": [1, None]})
    assert (tmp_path / "manifest.json").read_text() == '{\n  "rows": 1\n}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "other.json"]


@pytest.mark.parametrize("damage", ["cut", "garbage", "flipped"])
def test_a_damaged_part_is_named_with_what_to_do(tmp_path: Path, damage: str) -> None:
    path = part_path(written(tmp_path, [FULL] * 50), 0)
    whole = path.read_bytes()
    flipped = whole[:4] + bytes(255 - byte for byte in whole[4:1500]) + whole[1500:]
    path.write_bytes({"cut": whole[:-20], "garbage": b"x" * 500, "flipped": flipped}[damage])
    with pytest.raises(
        FactoryError, match=r"(?s)part-00000.*cannot be read.*move .*manifest\.json"
    ):
        list(read_samples(tmp_path))


def test_a_part_of_another_version_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = part_path(written(tmp_path, [FULL]), 0)
    pq.write_table(pa.table({"id": ["a"], "question": ["why?"]}), path)
    with pytest.raises(FactoryError, match=r"cannot be read.*run the recipe again"):
        list(read_samples(tmp_path))


# What a trace cannot hold ----------------------------------------------------------------------


def test_ordinary_samples_can_be_stored() -> None:
    check_storable(FULL)
    check_storable(EMPTY)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (Sample("s", 0, [], reference="half \ud83d"), "surrogates not allowed"),
        (Sample("s", 0, [], scores=[Score("n", 0, np.float32(1))]), "numpy.float32"),
        (Sample("s", 0, [], scores=[Score("n", 0, "1")]), "got `str` - at `$.scores[0].value`"),
        (Sample("s", 0, [], candidates=[None]), "Expected `object`"),
        (Sample("s", 0, [{"role": "user"}]), "missing required field `content`"),
        (Sample("s", 2**70, []), "2**64"),
        (None, "Expected `object`"),
    ],
)
def test_what_a_users_stage_must_not_put_in_fails_its_sample(
    broken: Sample, complaint: str
) -> None:
    with pytest.raises(SampleError, match=re.escape(complaint)):
        check_storable(broken)


def test_nothing_that_can_be_stored_fails_to_be_written(tmp_path: Path) -> None:
    odd = msgspec.structs.replace(EMPTY, scores=[Score("n", 0, float("inf")), Score("n", 0, 1)])
    check_storable(odd)
    assert to_row(next(read_samples(written(tmp_path, [odd])))) == to_row(odd)
