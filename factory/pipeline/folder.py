"""A run's folder: its owner, recovery after a kill, and checks that its files are intact.

    RUN/manifest.json, traces/, quarantine.jsonl, datasets/    the current run; untouched meanwhile
    RUN/.next/     a newer run while it is made, with a manifest of its own
    RUN/.ready/    the newer run once it is whole, until it has replaced the current one

One rename, `.next` to `.ready`, makes the newer run count. Then its files are moved into place, the
manifest last. If a kill interrupts that, the next process to lock the folder finishes it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from factory.core.errors import FactoryError, RecipeError
from factory.core.files import sync
from factory.core.lock import LOCK, alone_in, is_held
from factory.core.records import Failure
from factory.export import write
from factory.pipeline import manifest as manifests
from factory.pipeline import traces as shards
from factory.pipeline.ledger import COUNT
from factory.pipeline.manifest import Manifest
from factory.pipeline.traces import TracePart

NEXT = ".next"
_READY = ".ready"
# Files that a run, a preview or a phase leaves when it is killed before it writes a manifest.
_EARLY = re.compile(
    r"\.lock|logs|models|before-.+|ledger\.sqlite(-\w+)?|manifest\.json\.half|progress\.json(\.half)?"
)
LEDGER = "ledger.sqlite"
_KEPT = (LEDGER, "traces")
_SHOWN = 3


def refuse_others(out: Path) -> None:
    """Raise `RecipeError` if the folder holds anything that no run has made."""
    if out.exists() and not out.is_dir():
        raise RecipeError(f"--out {out} is a file; name a folder")
    try:
        names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    except OSError as error:
        raise FactoryError(f"cannot read {out} ({error}); choose another --out") from error
    # Left when the user moved the manifest away, as our errors advise. If the ledger is elsewhere,
    # there are traces.
    is_left = {LOCK, "quarantine.jsonl"} <= names and not names.isdisjoint(_KEPT)
    is_run = manifests.may_be_ours(out) if "manifest.json" in names else is_left
    others = sorted(name for name in names if not _EARLY.fullmatch(name))
    if is_run or (LOCK in names and not others):
        return
    if others := others or sorted(names):
        shown = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
        raise RecipeError(
            f"--out {out} holds files that no run has made ({shown}) and that would be "
            "overwritten; name another folder, or empty this one"
        )


@contextlib.contextmanager
def writing_in(out: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into a `FactoryError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise FactoryError(
            f"cannot write in {out} ({error}); free some space or fix the folder and run "
            "again; finished work is kept"
        ) from error


# The ledger ---------------------------------------------------------------------------------------


def ledger_of(out: Path) -> Path:
    """The ledger that the run in `out` began with; before it has one, the folder's own."""
    manifest = manifests.read(out)
    return out / (manifest.ledger if manifest and manifest.ledger else LEDGER)


def calls_in(ledger: Path) -> int | None:
    """The number of calls on disk. None: there is no ledger, or it cannot be read now."""
    with contextlib.suppress(sqlite3.Error):
        if ledger.is_file():
            uri = f"{ledger.absolute().as_uri()}?mode=ro"
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=1)) as connection:
                return int(connection.execute(COUNT).fetchone()[0])
    return None


def ledger_name(out: Path, ledger: Path) -> str:
    """A ledger's name in the manifest. Empty: the folder's own. Relative: it moves along with the
    folder that the run is in. Else absolute."""
    ledger, out = (path.absolute().resolve() for path in (ledger, out))
    if ledger == out / LEDGER:
        return ""
    return os.path.relpath(ledger, out) if ledger.is_relative_to(out.parent) else str(ledger)


def prepare_ledger(out: Path, named: Path | None) -> None:
    """Make the folder of a ledger that the user named.

    If none is named, raises `FactoryError` if the run began with a ledger elsewhere that no longer
    exists: without it every call would be made again."""
    if named is not None:
        named.parent.mkdir(parents=True, exist_ok=True)
        return
    ledger = ledger_of(out)
    if ledger.parent != out and not ledger.is_file():
        raise FactoryError(
            f"{out} remembers its calls in {ledger}, which does not exist: put it back, or name a "
            "ledger with --ledger FILE (calls that are not in it are made again)"
        )


# Recovery after a kill ----------------------------------------------------------------------------


def begin(work: Path, manifest: Manifest) -> None:
    """Write the manifest durably, then remove files that only an older manifest names."""
    work.mkdir(exist_ok=True)
    manifest.save(work)
    shards.drop_parts_from(work, manifest.parts)


def take_place(out: Path) -> None:
    """Replace the run by the one in `.next`, which must be whole."""
    (out / NEXT).rename(out / _READY)
    sync(out)
    recover(out)


