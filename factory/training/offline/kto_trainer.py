"""TRL's KTO trainer, which trains cut answers without an end.

Imports TRL at the top, so it is itself imported inside functions only.
"""

from __future__ import annotations

from typing import Any

import trl

from factory.training.common import endings


class KTOTrainer(trl.KTOTrainer):  # type: ignore[misc]
    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, dataset_name: str
    ) -> Any:
        rows = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        ids = {"completion": "completion_ids"}
        trimmed = endings.without_ends(rows, processing_class, ids)
        if trimmed is rows or "KL_completion_ids" not in rows.column_names:
            return trimmed

        def rotate(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            """As TRL does: each prompt beside its neighbour's answer, within a batch."""
            own = batch["completion_ids"]
            return {"KL_completion_ids": [own[-1], *own[:-1]]}

        return trimmed.map(rotate, batched=True, batch_size=args.per_device_train_batch_size)
