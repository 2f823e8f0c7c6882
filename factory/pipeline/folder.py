"""A run's folder: whose it is, what a kill left in it, and whether what it says is there is there.

    RUN/manifest.json, traces/, quarantine.jsonl, datasets/    what is whole, and stays so meanwhile:
    RUN/.next/     what another plan has made so far, with a manifest of its own
    RUN/.ready/    the same once it is whole: it takes the place of the above

One rename makes `.next` count. Whoever holds the folder next moves the rest into place, from
wherever a kill stopped it, and the manifest last.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
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
from factory.pipeline.manifest import Manifest
from factory.pipeline.traces import TracePart

NEXT = ".next"
_READY = ".ready"
# What a run, a preview or a phase leaves behind when it is killed before there is a manifest.
_EARLY = re.compile(
    r"\.lock|logs|models|before-.+|ledger\.sqlite(-\w+)?|manifest\.json\.half|progress\.json(\.half)?"
)
LEDGER = "ledger.sqlite"
_KEPT = (LEDGER, "traces")
_SHOWN = 3


def refuse_others(out: Path) -> None:
    """Raises `RecipeError` if the folder holds anything that no run of ours has made."""
    if out.exists() and not out.is_dir():
        raise RecipeError(f"--out {out} is a file; name a folder")
    try:
        names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    except OSError as error:
        raise FactoryError(f"cannot read {out} ({error}); choose another --out") from error
    # A manifest that was moved away, as our own errors advise, leaves these. Where the ledger is
    # elsewhere, there are traces.
    is_left = {LOCK, "quarantine.jsonl"} <= names and not names.isdisjoint(_KEPT)
    is_run = manifests.may_be_ours(out) if "manifest.json" in names else is_left
    others = sorted(name for name in names if not _EARLY.fullmatch(name))
    if is_run or (LOCK in names and not others):
        return
    if others := others or sorted(names):
        shown = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
        raise RecipeError(
            f"--out {out} holds something that no run has made ({shown}), which would be "
            "overwritten; name another folder, or empty this one"
        )


@contextlib.contextmanager
def writing_in(out: Path) -> Iterator[None]:
    """Turns an `OSError` into a message with what to do."""
    try:
        yield
    except OSError as error:
        raise FactoryError(
            f"cannot write in {out} ({error}); free some space or mend the folder and run "
            "again: what was done is kept"
        ) from error


# Where its calls are remembered ---------------------------------------------------------------------


def ledger_of(out: Path) -> Path:
    """The ledger that the run in `out` began with; of one that has none yet, the folder's own."""
    manifest = manifests.read(out)
    return out / (manifest.ledger if manifest and manifest.ledger else LEDGER)


def ledger_name(out: Path, ledger: Path) -> str:
    """What the manifest calls a ledger: nothing, if it is the folder's own; relative, if it moves
    along when somebody moves the folder that the run is in; else absolute."""
    ledger, out = (path.absolute().resolve() for path in (ledger, out))
    if ledger == out / LEDGER:
        return ""
    return os.path.relpath(ledger, out) if ledger.is_relative_to(out.parent) else str(ledger)


def prepare_ledger(out: Path, named: Path | None) -> None:
    """Make the folder of a ledger that the user named. If none is named, raises `FactoryError` where
    the run began with one that is elsewhere and not there any more: to go on without it would make
    every call again."""
    if named is not None:
        named.parent.mkdir(parents=True, exist_ok=True)
        return
    ledger = ledger_of(out)
    if ledger.parent != out and not ledger.is_file():
        raise FactoryError(
            f"{out} remembers its calls in {ledger}, which is not there: put it back, or name a "
            "ledger with --ledger FILE (calls that it does not know are made again)"
        )


# What a kill left ---------------------------------------------------------------------------------


def begin(work: Path, manifest: Manifest) -> None:
    """Make the folder ready to go on as the manifest says. That is durable before anything that an
    older one tells of is taken away."""
    work.mkdir(exist_ok=True)
    manifest.save(work)
    shards.drop_parts_from(work, manifest.parts)


def take_place(out: Path) -> None:
    """What is in `.next` becomes the run; it is whole."""
    (out / NEXT).rename(out / _READY)
    sync(out)
    recover(out)


def recover(out: Path) -> None:
    """Bring to its end what was being moved into place. Only for who holds the folder."""
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
    """`recover`, for a command that only looks; does nothing where it may not write or another
    process is working."""
    left = [out / _READY, *(out / "datasets").glob(".*.old")]
    if any(path.exists() for path in left):
        with contextlib.suppress(FactoryError, OSError):
            refuse_others(out)
            manifests.read(out)
            with alone_in(out):
                recover(out)


# Is it all there? ---------------------------------------------------------------------------------


def damaged_parts(run: Path, manifest: Manifest) -> dict[int, str]:
    """Parts that are not as the manifest says, by number, in words."""
    if not manifest.parts or manifest.trace_parts:
        return shards.damaged_parts(run, manifest.trace_parts)
    damaged, samples = {}, 0
    for number in range(manifest.parts):  # by a version that kept no checksums
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
    """The parts of an undamaged run, also of one that was begun without checksums."""
    if len(manifest.trace_parts) == manifest.parts:
        return manifest.trace_parts
    return [shards.look_at_part(run, number) for number in range(manifest.parts)]


def is_quarantine_whole(run: Path, manifest: Manifest) -> bool:
    """Every line that the manifest counts is there, and tells of a row of its own."""
    try:
        return len(quarantined(run, manifest)) == manifest.quarantined
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError):
        return False


def quarantined(run: Path, manifest: Manifest) -> set[int]:
    """The source rows that quarantine.jsonl tells of. Raises if it is not whole."""
    if not manifest.quarantine_bytes:
        return set()
    with (run / "quarantine.jsonl").open("rb") as file:
        held = file.read(manifest.quarantine_bytes)
    if len(held) != manifest.quarantine_bytes or not held.endswith(b"\n"):
        raise ValueError("quarantine.jsonl is cut")
    decode = msgspec.json.Decoder(Failure).decode
    failures = [decode(line) for line in held.split(b"\n")[:-1]]
    if len(failures) != manifest.quarantined:
        raise ValueError("quarantine.jsonl has other lines than the manifest counts")
    return {failure.index for failure in failures}


def refuse_damaged(run: Path, manifest: Manifest) -> None:
    """Raises `FactoryError` if the traces are not those that the manifest tells of."""
    wrong = {shards.part_path(run, n).name: w for n, w in damaged_parts(run, manifest).items()}
    if manifest.state != "running":  # there, one more may be under way
        for number in shards.parts_from(run, manifest.parts):
            wrong[shards.part_path(run, number).name] = "is none of the run's"
    if wrong:
        shown = ", ".join(f"{name} {what}" for name, what in list(wrong.items())[:_SHOWN])
        more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise FactoryError(
            f"{run / 'traces'} is not what the run wrote: {shown}{more}. Run the recipe again "
            f"({manifest.recipe_path}): what is missing is made anew from the ledger"
        )


def damaged_views(run: Path, manifest: Manifest) -> set[str]:
    """Datasets, by name, that are not on disk as the manifest says."""
    return {
        view["view"]
        for view in manifest.views
        if not write.is_whole(run / "datasets" / view["view"], view.get("fingerprint", ""))
    }


def refuse_if_damaged_at_rest(run: Path, manifest: Manifest) -> None:
    """`refuse_damaged`, for a command that only looks: while another process works in the folder,
    what is there changes between two looks."""
    try:
        refuse_damaged(run, manifest)
    except FactoryError:
        if is_held(run) or manifests.read(run) != manifest:
            return
        raise