def recover(out: Path) -> None:
    """Finish moving `.ready` into place. The caller must hold the folder's lock."""
    ready = out / _READY
    if (ready / "manifest.json").exists():
        for path in sorted(ready.iterdir()):
            target = out / path.name
            if path.is_dir() and target.exists():
                shutil.rmtree(target)
            if path.name != "manifest.json":
                path.replace(target)
        sync(out)
        (ready / "manifest.json").replace(out / "manifest.json")
        sync(out)
    if ready.exists():
        shutil.rmtree(ready)
    for half in out.glob("*.half"):
        half.unlink()
    write.recover(out / "datasets")


def recover_if_free(out: Path) -> None:
    """`recover`, for commands that only read. Does nothing in a folder that is read-only or worked in."""
    left = [out / _READY, *(out / "datasets").glob(".*.old")]
    if any(path.exists() for path in left):
        with contextlib.suppress(FactoryError, OSError):
            refuse_others(out)
            manifests.read(out)
            with alone_in(out):
                recover(out)


# Checks -------------------------------------------------------------------------------------------


def damaged_parts(run: Path, manifest: Manifest) -> dict[int, str]:
    """Part number -> how it differs from the manifest, in words. Intact parts are left out."""
    if not manifest.parts or manifest.trace_parts:
        return shards.damaged_parts(run, manifest.trace_parts)
    damaged, samples = {}, 0
    for number in range(manifest.parts):  # written by a version without checksums
        first = number * manifest.part_size
        try:
            indexes = shards.indexes_in(run, number)
            if any(not first <= index < first + manifest.part_size for index in indexes):
                damaged[number] = "holds samples of another part"
            samples += len(indexes)
        except FileNotFoundError:
            damaged[number] = "is missing"
        except (OSError, ValueError, KeyError) as error:
            damaged[number] = f"cannot be read ({error})"
    if not damaged and samples != manifest.samples:
        damaged = dict.fromkeys(range(manifest.parts), "holds too few or too many samples")
    return damaged


def with_checksums(run: Path, manifest: Manifest) -> list[TracePart]:
    """The parts of an undamaged run. Computes checksums if the run was begun without them."""
    if len(manifest.trace_parts) == manifest.parts:
        return manifest.trace_parts
    return [shards.look_at_part(run, number) for number in range(manifest.parts)]


def is_quarantine_whole(run: Path, manifest: Manifest) -> bool:
    """True if quarantine.jsonl has every line that the manifest counts, each of a different row."""
    try:
        return len(quarantined(run, manifest)) == manifest.quarantined
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError):
        return False


def quarantined(run: Path, manifest: Manifest) -> set[int]:
    """The indexes of the quarantined source rows. Raises if quarantine.jsonl is not whole."""
    if not manifest.quarantine_bytes:
        return set()
    with (run / "quarantine.jsonl").open("rb") as file:
        held = file.read(manifest.quarantine_bytes)
    if len(held) != manifest.quarantine_bytes or not held.endswith(b"\n"):
        raise ValueError("quarantine.jsonl is cut")
    decode = msgspec.json.Decoder(Failure).decode
    failures = [decode(line) for line in held.split(b"\n")[:-1]]
    if len(failures) != manifest.quarantined:
        raise ValueError("quarantine.jsonl does not have the lines that the manifest counts")
    return {failure.index for failure in failures}


def refuse_damaged(run: Path, manifest: Manifest) -> None:
    """Raise `FactoryError` if the traces differ from the manifest."""
    wrong = {shards.part_path(run, n).name: w for n, w in damaged_parts(run, manifest).items()}
    if manifest.state != "running":  # a running one may be writing its next part
        for number in shards.parts_from(run, manifest.parts):
            wrong[shards.part_path(run, number).name] = "is not part of the run"
    if wrong:
        shown = ", ".join(f"{name} {what}" for name, what in list(wrong.items())[:_SHOWN])
        more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise FactoryError(
            f"{run / 'traces'} was changed or damaged: {shown}{more}. Run the recipe again "
            f"({manifest.recipe_path}): missing samples are made again from the ledger"
        )


def damaged_views(run: Path, manifest: Manifest) -> set[str]:
    """Names of the datasets that are missing on disk or differ from the manifest."""
    return {
        view["view"]
        for view in manifest.views
        if not write.is_whole(run / "datasets" / view["view"], view.get("fingerprint", ""))
    }


def refuse_if_damaged_at_rest(run: Path, manifest: Manifest) -> None:
    """`refuse_damaged`, for commands that only read. Does nothing while another process works in the
    folder, since the files then change."""
    try:
        refuse_damaged(run, manifest)
    except FactoryError:
        if is_held(run) or manifests.read(run) != manifest:
            return
        raise
