"""Rows that do not fit into `max_length`, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def count_cut(tokenized: Dataset, max_length: int | None, answers: tuple[str, ...]) -> int:
    """Rows of which one of the columns `answers` does not fit after `prompt_ids`: TRL drops the end
    of it."""
    from pyarrow import compute

    if max_length is None:
        return 0
    cut = 0
    for batch in tokenized.with_format("arrow").iter(batch_size=1000):
        prompt, *lengths = (
            compute.list_value_length(batch[name]) for name in ("prompt_ids", *answers)
        )
        longest = compute.add(prompt, compute.max_element_wise(*lengths))
        cut += compute.sum(compute.greater(longest, max_length)).as_py() or 0
    return cut
