"""The first error of a solution, found by completing its beginnings, and checked by a judge.

A `Probe` completes a beginning of k steps; everything else here is arithmetic. Lists are over the
solution's S steps. A step is right if any completion of the beginning that ends with it reaches the
right answer, and wrong if all fail ("hard" labels, Wang et al. 2312.08935). Labels after the first
wrong step are None, since these steps build on an error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

Probe = Callable[[Sequence[int]], Awaitable[list[float | None]]]
"""Numbers of kept steps (each in 1..S) -> share of completions with the right answer, in [0, 1]. None:
no completion had an answer that could be read."""


class Found(NamedTuple):
    """The results of completions, for each step."""

    shares: list[float | None]
    """Share of right completions, in [0, 1]. None: not probed, or unparsed."""
    labels: list[bool | None]


async def every_step(count: int, ends_right: bool | None, probe: Probe) -> Found:
    """Probe every beginning at once. `ends_right`: whether the solution's own answer is right, which
    labels the last step without a completion. None: it has no answer, so the last step is probed too."""
    asked = range(1, count + 1 if ends_right is None else count)
    shares = await probe(asked) if asked else []
    if ends_right is not None:
        shares = [*shares, float(ends_right)]
    return Found(shares, until_first_error([None if s is None else s > 0 for s in shares]))


async def binary_search(count: int, ends_right: bool | None, probe: Probe) -> Found:
    """Find the first wrong step by halving (OmegaPRM, Luo et al. 2406.06592), in at most
    ceil(log2(S)) consecutive probes. A solution that ends right needs none.

    Assumes that a beginning holds an error exactly if no completion of it reaches the right answer. An
    unparsed probe ends the search; steps without a label yet stay None.
    """
    shares: list[float | None] = [None] * count
    if ends_right is None:
        [shares[-1]] = await probe([count])
    else:
        shares[-1] = float(ends_right)
    if shares[-1] is None:
        return Found(shares, [None] * count)
    if shares[-1] > 0:
        return Found(shares, [True] * count)
    right, wrong = 0, count  # the longest beginning known right, the shortest known wrong
    while wrong - right > 1:
        middle = (right + wrong) // 2
        [share] = await probe([middle])
        shares[middle - 1] = share
        if share is None:
            return Found(shares, [*[True] * right, *[None] * (count - right)])
        if share > 0:
            right = middle
        else:
            wrong = middle
    return Found(shares, [*[True] * right, False, *[None] * (count - wrong)])


def until_first_error(labels: Sequence[bool | None]) -> list[bool | None]:
    """The labels, with None after the first False."""
    end = labels.index(False) + 1 if False in labels else len(labels)
    return [*labels[:end], *[None] * (len(labels) - end)]


def settled(labels: Sequence[bool | None]) -> int:
    """Number of consecutive steps, from the first, that have a label."""
    return labels.index(None) if None in labels else len(labels)


def agreed(labels: Sequence[bool | None], judged: Sequence[bool | None]) -> list[bool | None]:
    """The labels up to the first step on which the judge differs, None from there on. If they place the
    first error differently, that is from the earlier place on. `judged` may be shorter."""
    same: list[bool | None] = [None] * len(labels)
    for i, (label, says) in enumerate(zip(labels, judged, strict=False)):
        if label is None or says is not label:
            break
        same[i] = label
    return same


def share_right(labels: Sequence[bool | None]) -> float | None:
    """Share of the steps before the first wrong one, in [0, 1]; 1: none is wrong. None: it was not found."""
    known = settled(labels)
    if known < len(labels) and False not in labels[:known]:
        return None
    return labels[:known].count(True) / len(labels)
