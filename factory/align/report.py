"""The report of an alignment: OUT/align.json, and its text, a block per round, 80 columns wide."""

from __future__ import annotations

import textwrap
from typing import Any

import msgspec

from factory.align.held_out import FIRST, NEW, PREVIOUS, Evaluation
from factory.core.paths import near
from factory.stats.bootstrap import Estimate
from factory.stats.win_rate import WinRate

_WIDTH = 78
_SHOWN_CHARS = 300
"""Most characters of an answer that are shown."""


class Trained(msgspec.Struct):
    """One training of a round."""

    name: str
    kind: str
    rows: int
    """Rows of the dataset that was trained on."""
    steps: int
    metrics: dict[str, Any]
    """The last figures in the log, by the trainer's names."""


class Round(msgspec.Struct):
    """The results of one round, and the comparison of the new model with those before."""

    number: int
    model: str
    trainings: list[Trained]
    evaluation: Evaluation


class Best(msgspec.Struct, frozen=True):
    """The best model."""

    round: int
    """The round that made it. 0: it is the first model."""
    model: str
    why: str


class Alignment(msgspec.Struct):
    """The contents of OUT/align.json."""

    rounds: list[Round]
    best: Best | None = None
    """The best model. None: before the first round, and in files of older versions."""
    stopped: str | None = None
    """Reason for the early end of the rounds. None: they did not end early."""


def table(done: Alignment) -> str:
    lines: list[str] = []
    for made in done.rounds:
        trained = ", ".join(f"{t.name} {t.steps} steps on {t.rows:,} rows" for t in made.trainings)
        lines += ["", f"round {made.number}: {trained}", *_figures(made.evaluation)]
        lines += [f"  {line}" for line in _win_rates(made.evaluation)]
        if left_out := made.evaluation.left_out:
            lines.append(
                f"  {left_out} held-out prompts failed and are in no figure; "
                f"round-{made.number}/evaluation/quarantine.jsonl says why"
            )
    if done.stopped:
        lines += ["", f"stopped after round {done.rounds[-1].number}: {done.stopped}"]
    if done.best:
        lines += ["", f"the best model: {near(done.best.model)}", f"  {done.best.why}"]
    if done.best is None or done.best.model != done.rounds[-1].model:
        lines += ["", f"the last model: {near(done.rounds[-1].model)}"]
    return "\n".join(lines)


def examples(evaluation: Evaluation) -> str:
    """The first held-out prompts with their answers before and after."""
    lines = []
    for each in evaluation.examples:
        lines += ["", *_wrapped("held-out prompt: ", each.prompt)]
        lines += _wrapped("  before: ", each.first) + _wrapped("  after:  ", each.new)
    return "\n".join(lines)


def _wrapped(label: str, text: str) -> list[str]:
    whole = " ".join(text.split())
    cut = whole if len(whole) <= _SHOWN_CHARS else f"{whole[:_SHOWN_CHARS].rstrip()} [...]"
    indent = " " * 10
    return textwrap.wrap(cut, _WIDTH, initial_indent=label, subsequent_indent=indent) or [label]


def _figures(found: Evaluation) -> list[str]:
    """One line per figure: the first model's, the new model's, and the change, prompt by prompt."""
    first, new, change = found.answers[FIRST], found.answers[NEW], found.change
    rows = [(f"{new.prompts} held-out prompts", "first", "new", "change (95% interval)")]
    for name, estimate in new.scores.items():
        before = first.scores.get(name, Estimate(None))
        changed = change.scores.get(name, Estimate(None))
        rows.append((name, _figure(before), _figure(estimate), _signed(changed)))
    rows += [
        (
            "words an answer",
            _figure(first.words, 1),
            _figure(new.words, 1),
            _signed(change.words, 1),
        ),
        ("cut at max_tokens", f"{first.truncated:.0%}", f"{new.truncated:.0%}", ""),
        ("refusals", f"{first.refusals:.0%}", f"{new.refusals:.0%}", ""),
    ]
    moved = "KL, nats an answer" if found.is_kl else "log-ratio, nats an answer"
    rows.append((moved, "", "-" if found.log_ratio is None else str(found.log_ratio), ""))
    return [f"  {what:<28}{a:>8}  {b:>8}  {c}".rstrip() for what, a, b, c in rows]


def _win_rates(found: Evaluation) -> list[str]:
    by = "by the judge" if found.compared_by is None else f"by {found.compared_by}"
    lines = []
    for name in (FIRST, PREVIOUS):
        if (rate := found.against.get(name)) is None:
            continue
        lines.append(f"win rate against the {name} {by}: {rate_text(rate)}")
        more = []
        if rate.longer_wins is not None:
            more.append(f"the longer answer wins {rate.longer_wins:.0%}")
        if rate.flip_rate is not None:
            more.append(f"{rate.flip_rate:.0%} of verdicts change with the order")
        if more:
            lines.append(f"  {'; '.join(more)}")
    return lines


def rate_text(w: WinRate) -> str:
    """A win rate as text: `81% of 48 (95%: 70% to 90%)`."""
    if w.rate is None or w.low is None or w.high is None:
        return "nothing could be read"
    return f"{w.rate:.0%} of {w.prompts} (95%: {w.low:.0%} to {w.high:.0%})"


def _figure(estimate: Estimate, digits: int = 2) -> str:
    return "-" if estimate.value is None else f"{estimate.value:z.{digits}f}"


def _signed(estimate: Estimate, digits: int = 2) -> str:
    if estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+z.{digits}f}"
    low, high = f"{estimate.low:+z.{digits}f}", f"{estimate.high:+z.{digits}f}"
    return f"{estimate.value:+z.{digits}f} ({low} to {high})"
