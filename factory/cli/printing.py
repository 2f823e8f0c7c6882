"""What the commands print on standard output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from factory.errors import FactoryError, NothingMade
from factory.terminal import printable

if TYPE_CHECKING:
    from factory.evaluation.evaluate import Evaluation
    from factory.runner.manifest import Manifest
    from factory.scoring.score import Record


def print_manifest(folder: Path, manifest: Manifest, damaged: Collection[str] = ()) -> None:
    """`damaged`: datasets that are not on disk as the manifest says."""
    from factory.export.card import CUT_SHARE

    tokens = manifest.tokens()
    print(f"\n{folder}: {manifest.state}, {manifest.samples} samples", end="")
    print(f", {manifest.quarantined} quarantined" if manifest.quarantined else "")
    print(f"\n  {'stage':<14}{'calls made':>12}{'remembered':>12}{'output tokens':>15}{'cut':>7}")
    for label, count in manifest.stages.items():
        cut = f"{count.cut / count.answers:>7.0%}" if count.answers else ""
        print(
            f"  {label:<14}{count.made:>12,}{count.remembered:>12,}{count.output_tokens:>15,}{cut}"
        )
    made = sum(s.made for s in manifest.stages.values())
    remembered = sum(s.remembered for s in manifest.stages.values())
    print(f"  {'all':<14}{made:>12,}{remembered:>12,}{tokens['output']:>15,}")
    print(
        f"\n  {tokens['prompt']:,} prompt tokens, {manifest.cached_share():.0%} of them from the "
        f"prefix cache; {manifest.seconds:.0f} s"
    )
    for label, count in manifest.stages.items():
        if count.cut > CUT_SHARE * count.answers:
            print(
                f"  {label}: {count.cut:,} of {count.answers:,} answers were cut at max_tokens; "
                "raise the stage's sampling.max_tokens, or ask for shorter answers"
            )
    if manifest.restarts:
        print(f"  the engine died and was restarted {manifest.restarts} times")
    for reason, times in list(manifest.reasons.items())[:3]:
        print(f"  quarantined: {times} x {printable(reason)}")
    if manifest.quarantined:
        print(f"  all of them: {folder / 'quarantine.jsonl'}")
    print_views(folder, manifest, damaged)
    if manifest.state == "traced":
        print(f"\n  the datasets are not made yet: factory export {folder}")


def print_views(folder: Path, manifest: Manifest, damaged: Collection[str] = ()) -> None:
    for view in manifest.views:
        path = folder / "datasets" / view["view"]
        if view["view"] in damaged:
            print(f"\n  {path}: missing, or not as it was made: factory export {folder}")
            continue
        print(f"\n  {path}: {view['rows']:,} rows")
        for reason, count in sorted(view["drops"].items(), key=lambda item: -item[1]):
            print(f"    no row, {reason:<24}{count:>8,}")
        for reason, count in view.get("notes", {}).items():
            print(f"    note, {reason:<26}{count:>8,}")
        for each in view.get("agreements", ()):
            kappa = "" if each["kappa"] is None else f", kappa {each['kappa']:.2f}"
            print(
                f"    judges {each['first']} and {each['second']} agree on {each['share']:.0%} of "
                f"{each['comparisons']:,} pairs{kappa}"
            )


def print_next(folder: Path, manifest: Manifest) -> None:
    """Of a run that is whole: what is being made to take its place."""
    from factory.alone import is_held
    from factory.runner import manifest as manifests
    from factory.runner.folder import NEXT

    is_worked_in = is_held(folder)
    if (coming := manifests.read(folder / NEXT)) is not None:
        state = "under way" if is_worked_in else "stopped: run it again to go on"
        print(
            f"\n  a newer run of {coming.recipe_path} has made {coming.samples} samples ({state}); "
            "the above stays until it is whole"
        )
    elif manifest.state == "running" and not is_worked_in:
        print(f"\n  stopped before its end: run {manifest.recipe_path} again to go on")


def refuse_no_rows(folder: Path, manifest: Manifest) -> None:
    """Raises `NothingMade` if there are datasets and no row in any."""
    if not manifest.views or any(view["rows"] for view in manifest.views):
        return
    drops: Counter[str] = Counter()
    for view in manifest.views:
        drops.update(view["drops"])
    reasons = "".join(f"\n  {n:,} x {reason}" for reason, n in drops.most_common(3))
    raise NothingMade(
        f"{folder / 'datasets'}: no dataset has a row; the commonest reasons:{reasons}\n"
        "the samples stay: change the views and run again, which calls no model; or use more "
        "prompts, or a better judge"
    )


def print_scored(out: Path, record: Record) -> None:
    print(f"\n{out}: {record.rows:,} rows, with {', '.join(record.columns)}")
    print(f"  {record.calls:,} calls made")
    for reason, times in record.left_out.items():
        print(f"  left out: {times:,} x {printable(reason)}")
    for reason, times in list(record.reasons.items())[:3]:
        print(f"  not scored: {times:,} x {printable(reason)}")
    if record.failed:
        print(f"  all of them: {out / 'quarantine.jsonl'}")


def print_evaluation(found: Evaluation, out: Path | None) -> None:
    from factory.runner.shards import write_json

    print(printable(found.text()))
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, found)
        except OSError as error:
            raise FactoryError(f"--out {out} cannot be written: {error.strerror}") from error
