"""Samples -> pairs of a better and a worse answer, for DPO and its family and for reward models.

Always: `chosen` and `rejected` differ, and `margin > 0` where anything was measured.
TRL's RewardTrainer puts a column named `margin` into its loss; remove the column to avoid that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from factory.core.records import Sample
from factory.export.features import Features
from factory.export.pairs import Pair, PairRules
from factory.export.schemas import PREFERENCE
from factory.export.view import Drop, FolderName, Note, answer


class PreferenceView(PairRules):
    """Pairs of answers, the better one chosen."""

    kind: Literal["preference"] = "preference"
    name: FolderName | None = None
    """Folder of the dataset; None: the kind."""

    def rows(self, sample: Sample) -> Iterator[dict[str, Any] | Drop | Note]:
        for found in self.choose(sample):
            yield self.row(sample, found) if isinstance(found, Pair) else found

    def row(self, sample: Sample, pair: Pair) -> dict[str, Any]:
        critique = sample.critique_of(pair.chosen)
        return {
            "prompt": sample.prompt,
            "chosen": answer(pair.chosen, self.reasoning),
            "rejected": answer(pair.rejected, self.reasoning),
            "preference": pair.preference,
            "margin": pair.margin,
            "chosen_score": pair.chosen_score,
            "rejected_score": pair.rejected_score,
            "principle_ids": pair.principle_ids,
            "revised_by": critique.principle_ids if critique else [],
            "judged_by": pair.judged_by,
            "agreement": pair.agreement,
            "chosen_origin": pair.chosen.origin,
            "rejected_origin": pair.rejected.origin,
            "chosen_finish_reason": pair.chosen.finish_reason,
            "rejected_finish_reason": pair.rejected.finish_reason,
            "prompt_id": sample.id,
        }

    def needs(self) -> frozenset[str]:
        return self.pair_needs()

    def features(self) -> Features:
        return PREFERENCE
