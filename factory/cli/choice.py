"""The choice of a run's samples that `factory show` prints. Reads the traces, calls no model."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from factory.core.errors import RecipeError
from factory.core.records import Sample
from factory.core.yamlfile import nearest
from factory.pipeline import traces as shards
from factory.pipeline.fates import Fates
from factory.recipe.recipe import Recipe


class Choice:
    """The samples of a run so far."""

    def __init__(self, run: Path, recipe: Recipe) -> None:
        self._run = run
        self._fates = Fates(run, recipe)

    def samples(
        self,
        count: int,
        *,
        id: str | None = None,
        is_flipped: bool = False,
        is_worst: bool = False,
        dropped: str | None = None,
    ) -> list[Sample]:
        """The first `count` samples that meet every condition given. `id`: has this id. `is_flipped`: a
        judge's two orders disagree. `dropped`: a filter dropped an answer, or a view a row, for this
        reason. `is_worst`: those with the lowest `Fates.worth`, lowest first, instead of the first ones.

        Raises `RecipeError` if no sample does.
        """
        ids: list[str] = []
        reasons: Counter[str] = Counter()

        def fits(sample: Sample) -> bool:
            ids.append(sample.id)
            if id is not None and sample.id != id:
                return False
            if is_flipped and not any(v.is_consistent is False for v in sample.verdicts):
                return False
            if dropped is None:
                return True
            why = self._fates.reasons(sample)
            reasons.update(why)
            return dropped in why

        fitting = filter(fits, shards.read_samples(self._run))
        found = self._worst(count, fitting) if is_worst else list(islice(fitting, count))
        if not found:
            raise RecipeError(
                _nothing(
                    self._run,
                    ids,
                    reasons,
                    id=id,
                    dropped=dropped,
                    is_flipped=is_flipped,
                    is_worst=is_worst,
                )
            )
        return found

    def _worst(self, count: int, samples: Iterator[Sample]) -> list[Sample]:
        known = ((worth, s) for s in samples if (worth := self._fates.worth(s)) is not None)
        return [sample for _, sample in heapq.nsmallest(count, known, key=lambda each: each[0])]

    def told(self, sample: Sample) -> str:
        """The sample's fate in each dataset: `sft: a row; preference: dropped: tie`."""
        return "; ".join(
            f"{name}: dropped: {', '.join(dict.fromkeys(found))}" if found else f"{name}: a row"
            for name, found in self._fates.of(sample).items()
        )


def _nothing(
    run: Path,
    ids: list[str],
    reasons: Counter[str],
    *,
    id: str | None,
    dropped: str | None,
    is_flipped: bool,
    is_worst: bool,
) -> str:
    """The message that no sample fits, with those there are. `ids`: of the samples gone through."""
    if not ids:
        return f"{run} holds no samples yet; once its first part is written, it does"
    if id is not None and id not in ids:
        return f"no sample in {run} has the id '{id}'{nearest(id, ids)}"
    if dropped is not None and dropped not in reasons:
        have = ", ".join(f"{reason} {n:,}" for reason, n in reasons.most_common())
        near = nearest(dropped, sorted(reasons))
        which = "nothing" if id is None and not is_flipped else "no such sample"
        return f"{which} in {run} was dropped for '{dropped}'{near} (have: {have or 'no drops'})"
    if is_flipped:
        return f"no verdict in {run} changed with the order of the answers"
    if is_worst:
        return (
            f"{run} knows nothing of how good its answers are: no judge compared revisions, and no "
            "single score could be read"
        )
    return f"no sample in {run} meets all of these conditions"
