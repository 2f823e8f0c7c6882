"""Runs and exports, stopped in every way, and what is on disk then (see `tests/faults.py`)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import faults


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_interrupted_at_any_file_operation_the_same_command_ends_as_if_it_had_not_been(
    tmp_path: Path,
) -> None:
    """Every 120th; `python -m benchmarks.faults` takes all."""
    found = list(faults.start(tmp_path / "work", "--every", "120"))
    assert [each["wrong"] for each in found] == [[]] * len(faults.SCENARIOS)
    assert sum(sum(each["ends"].values()) for each in found) > 10
