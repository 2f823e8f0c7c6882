"""Files that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.core.files import whole, write_whole


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path: Path, is_shared: bool) -> None:
    path = tmp_path / "a.json"
    write_whole(path, {"a": "ü"})

    def stopped() -> None:
        with whole(path, is_shared=is_shared) as half:
            assert half.parent == tmp_path  # of another file system it could not be renamed
            half.write_text("half of i")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert {p.name: p.read_text("utf-8") for p in tmp_path.iterdir()} == {
        "a.json": '{\n  "a": "ü"\n}\n'
    }


def test_what_a_kill_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.half").write_text("more than is written now")
    with whole(tmp_path / "a") as half:
        half.write_text("all")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "all"}
