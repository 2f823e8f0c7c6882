"""`state.json` of a folder that `datasets.save_to_disk` wrote, or that we wrote as it does: which of
its files hold the rows. A folder without one is no dataset.

Its form is private to `datasets` and documented nowhere; `tests/test_saved.py` fails if it changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

STATE = "state.json"


class _File(msgspec.Struct):
    filename: str


class _State(msgspec.Struct):
    data_files: list[_File] = msgspec.field(name="_data_files")


def is_saved(folder: Path) -> bool:
    return (folder / STATE).is_file()


def file_names(folder: Path) -> list[str]:
    """The Arrow streams that are the rows, in order; a damaged file may name anything. Raises
    `OSError`, `ValueError` or `RecursionError`."""
    state = msgspec.json.decode((folder / STATE).read_bytes(), type=_State)
    return [file.filename for file in state.data_files]


def state(names: Iterable[str], fingerprint: str) -> dict[str, object]:
    """What the file says of a dataset in these files."""
    return {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
