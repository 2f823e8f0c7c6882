"""A diff of a run as text: figures, then examples."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from factory.cli.show import word_diff
from factory.core.terminal import printable
from factory.workbench.difference import (
    Difference,
    Figure,
    JudgeChange,
    Moved,
    Row,
    ScoreChange,
    ViewChange,
)
from factory.workbench.edits import Edit
from factory.workbench.rerun import Cost, Diff, DryRun

_CHARS = 240
"""Most characters of a text that is shown without a word diff."""


def print_dry_run(planned: DryRun) -> None:
    out = _console()
    _print_sides(out, planned.run, planned.samples, planned.names)
    _print_edits(out, planned.edits)
    about = "" if planned.is_exact else "about "
    sides = _costs(planned.costs)
    if not sides:
        out.print("\nboth sides are the run as it was made: no call to make")
    for name, cost in sides:
        if not cost.made:
            out.print(f"\n{name}: no call to make; {_remembered(cost)}")
            continue
        out.print(
            f"\n{name}: {about}{cost.made:,} calls to make for {cost.asked:,} samples, about "
            f"{cost.prompt_tokens:,} prompt and {cost.output_tokens:,} output tokens"
        )
        out.print(f"  {_stages(cost)}; {_remembered(cost)}")
    if not planned.is_exact:
        out.print(
            "  calls on texts that are not written yet are counted as the run's stages make them"
        )


def print_diff(made: Diff, examples: int) -> None:
    """Print everything, and of each kind of change the first `examples`."""
    out, found = _console(), made.difference
    _print_sides(out, made.run, found.samples, made.names)
    _print_edits(out, made.edits)
    for name, cost in _costs(made.costs):
        tokens = f"{cost.prompt_tokens:,} prompt and {cost.output_tokens:,} output tokens"
        calls = (
            f"{cost.made:,} calls made ({_stages(cost)}), {tokens}" if cost.made else "no call made"
        )
        out.print(f"\n{name}: {calls}; {_remembered(cost)}; {cost.seconds:.1f} s")
        for reason, count in cost.failed.items():
            out.print(f"  failed: {count:,} x {printable(reason)}")
    out.print(f"\n{found.touched:,} of {found.samples:,} samples differ", end="")
    out.print(f", in {found.critiques:,} of them the critique" if found.critiques else "")
    for judge in found.judges:
        _print_judge(out, judge)
    for score in found.scores:
        _print_score(out, score)
    _print_answers(out, found)
    for view in found.views:
        _print_view(out, view)
    _print_examples(out, found, examples)


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True, markup=False)


def _print_sides(out: Console, run: str, samples: int, names: tuple[str, str]) -> None:
    out.print(f"{run}: {samples:,} samples")
    for side, name in zip(("old", "new"), names, strict=True):
        out.print(f"  {side}: {printable(name)}")


def _costs(costs: tuple[Cost, Cost]) -> list[tuple[str, Cost]]:
    """The sides that were taken through again."""
    every = zip(("old", "new"), costs, strict=True)
    return [(name, cost) for name, cost in every if cost.made or cost.remembered]


def _stages(cost: Cost) -> str:
    return ", ".join(f"{stage} {count:,}" for stage, count in cost.calls.items())


def _remembered(cost: Cost) -> str:
    return f"{cost.remembered:,} answered from the ledger"


def _print_edits(out: Console, edits: Sequence[Edit]) -> None:
    for edit in edits:
        where = f"  {edit.where}"
        if edit.before is None or edit.after is None:
            what = "added" if edit.before is None else "removed"
            out.print(printable(f"{where}, {what}: {edit.after or edit.before}"))
        else:
            diff = _diff(edit.before, edit.after)
            out.print(Text.assemble(printable(f"{where}, {edit.field}: "), diff))


def _print_judge(out: Console, judge: JudgeChange) -> None:
    size = "" if judge.mean_move is None else f" by {judge.mean_move:.2f} on average"
    out.print(
        f"\nverdicts of {judge.judge}: {judge.moved:,} of {judge.compared:,} moved{size}; "
        f"{judge.turned:,} prefer another answer, or none any more"
    )
    for count, what in ((judge.only_before, "old"), (judge.only_after, "new")):
        if count:
            out.print(f"  {count:,} verdicts are on the {what} side alone")
    if judge.unparsed_before or judge.unparsed_after:
        out.print(f"  unparsed: {judge.unparsed_before:,} -> {judge.unparsed_after:,}")
    out.print(
        f"  agreement on {judge.on_same_answers:,} pairs whose texts are the same: {judge.agreement}, "
        f"kappa {judge.kappa}"
    )


def _print_score(out: Console, score: ScoreChange) -> None:
    out.print(
        f"\nvalues of {score.name}: {score.moved:,} moved; mean {_number(score.before)} -> "
        f"{_number(score.after)} over {score.compared:,}; rank correlation on the same texts "
        f"{score.correlation}"
    )


def _print_answers(out: Console, found: Difference) -> None:
    out.print(f"\n{'newest answers':<22}{'old':>8}{'new':>8}  change (95% interval)")
    for name, figure, form in (
        ("words an answer", found.words, "{:.1f}"),
        ("refusals", found.refusals, "{:.1%}"),
        ("cut at max_tokens", found.cut, "{:.1%}"),
    ):
        out.print(f"  {name:<20}{_figure(figure, form)}".rstrip())


def _figure(figure: Figure, form: str) -> str:
    if figure.before is None or figure.after is None:
        return f"{'-':>8}{'-':>8}"
    change = figure.change
    text = form.format(figure.after - figure.before)
    signed = text if text.startswith("-") else f"+{text}"
    if change.low is not None and change.high is not None:
        signed += f" ({form.format(change.low)} to {form.format(change.high)})"
    return f"{form.format(figure.before):>8}{form.format(figure.after):>8}  {signed}"


def _print_view(out: Console, view: ViewChange) -> None:
    out.print(
        f"\ndataset {view.view}: {view.before:,} -> {view.after:,} rows; {len(view.entered):,} enter, "
        f"{len(view.left):,} leave"
    )
    for reason in dict.fromkeys((*view.drops_before, *view.drops_after)):
        old, new = view.drops_before.get(reason, 0), view.drops_after.get(reason, 0)
        if old != new:
            out.print(f"  dropped: {reason:<24}{old:>7,} -> {new:,}")


# Examples -----------------------------------------------------------------------------------------


def _print_examples(out: Console, found: Difference, count: int) -> None:
    if not count:
        return
    rewritten = [each for each in found.rewritten if each.before and each.after]
    _print_title(out, "answers rewritten", len(rewritten), count)
    for each in rewritten[:count]:
        by = f" ({', '.join(each.principles_after)})" if each.principles_after else ""
        out.print(_bold(f"\n  {each.id}, answer {each.candidate}{by}: {_clipped(each.prompt)}"))
        out.print(Text.assemble("    ", _diff(each.before or "", each.after or "")))
    _print_title(out, "verdicts and scores that moved", len(found.moved), count)
    for moved in found.moved[:count]:
        _print_moved(out, moved)
    for view in found.views:
        for what, rows in (("enter", view.entered), ("leave", view.left)):
            _print_title(out, f"rows that {what} {view.view}", len(rows), count)
            for row in rows[:count]:
                _print_row(out, row)


def _print_title(out: Console, what: str, total: int, count: int) -> None:
    if total:
        shown = f" ({count:,} of {total:,}; -n shows more)" if total > count else f" ({total:,})"
        out.print(f"\n{what}{shown}")


def _print_moved(out: Console, moved: Moved) -> None:
    by = f" ({', '.join(moved.principles_after)})" if moved.principles_after else ""
    out.print(_bold(f"\n  {moved.id}, {moved.by}{by}: {_clipped(moved.prompt)}"))
    what = f"answer {moved.a}" if moved.b is None else f"P(answer {moved.a} better than {moved.b})"
    texts = "the same texts" if moved.has_same_answers else "another text"
    out.print(f"    {what}: {_number(moved.before)} -> {_number(moved.after)}, {texts}")
    for index, text in zip((moved.a, moved.b), moved.answers, strict=False):
        out.print(f"    answer {index}: {_clipped(text)}")


def _print_row(out: Console, row: Row) -> None:
    why = f"; the other side: {', '.join(row.why)}" if row.why else ""
    out.print(_bold(f"\n  {row.id}{why}: {_clipped(row.prompt)}"))
    for column, texts in row.texts.items():
        for text in texts:
            out.print(f"    {column}: {_clipped(text)}")


def _diff(old: str, new: str) -> Text:
    return word_diff(" ".join(old.split()), " ".join(new.split()))


def _bold(text: str) -> Text:
    return Text(printable(text), style="bold")


def _number(value: float | None) -> str:
    return "unparsed" if value is None else f"{value:.2f}"


def _clipped(text: str) -> str:
    whole = " ".join(printable(text).split())
    return whole if len(whole) <= _CHARS else f"{whole[:_CHARS].rstrip()} [...]"
