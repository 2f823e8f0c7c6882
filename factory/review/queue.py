"""The pairs of a run that people may decide, and their order.

The pairs are those that the recipe's preference views consider: rows, and pairs that they drop for want
of evidence. First come the pairs of whose verdict the judge is least sure: those whose choice changed
with the order of the answers, then by margin. Between these come pairs drawn at random, so that they
stand for all pairs: agreement on the least sure ones says little of the others.

The order is a function of the pairs alone. So it is the same after a restart, and for every reviewer.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from factory.core.errors import RecipeError
from factory.core.records import Sample
from factory.core.yamlfile import nearest
from factory.export.decisions import PairKey, in_order
from factory.export.pairs import Pair, PairDrop
from factory.export.preference import PreferenceView
from factory.pipeline import traces as shards
from factory.recipe.recipe import Recipe
from factory.scorers.combine import measure, with_combined
from factory.scorers.comparison import compare
from factory.scorers.labels import leaning

_SHOWN = 8


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A pair to decide. Texts stay in the traces."""

    key: PairKey
    index: int
    """The sample's row of the source."""
    a: int
    """Index of the candidate `a`."""
    b: int
    label: Literal["a", "b", "tie"] | None
    """The choice of the judge, or without a verdict of the scores. None: unknown."""
    margin: float | None
    """How sure that choice is, >= 0; by verdict at most 1. None: unknown."""
    is_flipped: bool
    """The choice of a judge changed with the order of the answers."""
    principle_ids: list[str]
    is_random: bool = False


class Wanted(msgspec.Struct, frozen=True):
    """Conditions on the pairs. None: any."""

    id: str | None = None
    tag: str | None = None
    principle: str | None = None


def pairs_of(run: Path, recipe: Recipe, wanted: Wanted) -> list[Item]:
    """The pairs that meet the conditions, in the order of the traces, each once. Raises `RecipeError`
    if there are none."""
    views = [view for view in recipe.views if isinstance(view, PreferenceView)]
    if not views:
        raise RecipeError(
            f"{run / 'recipe.yaml'} has no view of pairs to review; add `- {{kind: preference}}` to "
            "`views` of the recipe and run it again, which calls no model"
        )
    combinations = recipe.combinations()
    measured = measure(combinations, shards.read_samples(run) if combinations else ())
    found: dict[PairKey, Item] = {}
    tags: Counter[str] = Counter()
    principles: Counter[str] = Counter()
    for raw in shards.read_samples(run):
        tags.update(raw.tags)
        if wanted.id not in (None, raw.id) or not (wanted.tag is None or wanted.tag in raw.tags):
            continue
        for item in _items(with_combined(raw, measured), views):
            principles.update(item.principle_ids)
            if wanted.principle is None or wanted.principle in item.principle_ids:
                found.setdefault(item.key, item)
    if not found:
        raise RecipeError(_nothing(run, wanted, tags, principles))
    return list(found.values())


def in_queue(items: Sequence[Item], calibration: float) -> list[Item]:
    """The items in the order of review. `calibration`: the share drawn at random, in [0, 1]."""
    drawn = [i for i in items if _fraction(i.key) < calibration]
    drawn = [msgspec.structs.replace(i, is_random=True) for i in drawn]
    drawn.sort(key=lambda i: _fraction(i.key))
    taken = {i.key for i in drawn}
    rest = sorted((i for i in items if i.key not in taken), key=_sureness)
    return list(_merged(drawn, rest, calibration))


def _items(sample: Sample, views: Sequence[PreferenceView]) -> Iterator[Item]:
    for view in views:
        for found in view.choose(sample):
            if isinstance(found, Pair):
                two = (found.chosen, found.rejected)
            elif isinstance(found, PairDrop):
                two = (found.a, found.b)
            else:
                continue
            key, a, b = in_order(sample, *two)
            if key[1] == key[2]:
                continue
            verdict = compare(sample, a.index, b.index)
            p = verdict.p if verdict else None
            label: Literal["a", "b", "tie"] | None = None
            if p is not None:
                label = {True: "a", False: "b", None: "tie"}[leaning(p)]  # type: ignore[assignment]
            elif isinstance(found, Pair):
                label = "a" if found.chosen is a else "b"
            ids = verdict.principle_ids if verdict else []
            yield Item(
                key=key,
                index=sample.index,
                a=a.index,
                b=b.index,
                label=label,
                margin=abs(2 * p - 1) if p is not None else getattr(found, "margin", None),
                is_flipped=verdict is not None and not verdict.is_consistent,
                principle_ids=ids or (found.principle_ids if isinstance(found, Pair) else []),
            )


def _sureness(item: Item) -> tuple[bool, bool, float, float]:
    """Least sure first; pairs without any evidence last."""
    return (not item.is_flipped, item.margin is None, item.margin or 0.0, _fraction(item.key))


def _merged(drawn: Sequence[Item], rest: Sequence[Item], share: float) -> Iterator[Item]:
    """`drawn` spread evenly among the items, so that they are `share` of the first ones."""
    ours, theirs = iter(drawn), iter(rest)
    for place in range(len(drawn) + len(rest)):
        is_drawn = int((place + 1) * share) > int(place * share)
        first, second = (ours, theirs) if is_drawn else (theirs, ours)
        item = next(first, None) or next(second, None)
        assert item is not None
        yield item


def _fraction(key: PairKey) -> float:
    """A number in [0, 1) that depends on nothing else."""
    digest = hashlib.blake2b(msgspec.json.encode(key), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def _nothing(run: Path, wanted: Wanted, tags: Counter[str], principles: Counter[str]) -> str:
    for name, value, have in (
        ("tag", wanted.tag, tags),
        ("principle", wanted.principle, principles),
    ):
        if value is not None and value not in have and (have or wanted.id is None):
            shown = ", ".join(n for n, _ in have.most_common(_SHOWN)) or "none"
            near = nearest(value, sorted(have))
            return f"no pair in {run} has the {name} '{value}'{near} (have: {shown})"
    if any((wanted.id, wanted.tag, wanted.principle)):
        return f"no pair in {run} meets every condition given; leave one out"
    return (
        f"{run} holds no pair of two different answers that its preference views consider; "
        f"`factory show {run}` prints its samples"
    )
