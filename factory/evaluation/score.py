"""`factory score`: score the answers of a dataset, and write it again with the scores.

    rows -> samples -> the scorer's stages -> a file of outcomes -> rows with more columns

The scores go to new columns (see `score_columns`). Every row stays, in its place; one that could
not be scored has nulls, and `quarantine.jsonl` says why. In the folder OUT:

    data-*.arrow, dataset_info.json, state.json, README.md    the dataset; state.json written last
    ledger.sqlite    every call made: a scoring that was stopped goes on from it
    score.json       what was scored with what, and whether it is finished
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from factory.core.errors import FactoryError, RecipeError
from factory.core.files import replace
from factory.core.lock import alone_in
from factory.core.saved import STATE, is_saved
from factory.core.version import __version__
from factory.engines.base import Engine
from factory.evaluation.columns import Columns
from factory.evaluation.results import Results
from factory.evaluation.rows import GIVEN, Rows, Shape, sample_of, shape_of
from factory.evaluation.scorer import Scorer
from factory.export.write import DatasetWriter
from factory.pipeline import traces as shards
from factory.pipeline.outcomes import reason_of
from factory.pipeline.progress import Progress
from factory.pipeline.run import in_loop
from factory.recipe.pipeline import Pipeline
from factory.scorers.process_reward import ProcessReward
from factory.stages.base import Stage

FORMAT = 1


class Record(msgspec.Struct):
    """score.json."""

    digest: str
    """Of data and scorer: another one is another scoring."""
    data: str
    scorer: dict[str, Any]
    """Its stages and, by name, its models with their fingerprints."""
    state: str = "running"
    """`running` (or stopped) or `finished`."""
    columns: list[str] = []
    """That were added."""
    rows: int = 0
    failed: int = 0
    """Rows with nulls, listed in quarantine.jsonl."""
    retriable: int = 0
    """Of those, failures that may not happen again: the next scoring tries them again."""
    reasons: dict[str, int] = {}
    left_out: dict[str, int] = {}
    """Lines of the file that are no rows, by reason."""
    calls: int = 0
    """Calls made, not remembered, by the scoring that finished it."""
    format: int = FORMAT


def score(rows: Rows, scorer: Scorer, out: Path) -> Record:
    """Score the rows and write them to `out`, or what is missing of it.

    Raises `RecipeError` if `out` holds something else, or the rows and the scorer do not fit.
    """
    return in_loop(score_async(rows, scorer, out))


async def score_async(
    rows: Rows,
    scorer: Scorer,
    out: Path,
    *,
    engines: Mapping[str, Engine] | None = None,
    progress: Progress | None = None,
) -> Record:
    """`score`, within an event loop; `engines` take the place of the scorer's and stay open."""
    progress = progress or Progress()
    shape = shape_of(rows)
    columns = Columns(rows, shape, scorer)
    pipeline = for_shape(scorer, shape)
    _refuse_other_folder(out)
    with alone_in(out), progress.doing("checking what is there"):
        async with scorer.pipeline.opened(out / "logs", engines) as open_engines:
            record = _record(rows, scorer, open_engines)
            old = _read(out)
            if _is_done(old, record, out):
                assert old is not None
                progress.note(f"{out} is finished and its inputs have not changed: nothing to do")
                return msgspec.structs.replace(old, calls=0)
            shards.write_json(out / "score.json", record)
            with Results(rows, pipeline, out) as results:
                samples = (sample_of(row, i, shape) for i, row in enumerate(rows.read()))
                record.calls = await results.fill(samples, open_engines, progress)
                progress.now(f"writing {out}")
                _write(rows, columns, results, out, record)
        return record


def for_shape(scorer: Scorer, shape: Shape) -> Pipeline:
    """The scorer's pipeline, with process reward stages that read the steps of process rows.

    Raises `RecipeError` for a stage that would cut the solution into steps of its own.
    """
    if shape != "process":
        return scorer.pipeline
    stages: list[Stage] = []
    for stage, position in zip(scorer.pipeline.stages, scorer.positions, strict=True):
        if isinstance(stage, ProcessReward):
            stages.append(stage.model_copy(update={"steps": GIVEN}))
        elif stage.splits():
            raise RecipeError(
                f"stages[{position}] {stage.kind} cuts solutions into steps of its own, and the "
                "rows have steps already; score them with {kind: process}, or rows without steps"
            )
        else:
            stages.append(stage)
    return scorer.pipeline.model_copy(update={"stages": stages})


