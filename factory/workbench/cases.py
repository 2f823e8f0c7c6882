"""Pairs of answers with a known better one, to put to a judge by one principle: a principle's own tests,
and pairs of a run that people decided (`factory review`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from factory.core.constitution import Constitution, Principle
from factory.core.errors import RecipeError
from factory.core.records import Message, Sample
from factory.export.decisions import PairKey, by_pair, consensus, in_order, read_run
from factory.pipeline.traces import read_samples


class Case(msgspec.Struct, frozen=True):
    """One pair, and the principle by which it is judged."""

    principle: Principle
    name: str
    """Unique within the principle: a test's position in the file, or the id of a run's sample."""
    prompt: list[Message]
    better: str
    worse: str


def own_tests(made: Constitution) -> Iterator[Case]:
    """The tests that the constitution's file has, in its order."""
    for principle in made.principles:
        for number, test in enumerate(principle.tests):
            prompt = [Message(role="user", content=test.prompt)]
            yield Case(principle, str(number), prompt, test.better, test.worse)


def decided_pairs(run: Path, made: Constitution) -> list[Case]:
    """The pairs of a run of which people prefer one answer, each by every principle that a judge of the
    run compared it by and that the constitution still has; in the order of the principles.

    Where several people decided a pair, more than half of them prefer that answer. Raises `RecipeError`
    if there is no such pair.
    """
    decided = by_pair(read_run(run))
    said = {key: label.label for key, of in decided.items() if (label := consensus(of))}
    ids = {key[0] for key in said}
    found: dict[tuple[str, PairKey], Case] = {}
    for sample in read_samples(run) if said else ():
        if sample.id in ids:
            for key, case in _cases(sample, said, made):
                found.setdefault((case.principle.id, key), case)
    if not found:
        raise RecipeError(
            f"--reviews {run}: people prefer no answer of a pair that a principle of {made.name} "
            f"compared; decide some: factory review {run}"
        )
    order = [principle.id for principle in made.principles]
    return sorted(found.values(), key=lambda case: order.index(case.principle.id))


def _cases(
    sample: Sample, said: Mapping[PairKey, str | None], made: Constitution
) -> Iterator[tuple[PairKey, Case]]:
    principles = {principle.id: principle for principle in made.principles}
    for verdict in sample.verdicts:
        two = sample.candidates[verdict.a], sample.candidates[verdict.b]
        key, a, b = in_order(sample, *two)
        label = said.get(key)
        if label not in ("a", "b"):
            continue
        better, worse = (a, b) if label == "a" else (b, a)
        name = f"{sample.id}:{better.index}>{worse.index}"
        for id in verdict.principle_ids:
            if id in principles:
                yield key, Case(principles[id], name, sample.prompt, better.text, worse.text)
