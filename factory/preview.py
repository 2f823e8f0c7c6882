"""`factory preview`: a few samples, made for real and shown for reading."""

from __future__ import annotations

import contextlib
import difflib
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from factory.alone import alone_in
from factory.engines import build
from factory.ledger import Ledger
from factory.recipe import Recipe
from factory.records import Candidate, Failure, Sample, StepLabels
from factory.runner import folder
from factory.runner.calls import Calls
from factory.runner.progress import Progress
from factory.runner.run import in_loop, outcomes
from factory.runner.source import open_source
from factory.terminal import printable


def answer_some(
    recipe: Recipe, out: Path, *, progress: Progress | None = None
) -> list[Sample | Failure]:
    """Take the recipe's rows (set `source.limit`) through its stages; only the ledger is kept."""
    folder.refuse_others(out)
    progress = progress or Progress()
    with (
        alone_in(out),
        folder.writing_in(out),
        progress.doing("checking what is there"),
        Ledger(out / "ledger.sqlite") as ledger,
    ):
        engines = build(recipe.models, recipe.folder, out / "logs", recipe.judges())
        source = open_source(recipe.source, recipe.folder)

        async def collect() -> list[Sample | Failure]:
            try:
                calls = Calls(ledger, engines)
                with progress.following(
                    "making samples", recipe, engines, rows=source.count()
                ) as forecast:
                    work = outcomes(recipe, source.rows(), calls, forecast)
                    async with contextlib.aclosing(work) as ended:
                        return [outcome.result async for outcome in ended]
            finally:
                progress.now("stopping the engines")
                for engine in set(engines.values()):
                    await engine.close()

        return in_loop(collect())


def show(result: Sample | Failure, console: Console | None = None) -> None:
    """Print one sample, or why it failed."""
    console = console or Console(highlight=False)
    if isinstance(result, Failure):
        text = Text(printable(f"{result.stage}: {result.error}\n\n{result.raw}"))
        console.print(Panel(text, title=f"row {result.index} quarantined", border_style="red"))
        return
    parts: list[Text | Rule] = [_titled(m["role"], m["content"]) for m in result.prompt]
    for candidate in result.candidates:
        parts += [Rule(style="dim"), *_candidate(result, candidate)]
    for verdict in result.verdicts:
        p = "unparsed" if verdict.p is None else f"{verdict.p:.3f}"
        parts.append(Rule(style="dim"))
        parts.append(
            _titled(
                f"{verdict.judge}",
                f"P(answer {verdict.a} better than answer {verdict.b}) = {p}"
                + (f", {', '.join(verdict.principle_ids)}" if verdict.principle_ids else "")
                + ("" if verdict.is_consistent else "; the two orders disagree"),
            )
        )
    title = Text(printable(f"row {result.index}  {result.id}"))  # no markup: the id is a user's
    console.print(Panel(Group(*parts), title=title, title_align="left"))


def _candidate(sample: Sample, candidate: Candidate) -> list[Text | Rule]:
    parts: list[Text | Rule] = []
    title = f"answer {candidate.index}"
    text = Text(printable(candidate.text))
    if candidate.parent is not None:
        title += f", revision {candidate.round} of answer {candidate.parent}"
        text = word_diff(sample.candidates[candidate.parent].text, candidate.text)
    for critique in sample.critiques:
        if critique.candidate == candidate.parent:
            title_of = (
                f"critique of answer {critique.candidate}: {', '.join(critique.principle_ids)}"
            )
            parts.append(_titled(title_of, critique.text))
    if candidate.drop_reason:
        title += f" (dropped: {candidate.drop_reason})"
    for score in sample.scores:
        if score.candidate == candidate.index:
            title += (
                f" ({score.name}: {'unparsed' if score.value is None else f'{score.value:.2f}'})"
            )
    parts.append(_titled(title, text))
    for steps in sample.step_labels:
        if steps.candidate == candidate.index:
            parts.append(_titled(f"steps of answer {candidate.index}: {steps.name}", _steps(steps)))
    return parts


def _steps(labelled: StepLabels) -> str:
    """A line a step: right, wrong or unknown, and its score."""
    marks = {True: "right", False: "wrong", None: "?"}
    return "\n".join(
        f"{marks[label]:<6}{'' if score is None else f'{score:.2f}':<6}{step}"
        for step, score, label in zip(labelled.steps, labelled.scores, labelled.labels, strict=True)
    )


def _titled(title: str, text: str | Text) -> Text:
    shown = printable(text) if isinstance(text, str) else text
    return Text.assemble((printable(title), "bold cyan"), "\n", shown, "\n")


def word_diff(old: str, new: str) -> Text:
    """The new text with what was {+added+} in green and what was [-removed-] in red, marked as by
    `git diff --word-diff`."""
    before, after = printable(old).split(), printable(new).split()
    text = Text()
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for operation, i, j, k, m in matcher.get_opcodes():
        if operation == "equal":
            text.append(" ".join(before[i:j]) + " ")
            continue
        if j > i:
            text.append(f"[-{' '.join(before[i:j])}-]", style="red")
            text.append(" ")
        if m > k:
            text.append(f"{{+{' '.join(after[k:m])}+}}", style="green")
            text.append(" ")
    return text
