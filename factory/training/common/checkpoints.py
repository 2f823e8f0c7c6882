"""Checkpoints on disk: sealed once they are whole, and checked before a training continues from one.

    checkpoints/checkpoint-N/   the trainer's files after step N
        sealed.json             size in bytes and hash of every other file; written last

A checkpoint is sealed when all of it is on disk; only then is an older one deleted. Before a training
continues from one, its files are compared with the seal. A checkpoint without a seal (of an older
version, or after a kill) is checked for what loading needs: JSON that parses, weights as long as their
headers say, and complete archives of optimizer, schedule and random states.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from factory.core.files import file_hash, sync, write_whole

SEAL = "sealed.json"

_PREFIX = "checkpoint-"
_NEEDED = ("trainer_state.json", "optimizer.pt", "scheduler.pt")


class _File(msgspec.Struct, frozen=True):
    bytes: int
    hash: str
    """xxh3, 128 bits, in hex."""


def all_of(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, whole or not, newest first."""
    found = [p for p in folder.glob(f"{_PREFIX}*") if p.name.removeprefix(_PREFIX).isdecimal()]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_PREFIX))


def newest(folder: Path, *, reads: bool = True) -> tuple[Path | None, dict[Path, str]]:
    """The newest whole checkpoint, and the problem of each newer one. `reads`: as for `problem`."""
    broken: dict[Path, str] = {}
    for checkpoint in all_of(folder):
        if reason := problem(checkpoint, reads=reads):
            broken[checkpoint] = reason
        else:
            return checkpoint, broken
    return None, broken


def seal(checkpoint: Path) -> None:
    """Force all files to disk, then write down their sizes and hashes."""
    files: dict[str, _File] = {}
    for file in _files(checkpoint):
        sync(file)
        files[str(file.relative_to(checkpoint))] = _File(file.stat().st_size, file_hash(file))
    for folder in (checkpoint, *(p for p in checkpoint.rglob("*") if p.is_dir())):
        sync(folder)
    write_whole(checkpoint / SEAL, msgspec.to_builtins(files))
    sync(checkpoint.parent)


def keep_newest(folder: Path, limit: int | None) -> None:
    """Delete all but the newest `limit` checkpoints. None, 0 and less: none."""
    if limit is not None and limit > 0:
        for older in all_of(folder)[limit:]:
            _delete(older)


def delete_after(folder: Path, step: int) -> None:
    """Delete checkpoints of later steps: a training that continues at `step` writes them again."""
    for checkpoint in all_of(folder):
        if step_of(checkpoint) > step:
            _delete(checkpoint)


def problem(checkpoint: Path, *, reads: bool = True) -> str:
    """The reason why no training can continue from a checkpoint. Empty: one can. `reads`: compare the
    contents with the seal too, not only the sizes."""
    for name in _NEEDED:
        if not (checkpoint / name).is_file():
            return f"it has no {name}"
    names = [file.name for file in _files(checkpoint)]
    if not any(name.endswith(".safetensors") for name in names):
        return "it has no weights"
    # ppo keeps no random state: what it draws follows from the step.
    has_states = "trained.safetensors" in names or any(n.startswith("rng_state") for n in names)
    if not has_states:
        return "it has no random state"
    try:
        if (checkpoint / SEAL).is_file():
            return _unlike_seal(checkpoint, reads=reads)
        return _cannot_load(checkpoint)
    except OSError as error:
        return str(error)


def _unlike_seal(checkpoint: Path, *, reads: bool) -> str:
    try:
        sealed = msgspec.json.decode((checkpoint / SEAL).read_bytes(), type=dict[str, _File])
    except msgspec.DecodeError as error:
        return f"{SEAL} cannot be read: {error}"
    for name, file in sealed.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is gone"
        if (size := path.stat().st_size) != file.bytes:
            return f"{name} has {size} bytes, not {file.bytes}"
    for name, file in sealed.items() if reads else ():
        if file_hash(checkpoint / name) != file.hash:
            return f"{name} has changed since it was written"
    return ""


def _cannot_load(checkpoint: Path) -> str:
    for file in _files(checkpoint):
        name = str(file.relative_to(checkpoint))
        if file.suffix == ".json":
            try:
                value = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                return f"{name} cannot be read: {error}"
            if name.endswith(".safetensors.index.json") and (gone := _missing_part(file, value)):
                return gone
        elif file.suffix == ".safetensors":
            if (size := file.stat().st_size) != (wanted := _safetensors_size(file)):
                return f"{name} has {size} bytes, not {wanted or 'those of a safetensors file'}"
        elif file.suffix in (".pt", ".pth") and not zipfile.is_zipfile(file):
            return f"{name} is cut short: it has {file.stat().st_size} bytes and no end"
    return ""


def _missing_part(index: Path, value: Any) -> str:
    parts = value.get("weight_map", {}).values() if isinstance(value, dict) else ()
    gone = sorted({part for part in parts if not (index.parent / str(part)).is_file()})
    return f"{gone[0]} is gone" if gone else ""


def _safetensors_size(file: Path) -> int | None:
    """The size in bytes that a safetensors header states: 8 bytes for the header's length, the header,
    the tensors. None: there is no valid header."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > file.stat().st_size:
            return None
        try:
            header = json.loads(stream.read(length))
            ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return None
    return 8 + length + max(ends, default=0)


def _files(checkpoint: Path) -> Iterator[Path]:
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != SEAL and not path.name.startswith(f".{SEAL}."):
            yield path


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint, seal and state first: a kill halfway leaves none that looks whole."""
    for name in (SEAL, "trainer_state.json"):
        (checkpoint / name).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)