# The folder --------------------------------------------------------------------------------------


def _refuse_other_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise RecipeError(f"--out {out} is a file; name a new folder")
    if out.is_dir() and not (out / "score.json").is_file():
        others = [path.name for path in out.iterdir() if path.name != ".lock"]
        if others:
            raise RecipeError(
                f"--out {out} is not empty and no scoring of ours; choose a new folder"
            )


def _record(rows: Rows, scorer: Scorer, engines: Mapping[str, Engine]) -> Record:
    pipeline = scorer.pipeline
    fingerprints = {name: engines[name].fingerprint for name in pipeline.models}
    content = [rows.digest, rows.count, sorted(rows.features), pipeline.digest(fingerprints)]
    return Record(
        digest=hashlib.blake2b(msgspec.json.encode(content), digest_size=16).hexdigest(),
        data=rows.name,
        scorer={
            "stages": [stage.model_dump(mode="json") for stage in pipeline.stages],
            "models": {
                name: {"model": config.model, "fingerprint": fingerprints[name]}
                for name, config in pipeline.models.items()
            },
        },
        left_out=rows.left_out,
    )


def _read(out: Path) -> Record | None:
    try:
        return msgspec.json.decode((out / "score.json").read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise FactoryError(
            f"{out}/score.json cannot be read ({error}); remove that file's contents, or choose "
            "another --out"
        ) from error


def _is_done(old: Record | None, new: Record, out: Path) -> bool:
    if old is None or (old.digest, old.format) != (new.digest, new.format):
        return False
    return old.state == "finished" and not old.retriable and is_saved(out)


def _write(rows: Rows, columns: Columns, results: Results, out: Path, record: Record) -> None:
    """The dataset takes its place when all of it is on disk, then score.json says so."""
    made = out / "dataset.half"
    shutil.rmtree(made, ignore_errors=True)
    reasons: Counter[str] = Counter()
    half = out / "quarantine.jsonl.half"
    writer = DatasetWriter(made, columns.features)
    try:
        with half.open("wb") as quarantine:
            for row, result in results:
                record.rows += 1
                writer.add({**rows.stored(row), **columns.values(result)})
                if result.failure is not None:
                    quarantine.write(msgspec.json.encode(result.failure) + b"\n")
                    reasons[reason_of(result.failure)] += 1
                    record.retriable += not result.failure.is_permanent
        writer.finish()
        record.columns, record.failed = columns.added, reasons.total()
        record.reasons, record.state = dict(reasons.most_common()), "finished"
        writer.publish(_card(record))
    except OSError as error:
        raise FactoryError(
            f"cannot write in {out} ({error}); free some space and score again: what was done is kept"
        ) from error
    finally:
        writer.abandon()
    replace(half, out / "quarantine.jsonl")
    _adopt(made, out)
    shards.write_json(out / "score.json", record)


def _adopt(made: Path, out: Path) -> None:
    """Move a dataset's files into `out`, where the ledger is. Without state.json there is none, so
    that goes first and comes last."""
    (out / STATE).unlink(missing_ok=True)
    for old in out.glob("data-*.arrow"):
        old.unlink()
    for path in sorted(made.iterdir(), key=lambda path: path.name == STATE):
        replace(path, out / path.name)
    made.rmdir()


def _card(record: Record) -> str:
    kinds = ", ".join(f"`{stage['kind']}`" for stage in record.scorer["stages"])
    lines = [
        "# Scored dataset",
        "",
        f"Made by factory {__version__}: the rows of `{record.data}`, scored by {kinds}.",
        "",
        *(
            f"- model `{name}`: `{model['model']}`, fingerprint `{model['fingerprint']}`"
            for name, model in record.scorer["models"].items()
        ),
        f"- columns added: {', '.join(f'`{column}`' for column in record.columns)}",
        f"- {record.rows:,} rows, {record.failed:,} of them with nulls (see quarantine.jsonl)",
        *(f"- left out: {count:,} x {reason}" for reason, count in record.left_out.items()),
    ]
    return "\n".join(lines) + "\n"
