"""The columns that `factory score` adds to the rows of a dataset, by their shape (N: a score's name).

preference   chosen_N, rejected_N    and P(chosen is better) of a pairwise judge J: J_p
completion   N
reward       N, a list
process      N, of the solution, and N_steps, a list, of a stage that scores steps
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from factory.core.errors import RecipeError
from factory.core.records import Sample
from factory.evaluation.results import Result
from factory.evaluation.rows import Rows, Shape
from factory.evaluation.scorer import Scorer
from factory.scorers.judge_pairwise import PairwiseJudge
from factory.scorers.process_reward import ProcessReward

if TYPE_CHECKING:
    from datasets import Features


class Columns:
    """The columns that a scorer adds to rows of a shape.

    Raises `RecipeError` where one is there already, or there is none to add.
    """

    def __init__(self, rows: Rows, shape: Shape, scorer: Scorer) -> None:
        from datasets import Features, List, Value

        self._shape = shape
        self._scores = scorer.scores()
        number = Value("float64")
        made: list[tuple[int, str, Any]] = [
            (position, column, List(number) if shape == "reward" else number)
            for name, position in self._scores.items()
            for column in _columns_of(name, shape)
        ]
        self._steps: list[str] = []
        self._judges: list[str] = []
        for stage, position in zip(scorer.pipeline.stages, scorer.positions, strict=True):
            if shape == "process" and isinstance(stage, ProcessReward):
                self._steps.append(stage.name)
                made.append((position, f"{stage.name}_steps", List(number)))
            if isinstance(stage, PairwiseJudge):
                if shape not in {"preference", "reward"}:
                    raise RecipeError(
                        f"stages[{position}] judge compares answers, and a row of {rows.name} has "
                        "one; use mode: pointwise"
                    )
                if shape == "preference":
                    self._judges.append(stage.name)
                    made.append((position, f"{stage.name}_p", number))
        if not made:
            raise RecipeError(
                "the scorer compares answers and scores none; add {kind: rank} to its stages"
            )
        self.features: Features = Features({**rows.features})
        for position, column, kind in made:
            if column in self.features:
                raise RecipeError(
                    f"{rows.name} has a column '{column}' already; give the score another name: "
                    f"--set stages.{position}.name=other"
                )
            self.features[column] = kind
        self.added = [column for _, column, _ in made]

    def values(self, result: Result) -> dict[str, Any]:
        """The row's values of the added columns; nulls where it could not be scored."""
        sample = result.sample
        values: dict[str, Any] = dict.fromkeys(self.added)
        if sample is None:
            return values
        for name in self._scores:
            of = {s.candidate: s.value for s in sample.scores if s.name == name}
            by_candidate = [of.get(c.index) for c in sample.candidates]
            columns = _columns_of(name, self._shape)
            given = [by_candidate] if self._shape == "reward" else by_candidate
            values |= dict(zip(columns, given, strict=True))
        for name in self._steps:
            values[f"{name}_steps"] = steps_scored(sample, name)
        for name in self._judges:
            values[f"{name}_p"] = p_of_first(sample, name)
        return values


def _columns_of(name: str, shape: Shape) -> list[str]:
    return [f"chosen_{name}", f"rejected_{name}"] if shape == "preference" else [name]


def steps_scored(sample: Sample, name: str) -> list[float | None] | None:
    """P(correct) of each step of candidate 0. None: there are none."""
    found = (x.scores for x in sample.step_labels if x.name == name and x.candidate == 0)
    return next(found, None)


def p_of_first(sample: Sample, judge: str) -> float | None:
    """P(candidate 0 is better than 1). None: unparsed, or not compared."""
    verdict = next((v for v in sample.verdicts if v.judge == judge), None)
    if verdict is None or verdict.p is None:
        return None
    return verdict.p if verdict.a == 0 else 1 - verdict.p
