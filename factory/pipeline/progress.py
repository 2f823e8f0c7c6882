"""Progress of a run on the screen: what is happening, calls and tokens by stage, and the time left.

On a terminal, a bar for each stage, rewritten in place. Elsewhere, a plain line every ten seconds (see
`screen`). The figures come from a `Forecast`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from factory.core.screen import Screen, View, roughly
from factory.engines.base import Engine
from factory.pipeline import pulse
from factory.pipeline.forecast import Forecast, Outlook, StageOutlook
from factory.recipe.pipeline import Pipeline
from factory.stages.base import Expected

_BAR = 20  # columns
_DONE, _TO_DO = "━", "─"


class Progress(Screen):
    """The progress display of a run, a scoring or a comparison."""

    @contextlib.contextmanager
    def mirrored(self, out: Path, recipe: str) -> Iterator[None]:
        """Mirror the display in the run's folder (see `pulse`), for `factory status`. If the block fails
        or the process is killed, the last state stays there."""
        if self.is_quiet:
            yield
            return
        with pulse.shown(out, recipe) as shown, self.telling(shown.beat):
            yield

    @contextlib.contextmanager
    def following(
        self,
        what: str,
        pipeline: Pipeline,
        engines: Mapping[str, Engine],
        *,
        rows: int | None,
        before: int = 0,
        answers: int = 0,
    ) -> Iterator[Forecast | None]:
        """Show the progress of rows through a pipeline's stages.

        `rows`: their number, of which `before` are done already. `answers`: answers that a row brings
        along. Yields the forecast, which the caller tells of each row; None: nothing is shown."""
        if self.is_quiet:
            yield None
            return
        stages = [*zip(pipeline.stage_labels(), pipeline.stages, strict=True)]
        principles = len(pipeline.constitution.principles) if pipeline.constitution else 1
        forecast = Forecast(
            stages,
            engines,
            rows=None if rows is None else max(0, rows - before),
            expected=Expected(answers=answers, principles=principles),
            clock=self.clock,
        )
        with self.doing(lambda: view(what, forecast.look(), rows=rows, before=before)):
            yield forecast


def view(what: str, outlook: Outlook, *, rows: int | None, before: int) -> View:
    lines = _table(outlook, rows, before)
    if outlook.doing and not outlook.tokens_a_second:
        return View(" and ".join(outlook.doing), _calls_to_make(outlook), lines)
    facts = [*_pace(outlook), _stages(outlook), _samples(outlook, rows, before)]
    return View(what, "; ".join(fact for fact in facts if fact), lines)


def _calls_to_make(outlook: Outlook) -> str:
    """The line shown while no engine can answer yet."""
    if outlook.to_make is None:
        return ""
    about = "" if all(stage.is_certain for stage in outlook.stages) else "about "
    ledger = f", {outlook.remembered:,} answered from the ledger" if outlook.remembered else ""
    return f"{about}{outlook.to_make:,.0f} calls to make{ledger}"


def _pace(outlook: Outlook) -> Iterator[str]:
    if outlook.share is not None and outlook.seconds_left is not None:
        left = roughly(outlook.seconds_left)
        yield f"{outlook.share:.0%}, {left} left"
    if outlook.tokens_a_second:
        yield f"{outlook.tokens_a_second:,.0f} tokens/s"
    if outlook.remembered and not outlook.made:
        yield f"{outlook.remembered:,} calls answered from the ledger"


def _stages(outlook: Outlook) -> str:
    """Calls of each stage, on one line."""
    return ", ".join(f"{stage.label} {_of(stage)}" for stage in outlook.stages)


def _of(stage: StageOutlook) -> str:
    if stage.expected is None:
        return f"{stage.calls:,}"
    about = "" if stage.is_certain else "~"
    return f"{stage.calls:,}/{about}{max(stage.calls, round(stage.expected)):,}"


def _samples(outlook: Outlook, rows: int | None, before: int) -> str:
    text = f"{_rows(outlook, rows, before)} samples"
    return f"{text}, {outlook.failed:,} quarantined" if outlook.failed else text


def _rows(outlook: Outlook, rows: int | None, before: int) -> str:
    return f"{before + outlook.rows:,}" + ("" if rows is None else f"/{rows:,}")


def _table(outlook: Outlook, rows: int | None, before: int) -> list[str]:
    """A line for each stage, and one for samples."""
    width = max(len(label) for label in ("samples", *(stage.label for stage in outlook.stages)))
    lines = []
    for stage in outlook.stages:
        share = stage.calls / stage.expected if stage.expected else 0.0
        tokens = f"{stage.tokens:,}"
        if stage.expected_tokens is not None and stage.expected_tokens > stage.tokens:
            tokens += f" of ~{_rounded(stage.expected_tokens)}"
        bar = f"{_bar(share)}  " if stage.expected is not None else ""
        lines.append(f"  {stage.label:<{width}}  {bar}{_of(stage):>13} calls  {tokens} tokens")
    done = before + outlook.rows
    bar = f"{_bar(done / rows if rows else 0.0)}  " if rows is not None else ""
    more = [f"{outlook.failed:,} quarantined"] if outlook.failed else []
    more += [f"{outlook.remembered:,} calls from the ledger"] if outlook.remembered else []
    more += [f"{outlook.cached:.0%} of prompts cached"] if outlook.cached else []
    count = _rows(outlook, rows, before)
    lines.append(f"  {'samples':<{width}}  {bar}{count:>13}{'  ' if more else ''}{', '.join(more)}")
    return lines


def _bar(share: float) -> str:
    done = round(_BAR * min(1.0, share))
    return _DONE * done + _TO_DO * (_BAR - done)


def _rounded(tokens: float) -> str:
    """An expected number, rounded to two digits."""
    unit = 10 ** max(0, len(str(int(tokens))) - 2)
    return f"{round(tokens / unit) * unit:,}"
