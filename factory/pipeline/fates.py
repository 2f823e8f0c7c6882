"""What became of a run's samples: the drops of filters and views, and which revisions lost."""

from __future__ import annotations

from pathlib import Path

from factory.core.records import Drop, Sample
from factory.export.view import folder_of
from factory.pipeline import traces as shards
from factory.recipe.recipe import Recipe
from factory.scorers.combine import measure, with_combined
from factory.scorers.comparison import compare, is_known, scores_of


class Fates:
    """The fates of the samples of one run, by its recipe's views."""

    def __init__(self, run: Path, recipe: Recipe) -> None:
        self._views = recipe.views
        combinations = recipe.combinations()
        self._measured = measure(combinations, shards.read_samples(run) if combinations else ())

    def whole(self, sample: Sample) -> Sample:
        """The sample with its combined scores."""
        return with_combined(sample, self._measured)

    def of(self, sample: Sample) -> dict[str, list[str]]:
        """View -> the reasons for which it dropped the sample or its rows. Empty: none was dropped."""
        whole = self.whole(sample)
        return {
            folder_of(view): [row.reason for row in view.rows(whole) if isinstance(row, Drop)]
            for view in self._views
        }

    def reasons(self, sample: Sample) -> set[str]:
        """The reasons for which a filter dropped an answer, or a view a row."""
        by_filters = {c.drop_reason for c in sample.candidates if c.drop_reason}
        return by_filters.union(*self.of(sample).values())

    def worth(self, sample: Sample) -> float | None:
        """The lowest P(revision better than its initial answer), in [0, 1], if revisions were judged;
        else the highest score of an answer. None: unknown."""
        if sample.verdicts:
            judged = (compare(sample, r.index, i.index) for i, r in sample.revision_pairs())
            return min((c.p for c in judged if c is not None and is_known(c.p)), default=None)
        scores = scores_of(self.whole(sample), None)
        return None if isinstance(scores, Drop) else max(scores.values(), default=None)
