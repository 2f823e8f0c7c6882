"""Warnings about datasets that may be noise, for the card, the terminal and trainings.

In: a dataset's counts. Out: a line for each doubt, with the number and a remedy; none if there is no
doubt. A coin prefers the same answer in both orders half of the time. So a judge whose choice flips in
half of its verdicts has no information, and one that flips in nearly all goes by an answer's position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from factory.stats.finite import finite

if TYPE_CHECKING:
    from datasets import Dataset

FEW_ROWS = 50
COIN = 0.5
"""Share of flips, and of agreement, of a coin."""
NEARLY_ALL = 0.9
FEW_VERDICTS = 10
"""Least number of verdicts from which a share means anything."""
_ROUNDING = 1e-9


def doubts(view: Mapping[str, Any]) -> list[str]:
    """Doubts about a dataset just made. `view`: a `ViewReport` as a mapping, as in `Manifest.views`."""
    agreement = (view.get("spreads") or {}).get("agreement") or {}
    lines = list(_of_rows(view["rows"], finite(agreement.get("mean"))))
    for given, judge in (view.get("judges") or {}).items():
        name = " ".join(given.split())  # keep it on one line
        if judge["verdicts"] < FEW_VERDICTS:
            continue
        if (rate := finite(judge.get("flip_rate"))) is not None and rate >= COIN:
            of = f"{judge['flips']:,} of {judge['verdicts'] - judge['unparsed']:,} verdicts"
            lines.append(f"judge {name}: {_flips(rate, of)}")
        if judge["unparsed"] >= COIN * judge["verdicts"]:
            lines.append(
                f"judge {name}: {judge['unparsed']:,} of {judge['verdicts']:,} verdicts could not be "
                "read: it does not answer the question; use a judge that follows instructions"
            )
    for each in view.get("agreements") or ():
        is_enough = each["comparisons"] >= FEW_VERDICTS
        if is_enough and each["kappa"] is not None and each["kappa"] <= 0:
            lines.append(
                f"judges {each['first']} and {each['second']} agree on {each['share']:.0%} of "
                f"{each['comparisons']:,} pairs, no more than by chance: one of them is noise, or both"
            )
    return lines


def doubts_of_rows(dataset: Dataset) -> list[str]:
    """Doubts about any dataset that is to be trained on."""
    agreement = None
    if "agreement" in dataset.column_names:
        known = [a for a in dataset["agreement"][:] if finite(a) is not None]
        agreement = sum(known) / len(known) if known else None
    return list(_of_rows(len(dataset), agreement))


def _of_rows(rows: int, agreement: float | None) -> Iterator[str]:
    if 0 < rows < FEW_ROWS:
        yield (
            f"{rows} row{'s' if rows > 1 else ''}, fewer than {FEW_ROWS}: enough to try the pipeline, "
            "few for a model to learn from; use more prompts"
        )
    if agreement is not None and agreement <= COIN + _ROUNDING:
        yield (
            f"the judge's readings agree on the chosen answer in {agreement:.0%} on average, as a "
            "coin's would: which answer was chosen is chance; use a stronger judge, or keep only "
            "pairs that it prefers in both orders (consistent: true)"
        )


def _flips(rate: float, of: str) -> str:
    if rate >= NEARLY_ALL:
        return (
            f"{of} ({rate:.0%}) changed with the order of the answers: it goes by the place, not by "
            "the answer; use a stronger judge"
        )
    return (
        f"{of} ({rate:.0%}) changed with the order of the answers, as often as a coin's would or "
        "more; use a stronger judge, or keep only pairs that it prefers in both orders "
        "(consistent: true)"
    )
