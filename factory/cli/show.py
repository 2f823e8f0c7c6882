"""Samples printed for people to read.

Texts are shown as written, revisions as a diff, control characters visibly (`terminal.printable`).
"""

from __future__ import annotations

from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from factory.core.records import Candidate, Failure, Sample, StepLabels
from factory.core.terminal import printable
from factory.workbench import word_diff as word_diffs


def show(result: Sample | Failure, console: Console | None = None, *, fate: str = "") -> None:
    """Print one sample, or why it failed. `fate`: what became of it in the datasets."""
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
                + ("; the two orders disagree" if verdict.is_consistent is False else ""),
            )
        )
    if fate:
        parts += [Rule(style="dim"), _titled("in the datasets", fate)]
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
    if candidate.finish_reason == "length":
        title += " (cut at max_tokens)"
    if candidate.reasoning:
        parts.append(
            _titled(f"thought before answer {candidate.index}", candidate.reasoning, "dim")
        )
    parts.append(_titled(title, text))
    for steps in sample.step_labels:
        if steps.candidate == candidate.index:
            parts.append(_titled(f"steps of answer {candidate.index}: {steps.name}", _steps(steps)))
    return parts


def _steps(labeled: StepLabels) -> str:
    """One line per step: right, wrong or unknown (?), its score, its text."""
    marks = {True: "right", False: "wrong", None: "?"}
    return "\n".join(
        f"{marks[label]:<6}{'' if score is None else f'{score:.2f}':<6}{step}"
        for step, score, label in zip(labeled.steps, labeled.scores, labeled.labels, strict=True)
    )


def _titled(title: str, text: str | Text, style: str = "") -> Text:
    shown = Text(printable(text), style=style) if isinstance(text, str) else text
    return Text.assemble((printable(title), "bold cyan"), "\n", shown, "\n")


def word_diff(old: str, new: str) -> Text:
    """The new text with what was {+added+} in green and what was [-removed-] in red, marked as by
    `git diff --word-diff`. Very long texts are not compared: the new one is returned as it is."""
    if word_diffs.are_too_long(old, new):
        return Text(printable(new))
    styles = {"removed": "red", "added": "green", "same": ""}
    pieces = word_diffs.word_diff(printable(old), printable(new))
    return Text.assemble(*((text, styles[kind]) for kind, text in word_diffs.marked(pieces)))
