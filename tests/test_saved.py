"""`state.json`: what `datasets` writes is what we read, and what we write is what it reads."""

from __future__ import annotations

import json
from pathlib import Path

from datasets import Dataset, load_from_disk

from factory.core import saved


def test_datasets_writes_its_state_as_we_know_it(tmp_path: Path) -> None:
    Dataset.from_dict({"a": [1, 2, 3]}).save_to_disk(tmp_path, num_shards=2)
    told = json.loads((tmp_path / saved.STATE).read_text())
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert saved.is_saved(tmp_path)
    assert saved.file_names(tmp_path) == names
    assert saved.state(names, told["_fingerprint"]) == told


def test_datasets_reads_the_state_that_we_write(tmp_path: Path) -> None:
    Dataset.from_dict({"a": [1, 2]}).save_to_disk(tmp_path, num_shards=2)
    second = saved.state(["data-00001-of-00002.arrow"], "0123456789abcdef")
    (tmp_path / saved.STATE).write_text(json.dumps(second))
    assert load_from_disk(str(tmp_path)).to_list() == [{"a": 2}]
