"""Samples printed for people to read, and the choice of them from a run's traces.

Texts are shown as written, revisions as a diff. Control characters are made visible
(`terminal.printable`).
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from factory.core.errors import RecipeError
from factory.core.records import Candidate, Failure, Sample, StepLabels
from factory.core.terminal import printable
from factory.core.yamlfile import nearest
from factory.export.view import Drop, folder_of
from factory.pipeline import traces as shards
from factory.recipe.recipe import Recipe
from factory.scorers.combine import measure, with_combined
from factory.workbench import word_diff as word_diffs


class Traces:
    """The samples of a run so far, and the rows or drops that its views make of them."""

    def __init__(self, run: Path, recipe: Recipe) -> None:
        self._run = run
        self._views = recipe.views
        combinations = recipe.combinations()
        self._measured = measure(combinations, shards.read_samples(run) if combinations else ())

    def chosen(
        self,
        count: int,
        *,
        id: str | None = None,
        is_flipped: bool = False,
        dropped: str | None = None,
    ) -> list[Sample]:
        """The first `count` samples that meet every condition given. `id`: has this id. `is_flipped`: a
        judge's two orders disagree. `dropped`: a filter dropped an answer, or a view a row, for this
        reason.

        Raises `RecipeError` if no sample does.
        """
        reasons: Counter[str] = Counter()

        def fits(sample: Sample) -> bool:
            if id is not None and sample.id != id:
                return False
            if is_flipped and not any(v.is_consistent is False for v in sample.verdicts):
                return False
            if dropped is None:
                return True
            why = {*(c.drop_reason for c in sample.candidates if c.drop_reason)}
            why |= {reason for found in self._fates(sample).values() for reason in found}
            reasons.update(why)
            return dropped in why

        found = list(islice(filter(fits, shards.read_samples(self._run)), count))
        if not found:
            raise RecipeError(_nothing(self._run, id, dropped, reasons, is_flipped=is_flipped))
        return found

    def told(self, sample: Sample) -> str:
        """The sample's fate in each dataset: `sft: a row; preference: dropped: tie`."""
        return "; ".join(
            f"{name}: dropped: {', '.join(dict.fromkeys(found))}" if found else f"{name}: a row"
            for name, found in self._fates(sample).items()
        )

    def _fates(self, sample: Sample) -> dict[str, list[str]]:
        """View -> the reasons for which it dropped the sample or its rows. Empty: none was dropped."""
        whole = with_combined(sample, self._measured)
        return {
            folder_of(view): [row.reason for row in view.rows(whole) if isinstance(row, Drop)]
            for view in self._views
        }


def _nothing(
    run: Path, id: str | None, dropped: str | None, reasons: Counter[str], *, is_flipped: bool
) -> str:
    if dropped is not None:
        have = ", ".join(f"{reason} {n:,}" for reason, n in reasons.most_common())
        if dropped not in reasons:
            near = nearest(dropped, sorted(reasons))
            return (
                f"nothing in {run} was dropped for '{dropped}'{near} (have: {have or 'no drops'})"
            )
    if id is not None:
        return f"no sample in {run} has the id '{id}'" + (" and was dropped so" if dropped else "")
    if is_flipped:
        return f"no verdict in {run} changed with the order of the answers"
    return f"{run} holds no samples yet"


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
    `git diff --word-diff`."""
    styles = {"removed": "red", "added": "green", "same": ""}
    pieces = word_diffs.word_diff(printable(old), printable(new))
    return Text.assemble(*((text, styles[kind]) for kind, text in word_diffs.marked(pieces)))
