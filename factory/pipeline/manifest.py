"""The manifest: a run's progress, from which the next run continues. Written whole, after every part.

It is the commit point: a part, and its lines of the quarantine, count only once the manifest says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from factory.core.errors import FactoryError, RecipeError
from factory.pipeline import pulse
from factory.pipeline.history import Moment
from factory.pipeline.traces import TracePart, write_json
from factory.stages.models import StageCount

FORMAT = 1
_REMEDY = (
    "move it away: the next run then goes through the source again and answers remembered calls from "
    "the ledger"
)


class Manifest(msgspec.Struct):
    """A run's state. `digest` decides whether the parts on disk still fit the recipe."""

    digest: str
    """Digest of stages, constitution, models and seed (`Recipe.digest`)."""
    source_digest: str
    part_size: int
    views_digest: str = ""
    limit: int | None = None
    format: int = FORMAT
    state: str = "running"
    """`running` (or killed while running), `traced` (the datasets are not made yet) or `finished`."""
    recipe_path: str = ""
    versions: dict[str, str] = {}
    models: dict[str, dict[str, str]] = {}
    """Recipe name -> model, fingerprint."""
    constitution: dict[str, str] | None = None
    reproducible: bool = False
    """Every call of this folder was made with its draw as the engine's seed."""
    parts: int = 0
    rows: int = 0
    """Source rows in those parts: samples and quarantined rows."""
    samples: int = 0
    quarantined: int = 0
    failed: int = 0
    """Of the quarantined, samples that failed in a stage. The rest were rows that are not prompts."""
    retriable: int = 0
    """Of the quarantined, those whose failure may be temporary: the next run tries them again."""
    quarantine_bytes: int = 0
    reasons: dict[str, int] = {}
    """Quarantine reason (`critique: ...`) -> count, most frequent first."""
    stages: dict[str, StageCount] = {}
    restarts: int = 0
    ledger: str = ""
    """The ledger's path, relative to the run's folder or absolute. Empty: the folder's own."""
    seconds: float = 0.0
    """Running time, summed over all starts of the run."""
    history: list[Moment] = []
    """Calls and tokens over time."""
    views: list[dict[str, Any]] = []
    trace_parts: list[TracePart] = []
    """Samples and checksum of each part. Empty in manifests of versions without checksums."""

    def cached_share(self) -> float:
        """Share of prompt tokens that came from prefix caches, in [0, 1]."""
        cached = sum(s.cached_tokens for s in self.stages.values())
        return cached / max(1, self.tokens()["prompt"])

    def tokens(self) -> dict[str, int]:
        """Tokens of all calls behind the traces, whenever they were made."""
        return {
            "prompt": sum(s.prompt_tokens for s in self.stages.values()),
            "output": sum(s.output_tokens for s in self.stages.values()),
        }

    def save(self, run: Path) -> None:
        write_json(run / "manifest.json", self)


_COUNTS = ("parts", "rows", "samples", "quarantined", "failed", "retriable", "quarantine_bytes")


def _contradiction(m: Manifest) -> str:
    """A contradiction between the manifest's fields, in words. Empty: none."""
    if m.part_size < 1:
        return f"part_size: {m.part_size}"
    for name in _COUNTS:
        if getattr(m, name) < 0:
            return f"{name}: {getattr(m, name)}"
    if m.rows != m.samples + m.quarantined:
        return f"{m.rows} rows, but {m.samples} samples and {m.quarantined} quarantined"
    if not (m.parts - 1) * m.part_size < m.rows <= m.parts * m.part_size and (m.parts or m.rows):
        return f"{m.rows} rows in {m.parts} parts of {m.part_size}"
    if m.quarantine_bytes and not m.quarantined:
        return f"{m.quarantined} quarantined, in {m.quarantine_bytes} bytes"
    if m.trace_parts and len(m.trace_parts) != m.parts:
        return f"{m.parts} parts, but trace_parts lists {len(m.trace_parts)}"
    if m.trace_parts and (held := sum(part.samples for part in m.trace_parts)) != m.samples:
        return f"{m.samples} samples, but {held} in trace_parts"
    for i, view in enumerate(m.views):
        for field, kind in (("view", str), ("rows", int), ("drops", dict)):
            if not isinstance(view.get(field), kind):
                return f"views[{i}] lacks {field!r}, or it is no {kind.__name__}"
    return ""


def may_be_ours(run: Path) -> bool:
    """False if the folder's manifest.json is valid JSON of another program."""
    try:
        held = msgspec.json.decode((run / "manifest.json").read_bytes())
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError):
        return True  # `read` says what is wrong with it
    return isinstance(held, dict) and {"digest", "source_digest"} <= held.keys()


def read(run: Path) -> Manifest | None:
    """The manifest of a run. None: there is none yet. Raises `FactoryError` if it is unreadable."""
    path = run / "manifest.json"
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise FactoryError(f"{path} cannot be read ({error}); {_REMEDY}") from error
    if manifest.format != FORMAT:
        raise FactoryError(
            f"{path} has format {manifest.format}, this version of factory reads {FORMAT}; "
            "use another --out, or the version of factory that wrote it"
        )
    if wrong := _contradiction(manifest):
        raise FactoryError(f"{path} contradicts itself ({wrong}); {_REMEDY}")
    return manifest


def of_run(folder: Path) -> Manifest:
    """`read`, of a folder that must hold a run. Raises `RecipeError` if it holds none."""
    refuse_file(folder)
    manifest = read(folder)
    if manifest is None:
        if pulse.read(folder) is not None:
            raise RecipeError(
                f"{folder} has no samples yet: factory status {folder} says what it does"
            )
        inside = sorted(str(path.parent) for path in folder.glob("*/manifest.json"))
        hint = f"; did you mean {inside[0]}?" if inside else ""
        raise RecipeError(f"{folder} holds no run: there is no manifest.json in it{hint}")
    return manifest


def refuse_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file; name a run's folder, e.g. runs/quickstart")
