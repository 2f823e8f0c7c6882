"""What the commands of `factory eval` share: what a scorer's scores are worth against known data.

    eval_reward     preference rows: does the chosen answer score higher?
    eval_process    solutions with labeled steps: are the wrong ones found?
    eval_judge      pairs of answers with people's labels: does the judge agree?

Scores come from a scorer, by the path of `factory score` with a ledger in a folder `work`, so that
the same evaluation again makes no call; or from columns that the dataset has already. A row that
cannot be used is counted by its reason, never guessed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from factory.core.errors import RecipeError
from factory.core.lock import alone_in
from factory.core.records import BadRow, Sample
from factory.engines.base import Engine
from factory.evaluation.results import Results
from factory.evaluation.rows import Rows
from factory.evaluation.scorer import Scorer
from factory.pipeline.outcomes import reason_of
from factory.pipeline.progress import Progress
from factory.pipeline.run import in_loop
from factory.recipe.pipeline import Pipeline
from factory.scorers.process_reward import NOT_FINITE
from factory.stats.finite import finite

Convert = Callable[[Mapping[str, Any], int], Sample | BadRow]
"""A row and its place, from 0 -> its sample."""


class Report(Protocol):
    """`RewardReport`, `ProcessReport`, `JudgeReport`."""

    def text(self) -> str: ...


class Evaluation(msgspec.Struct):
    """What is printed, and written with --out."""

    kind: str
    data: str
    rows: int
    """In the figures, or counted by the report as unscored."""
    scorer: dict[str, Any]
    """The score and its models by name, or the columns that the scores are in."""
    report: Any
    """A `Report`."""
    bad_rows: dict[str, int]
    """Rows with something wrong, by reason. They are in no figure, or unscored."""
    calls: int = 0
    """Calls made, not remembered."""

    def text(self) -> str:
        lines: list[str] = [self.report.text()]
        if self.bad_rows:
            ordered = sorted(self.bad_rows.items(), key=lambda item: -item[1])
            lines += ["", "rows with something wrong:"]
            lines += [f"  {count:,} x {reason}" for reason, count in ordered]
        return "\n".join(lines)


def evaluation(
    kind: str,
    rows: Rows,
    scores: Scorer | list[str],
    name: str,
    report: Report,
    bad: Counter[str],
    used: int,
    calls: int,
) -> Evaluation:
    """Of the scorer's score `name`, or of columns. Raises `RecipeError` if no row could be used."""
    bad = bad + Counter(rows.left_out)
    if not used:
        reasons = "".join(f"\n  {n:,} x {reason}" for reason, n in bad.most_common(3))
        raise RecipeError(f"eval {kind}: no row of {rows.name} can be used{reasons}")
    if isinstance(scores, list):
        about: dict[str, Any] = {"columns": scores}
    else:
        models = {model: config.model for model, config in scores.pipeline.models.items()}
        about = {"score": name, "models": models}
    return Evaluation(kind, rows.name, used, about, report, dict(bad), calls)


def work_folder(kind: str, rows: Rows, scorer: Scorer) -> Path:
    """The default of --work: the same for the same inputs, however many of the rows are used."""
    content = repr([kind, rows.digest, scorer.text]).encode()
    return Path("runs") / f"eval-{hashlib.blake2b(content, digest_size=6).hexdigest()}"


def each_sample(
    rows: Rows,
    convert: Convert,
    add: Callable[[Mapping[str, Any], Sample], None],
    bad: Counter[str],
    pipeline: Pipeline | None = None,
    work: Path = Path(),
    engines: Mapping[str, Engine] | None = None,
) -> int:
    """Hand each row and its sample to `add`; where there is a pipeline, after its stages, or as it was
    if they failed. What goes wrong is counted in `bad`. Returns the calls made, not remembered."""

    async def scored(pipeline: Pipeline) -> int:
        progress = Progress()
        with (
            alone_in(work),
            progress.doing("checking what is there"),
            Results(rows, pipeline, work) as results,
        ):
            async with pipeline.opened(work / "logs", engines) as open_engines:
                samples = (convert(row, index) for index, row in enumerate(rows.read()))
                made = await results.fill(samples, open_engines, progress)
            progress.now("working out the figures")
            for index, (row, result) in enumerate(results):
                if result.failure is not None:
                    bad[reason_of(result.failure)] += 1
                sample = result.sample or convert(row, index)
                if isinstance(sample, Sample):
                    add(row, sample)
            return made

    if pipeline is not None:
        return in_loop(scored(pipeline))
    for index, row in enumerate(rows.read()):
        sample = convert(row, index)
        if isinstance(sample, BadRow):
            bad[sample.error] += 1
        else:
            add(row, sample)
    return 0


def unread(sample: Sample, name: str | None) -> set[str]:
    """Why scores of this name are None, as reasons for `bad_rows`."""
    return {
        f"the model's output is {score.detail}" if score.detail == NOT_FINITE else score.detail
        for score in sample.scores
        if score.name == name and score.value is None and score.detail
    }


def number(value: object) -> float | None:
    """`finite`, of a text too: a cell of CSV is one."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return finite(value)
