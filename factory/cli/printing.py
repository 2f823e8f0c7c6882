"""The commands' output on standard output: manifests, views, scores, evaluations."""

from __future__ import annotations

import contextlib
import shutil
import textwrap
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.cli.endings import command
from factory.core.errors import FactoryError, NothingMade
from factory.core.terminal import printable
from factory.stats.noise import doubts

if TYPE_CHECKING:
    from factory.evaluation.evaluate import Evaluation
    from factory.evaluation.score import Record
    from factory.pipeline.manifest import Manifest


@contextlib.contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Make the folder of the file that an option names. Raises `FactoryError` if the disk refuses it or
    the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise FactoryError(
            f"{option} {path} cannot be written ({error.strerror}); name another file"
        ) from error


def print_manifest(folder: Path, manifest: Manifest, damaged: Collection[str] = ()) -> None:
    """Print a run's counts and datasets. `damaged`: datasets that differ from the manifest's record."""
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
    thoughts = {label: count for label, count in manifest.stages.items() if count.reasoning_tokens}
    if thoughts:
        shares = ", ".join(
            f"{label} {count.reasoning_tokens:,} ({count.reasoning_tokens / count.output_tokens:.0%})"
            for label, count in thoughts.items()
        )
        print(f"  output tokens that are thoughts: {shares}")
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
        often = "once" if manifest.restarts == 1 else f"{manifest.restarts:,} times"
        print(f"  the engine died and was restarted {often}")
    for reason, times in list(manifest.reasons.items())[:3]:
        print(f"  quarantined: {times:,} x {printable(reason)}")
    if manifest.quarantined:
        print(f"  each with its reason: {folder / 'quarantine.jsonl'}")
    print_views(folder, manifest, damaged)
    print_principles(manifest)
    if manifest.state == "traced":
        print(f"\n  the datasets are not made yet: {command('export', folder)}")


def wrapped(text: str, indent: str) -> list[str]:
    """`text` in lines of the terminal's width (at least 60), after the first indented by two more."""
    width = max(60, shutil.get_terminal_size().columns)
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False
    )


def print_views(
    folder: Path, manifest: Manifest, damaged: Collection[str] = (), to: Path | None = None
) -> None:
    """Print the datasets of the run in `folder`. `to`: the folder they were written to instead."""
    import msgspec

    from factory.export.report import People

    for view in manifest.views:
        path = (to or folder / "datasets") / view["view"]
        if view["view"] in damaged:
            print(f"\n  {path}: missing or changed; to make it again: {command('export', folder)}")
            continue
        print(f"\n  {path}: {view['rows']:,} rows")
        for reason, count in sorted(view["drops"].items(), key=lambda item: -item[1]):
            print(f"    dropped: {reason:<24}{count:>7,}")
        for reason, count in view.get("notes", {}).items():
            print(f"    noted:   {reason:<24}{count:>7,}")
        if view.get("people"):
            people = msgspec.convert(view["people"], People)
            for line in wrapped(f"people: {people.text()}", "    "):
                print(line)
        for name, judge in view.get("judges", {}).items():
            print(f"    {printable(_judged(name, judge))}")
        for each in view.get("agreements", ()):
            kappa = "" if each["kappa"] is None else f", kappa {each['kappa']:.2f}"
            print(
                f"    judges {each['first']} and {each['second']} agree on {each['share']:.0%} of "
                f"{each['comparisons']:,} pairs{kappa}"
            )
        for doubt in doubts(view):
            for line in wrapped(f"note: {printable(doubt)}", "    "):
                print(line)


def print_principles(manifest: Manifest) -> None:
    """Print the effect of each principle, which all datasets of a run share."""
    import msgspec

    from factory.export.by_principle import Principle

    found = [view["principles"] for view in manifest.views if view.get("principles")]
    principles = msgspec.convert(found[0] if found else [], list[Principle])
    if not principles:
        return
    width = max(len("principle"), *(len(each.id) for each in principles)) + 2
    heads = f"{'drawn':>7}{'found':>7}{'won':>10}{'margin':>8}{'flips':>7}{'words':>8}{'agree':>7}"
    print(f"\n  {'principle':<{width}}{heads}")
    for each in principles:
        changed = f"{each.changed / each.critiques:.0%}" if each.critiques else ""
        won = f"{each.won:,}/{each.judged:,}" if each.judged else ""
        flips = f"{each.flips / each.compared:.0%}" if each.compared else ""
        print(
            f"  {printable(each.id):<{width}}{each.drawn:>7,}{changed:>7}{won:>10}"
            f"{_figure(each.mean_margin, '+z.2f'):>8}{flips:>7}{_figure(each.words, '+z.1f'):>8}"
            f"{_figure(each.agreement(), '.0%'):>7}".rstrip()
        )


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _judged(name: str, judge: Mapping[str, Any]) -> str:
    """A judge's figures on one line."""
    import msgspec

    from factory.export.report import Reading

    facts = [f"{judge['verdicts']:,} verdicts"]
    if judge.get("flip_rate") is not None:
        facts.append(f"{judge['flip_rate']:.0%} change with the order of the answers")
    if judge["unparsed"]:
        facts.append(f"{judge['unparsed']:,} unparsed")
    if (reading := judge.get("reading")) is not None:
        facts.append(f"read by {msgspec.convert(reading, Reading).text()}")
    return f"judge {name}: {', '.join(facts)}"


def print_next(folder: Path, manifest: Manifest) -> None:
    """Print the newer run that is to replace this one, or how to continue if it was stopped."""
    from factory.core.lock import is_held
    from factory.pipeline import manifest as manifests
    from factory.pipeline.folder import NEXT

    is_worked_in = is_held(folder)
    if (coming := manifests.read(folder / NEXT)) is not None:
        state = "running" if is_worked_in else "stopped: run it again to continue"
        print(
            f"\n  a newer run of {coming.recipe_path} has made {coming.samples} samples ({state}); "
            "the run above stays until the newer one is finished"
        )
    elif manifest.state == "running" and not is_worked_in:
        again = command("run", manifest.recipe_path, "--out", folder)
        print(f"\n  stopped before its end; to continue: {again}")


def refuse_no_rows(folder: Path, manifest: Manifest) -> None:
    """Raise `NothingMade` if there are datasets but none has a row."""
    if not manifest.views or any(view["rows"] for view in manifest.views):
        return
    drops = sum((Counter(view["drops"]) for view in manifest.views), Counter[str]())
    reasons = "".join(f"\n  {n:,} x {reason}" for reason, n in drops.most_common(3))
    raise NothingMade(
        f"{folder / 'datasets'}: no dataset has a row; the most frequent reasons:{reasons}\n"
        "the samples are kept: change the views and run again, which calls no model; or use more "
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
        print(f"  each with its reason: {out / 'quarantine.jsonl'}")


def print_evaluation(found: Evaluation, out: Path | None) -> None:
    from factory.pipeline.traces import write_json
    from factory.report.evaluation import write_evaluation_report

    print(printable(found.text()))
    if out is None:
        print("\n--out report.json writes all figures to a file; no call is made again")
        return
    with writing("--out", out):
        write_json(out, found)
    page = write_evaluation_report(found, found.text(), out.with_suffix(".html"))
    print(f"\nwrote all figures to {out}\non one page, for a browser:\n{page}")
