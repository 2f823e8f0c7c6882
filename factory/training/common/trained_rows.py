"""Rows as trainers take and leave them: columns that are used, tokens too many or unknown, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor


def only(dataset: Dataset, *columns: str) -> Dataset:
    """Those of the columns that there are. TRL changes what it trains on for others by their mere
    presence: text, input_ids, labels, completion_mask, images, tools, chat_template_kwargs."""
    return dataset.select_columns([name for name in columns if name in dataset.column_names])


def count_cut(tokenized: Dataset, max_length: int | None, answers: tuple[str, ...]) -> int:
    """Rows of which one of `answers` does not fit after `prompt_ids`: TRL drops its end."""
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


def beyond_embeddings(size: int) -> str:
    """The reason for leaving out a text with a token that the model lacks."""
    return f"a token id beyond the model's {size} embeddings"


def rows_beyond(rows: Dataset, size: int) -> set[int]:
    """Positions of rows with a token id of `size` or more in a column whose name ends in `ids`."""
    from pyarrow import compute

    columns = [name for name in rows.column_names if name.endswith("ids")]
    found: set[int] = set()
    first = 0
    for batch in rows.with_format("arrow").iter(batch_size=1000) if columns else ():
        for name in columns:
            flat = batch[name].combine_chunks()
            if (compute.max(compute.list_flatten(flat, recursive=True)).as_py() or 0) < size:
                continue
            places = list(range(first, first + len(flat)))
            while hasattr(flat.type, "value_type"):
                places = [places[i] for i in compute.list_parent_indices(flat).to_pylist()]
                flat = compute.list_flatten(flat)
            is_beyond = compute.greater_equal(flat, size)
            found.update(places[i] for i in compute.indices_nonzero(is_beyond).to_pylist())
        first += batch.num_rows
    return found


def padded(lists: Sequence[Sequence[int]], value: int, multiple: int | None = None) -> Tensor:
    """[N, T]: the lists, padded on the right to the longest, or to a multiple of `multiple`."""
    import torch

    length = max(map(len, lists))
    if multiple is not None:
        length = -(-length // multiple) * multiple
    return torch.tensor([[*ids, *[value] * (length - len(ids))] for ids in lists])


def model_inputs(
    lists: Sequence[Sequence[int]], pad_id: int | None, multiple: int | None = None
) -> dict[str, Tensor]:
    """A model's input of these token ids, padded. `pad_id` None: any, since no model looks there."""
    return {
        "input_ids": padded(lists, pad_id or 0, multiple),
        "attention_mask": padded([[1] * len(ids) for ids in lists], 0, multiple),
    }
