"""One sample as the page shows it, and its entry in the page's index, by which it is found and filtered.

Ledger keys, prompts to judges and other fields that the page does not show are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import msgspec

from factory.core.records import Failure, Message, Sample
from factory.core.words import words
from factory.pipeline.fates import Fates
from factory.pipeline.outcomes import reason_of
from factory.scorers.comparison import is_known

_MOST_TEXT = 2_000_000
"""Characters of a text that the page holds; the rest is left out, and the page says so."""
_SNIPPET = 110
_REASON = 160


class Candidate(msgspec.Struct, omit_defaults=True):
    index: int
    text: str
    origin: str
    model: str
    parent: int | None = None
    round: int = 0
    finish_reason: str = "stop"
    output_tokens: int = 0
    drop_reason: str | None = None
    reasoning: str | None = None


class Critique(msgspec.Struct, omit_defaults=True):
    candidate: int
    round: int
    principle_ids: list[str]
    text: str
    reasoning: str | None = None


class Reading(msgspec.Struct, omit_defaults=True):
    principle_id: str
    is_swapped: bool
    p: float | None = None
    reasoning: str = ""


class Verdict(msgspec.Struct, omit_defaults=True):
    judge: str
    a: int
    b: int
    readings: list[Reading]
    p: float | None = None
    is_consistent: bool | None = None


class Score(msgspec.Struct, omit_defaults=True):
    name: str
    candidate: int
    value: float | None = None
    detail: str = ""


class Steps(msgspec.Struct, omit_defaults=True):
    name: str
    candidate: int
    steps: list[str]
    scores: list[float | None]
    labels: list[bool | None]


class Shown(msgspec.Struct, omit_defaults=True):
    """A sample in the page."""

    id: str
    index: int
    prompt: list[Message]
    tags: list[str] = []
    reference: str | None = None
    candidates: list[Candidate] = []
    critiques: list[Critique] = []
    verdicts: list[Verdict] = []
    scores: list[Score] = []
    step_labels: list[Steps] = []
    extra: str | None = None
    replies: dict[str, int] = {}
    """Index of a revision -> index of the critique that it answers."""
    fates: dict[str, list[str]] = {}
    """Dataset -> reasons of drops; none: it has a row."""
    error: str = ""
    """Of a quarantined row: the stage and its error. `prompt` then holds the raw text."""


class Entry(msgspec.Struct, array_like=True):
    """What the list and the filters know of a sample. The page reads it as an array, in this order."""

    id: str
    index: int
    snippet: str
    tags: list[str]
    principles: list[str]
    reasons: list[str]
    is_flipped: bool
    margin: float | None
    """The smallest |2p - 1| of its verdicts; without verdicts, the difference of the two best scores'
    answers. None: unknown."""
    change: int | None
    """Words of a revision less those of its initial answer: the change that is largest either way."""
    disagreement: float | None
    """Share of two scorers each that prefer different answers, in [0, 1]. None: fewer than two."""


def of_sample(sample: Sample, fates: Fates) -> tuple[Shown, Entry]:
    whole = fates.whole(sample)
    shown = msgspec.convert(whole, Shown, from_attributes=True)
    places = {id(critique): i for i, critique in enumerate(sample.critiques)}
    shown.replies = {
        str(c.index): places[id(critique)]
        for c in sample.candidates
        if (critique := sample.critique_of(c)) is not None
    }
    shown.fates = fates.of(sample)
    _cut_long(shown)
    reasons = {c.drop_reason for c in sample.candidates if c.drop_reason}
    changes = [words(new.text) - words(old.text) for old, new in sample.revision_pairs()]
    principles = [id for each in sample.critiques for id in each.principle_ids]
    principles += [r.principle_id for v in sample.verdicts for r in v.readings if r.principle_id]
    entry = Entry(
        id=sample.id,
        index=sample.index,
        snippet=sample.prompt[-1]["content"][:_SNIPPET],
        tags=sample.tags,
        principles=list(dict.fromkeys(principles)),
        reasons=sorted(reasons.union(*shown.fates.values())),
        is_flipped=any(v.is_consistent is False for v in sample.verdicts),
        margin=_margin(whole),
        change=max(changes, key=abs, default=None),
        disagreement=_disagreement(whole),
    )
    return shown, entry


def of_failure(failure: Failure) -> tuple[Shown, Entry]:
    raw = failure.raw
    found = Shown(
        id=failure.id or f"row {failure.index}",
        index=failure.index,
        prompt=[{"role": "raw", "content": raw}],
        error=f"{failure.stage}: {failure.error}",
    )
    reason = quarantine_reason(reason_of(failure))
    return found, Entry(
        found.id, found.index, raw[:_SNIPPET], [], [], [reason], False, None, None, None
    )


def quarantine_reason(reason: str) -> str:
    """A reason in the manifest, as the index of samples has it."""
    return f"quarantined: {reason}"[:_REASON]


def _margin(sample: Sample) -> float | None:
    margins = [abs(2 * v.p - 1) for v in sample.verdicts if is_known(v.p)]
    if sample.verdicts:
        return round(min(margins), 4) if margins else None
    leads = []
    for scores in _by_scorer(sample).values():
        best = sorted(scores.values())[-2:]
        leads += [best[1] - best[0]] if len(best) == 2 else []
    return round(min(leads), 4) if leads else None


def _by_scorer(sample: Sample) -> dict[str, dict[int, float]]:
    """Scorer -> candidate -> its score; a judge's is the mean of P(better)."""
    found: dict[str, dict[int, list[float]]] = {}

    def add(name: str, candidate: int, value: float) -> None:
        found.setdefault(name, {}).setdefault(candidate, []).append(value)

    for verdict in sample.verdicts:
        if is_known(verdict.p):
            add(f"judge {verdict.judge}", verdict.a, verdict.p)
            add(f"judge {verdict.judge}", verdict.b, 1 - verdict.p)
    for score in sample.scores:
        if is_known(score.value):
            add(score.name, score.candidate, score.value)
    return {
        name: {c: sum(values) / len(values) for c, values in scores.items()}
        for name, scores in found.items()
    }


def _disagreement(sample: Sample) -> float | None:
    """Two scorers disagree if, of the answers that both know, each prefers another one strictly."""
    outcomes = []
    for one, other in combinations(_by_scorer(sample).values(), 2):
        both = sorted(one.keys() & other.keys())
        if len(both) > 1:
            best, best_of_other = (max(both, key=scores.__getitem__) for scores in (one, other))
            worse = one[best] > one[best_of_other] and other[best_of_other] > other[best]
            outcomes.append(worse)
    return round(sum(outcomes) / len(outcomes), 4) if outcomes else None


def _cut_long(shown: Shown) -> None:
    for holder, name in _texts(shown):
        text = holder[name] if isinstance(holder, dict) else getattr(holder, name)
        if text is not None and len(text) > _MOST_TEXT:
            cut = f"{text[:_MOST_TEXT]}\n[{len(text) - _MOST_TEXT:,} more characters are in the traces]"
            if isinstance(holder, dict):
                holder[name] = cut
            else:
                setattr(holder, name, cut)


def _texts(shown: Shown) -> Iterator[tuple[Any, str]]:
    yield from ((message, "content") for message in shown.prompt)
    for answer in (*shown.candidates, *shown.critiques):
        yield from ((answer, name) for name in ("text", "reasoning"))
    yield from ((reading, "reasoning") for v in shown.verdicts for reading in v.readings)
    yield shown, "extra"
