"""The tests of a constitution's principles, or pairs that people decided, put to a judge.

Each test is two answers, compared by its principle in both orders, with the pairwise judge of a run:
the same question, labels and estimator. It has passed if both orders prefer `better`. Calls are
remembered in a ledger, so that only tests which an edit touched are asked again; with nothing to ask
no engine starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from factory.core import weights
from factory.core.constitution import AppliesWhen, Constitution
from factory.core.errors import RecipeError
from factory.core.records import Candidate, Failure, Sample
from factory.engines import EngineConfig
from factory.engines.base import Engine
from factory.engines.vllm_config import VllmConfig
from factory.pipeline.calls import Calls
from factory.pipeline.ledger import Ledger
from factory.pipeline.outcomes import outcomes
from factory.pipeline.progress import Progress
from factory.recipe.pipeline import Pipeline
from factory.scorers.judge_pairwise import PairwiseJudge
from factory.workbench.cases import Case, own_tests

Outcome = Literal["passed", "failed", "order", "unparsed"]
"""`order`: the two orders prefer different answers. `failed`: a tie too."""
_JUDGE = "judge"
_95 = 1.959964


class Result(msgspec.Struct, frozen=True):
    """The result of one test."""

    principle: str
    test: str
    """Its name: position in the principle's tests, from 0; or sample and answers of a decided pair."""
    prompt: str
    """The last message."""
    outcome: Outcome
    p: float | None
    """P(`better` is better), in [0, 1]: mean over both orders. None: unparsed."""
    low: float | None = None
    """Lower end, with `high`, of the 95% interval of p over draws. None: nothing was drawn twice."""
    high: float | None = None
    error: str = ""
    """Why there is no verdict, if a call failed."""


class Report(msgspec.Struct, frozen=True):
    """The results of all tests that were chosen, in the order of the file."""

    constitution: str
    version: str
    model: str
    tests: list[Result]
    calls: int
    """Calls made, not remembered."""

    @property
    def passed(self) -> float:
        """Share of tests that passed, in [0, 1]."""
        return sum(test.outcome == "passed" for test in self.tests) / len(self.tests)

    def by_principle(self) -> dict[str, list[Result]]:
        found: dict[str, list[Result]] = {}
        for test in self.tests:
            found.setdefault(test.principle, []).append(test)
        return found


class Judge(msgspec.Struct, frozen=True):
    """A judge to put tests to."""

    config: EngineConfig
    folder: Path
    """Relative paths of models start here."""
    stage: PairwiseJudge


def judge_of_model(model: str) -> Judge:
    return Judge(VllmConfig(model=model), Path.cwd(), PairwiseJudge(model=_JUDGE))


def judge_of_recipe(path: Path, model: str) -> Judge:
    """A model of a recipe, asked as by the recipe's first pairwise judge on it, if there is one.

    Raises `RecipeError` if the recipe has no such model."""
    from factory.recipe.load import load

    recipe = load(path)
    if model not in recipe.models:
        have = ", ".join(recipe.models)
        raise RecipeError(f"--model {model}: {path} has no model of that name (have: {have})")
    stages = (s for s in recipe.stages if isinstance(s, PairwiseJudge) and s.model == model)
    stage = next(stages, PairwiseJudge(model=model))
    return Judge(recipe.models[model], recipe.folder, stage)


def default_ledger() -> Path:
    return weights.cache_dir() / "constitution-tests" / "ledger.sqlite"


async def run_tests(
    made: Constitution,
    judge: Judge,
    ledger: Path,
    *,
    cases: Sequence[Case] | None = None,
    repeat: int = 1,
    pattern: str = "",
    progress: Progress | None = None,
    engines: Mapping[str, Engine] | None = None,
) -> Report:
    """Put the tests to the judge.

    `cases`: other pairs than the constitution's own tests. `repeat`: verdicts or thoughts drawn an order,
    where the judge is read by any. `pattern`: only tests whose `principle[name]` contains it, or matches
    it as a regular expression. `engines`: `{"judge": ...}` takes the place of the judge's.

    Raises `RecipeError` if there is no such test.
    """
    chosen = list(_chosen(own_tests(made) if cases is None else cases, pattern))
    if not chosen:
        which = f"no test matches -k '{pattern}'" if pattern else "no principle has tests"
        remedy = "name another" if pattern else "write `tests` for its principles"
        raise RecipeError(f"{made.name}: {which}; {remedy}")
    pipeline = _pipeline(made, judge, repeat)
    samples = [_sample(i, case) for i, case in enumerate(chosen)]
    progress = progress or Progress()
    ledger.parent.mkdir(parents=True, exist_ok=True)
    found: list[Result] = []
    calls = 0
    with progress.doing(f"{len(samples)} tests, each in both orders: {judge.config.model}"):
        async with pipeline.opened(ledger.parent / "logs", engines) as opened:
            with Ledger(ledger) as remembered:
                work = outcomes(pipeline, samples, Calls(remembered, opened))
                async with contextlib.aclosing(work) as ended:
                    async for outcome in ended:
                        calls += sum(count.made for count in outcome.counts.values())
                        found.append(_tested(chosen[len(found)], outcome.result))
    return Report(made.name, made.version, judge.config.model, found, calls)


def _chosen(cases: Iterable[Case], pattern: str) -> Iterator[Case]:
    try:
        wanted = re.compile(pattern)
    except re.error:
        wanted = re.compile(re.escape(pattern))
    for case in cases:
        name = f"{case.principle.id}[{case.name}]"
        if pattern in name or wanted.search(name):
            yield case


def _pipeline(made: Constitution, judge: Judge, repeat: int) -> Pipeline:
    """One stage, that judges each sample by the principle that its tag names."""
    principles = [
        p.model_copy(update={"applies_when": AppliesWhen(tags=[p.id])}) for p in made.principles
    ]
    changed = {"model": _JUDGE, "pairs": "all_pairs", "rounds": None, "principles": "all"}
    if repeat > 1:
        changed["samples"] = repeat  # type: ignore[assignment]
    return Pipeline.of(
        judge.folder,
        constitution=made.model_copy(update={"principles": principles}),
        models={_JUDGE: judge.config},
        stages=[judge.stage.model_copy(update=changed)],
    )


def _sample(index: int, case: Case) -> Sample:
    """Its id, and so its draws, depend on the texts alone: tests around it may change."""
    asked = [message["content"] for message in case.prompt]
    texts = "\0".join((case.principle.id, *asked, case.better, case.worse))
    return Sample(
        id=hashlib.blake2b(texts.encode(), digest_size=8).hexdigest(),
        index=index,
        prompt=case.prompt,
        tags=[case.principle.id],
        candidates=[
            Candidate(i, text, "test", "", "") for i, text in enumerate((case.better, case.worse))
        ],
    )


def _tested(case: Case, result: Sample | Failure) -> Result:
    about = case.principle.id, case.name, case.prompt[-1]["content"]
    if isinstance(result, Failure):
        return Result(*about, "unparsed", None, error=result.error)
    [verdict] = result.verdicts
    p = verdict.p
    if p is None:
        return Result(*about, "unparsed", None)
    low = high = None
    if verdict.variance is not None:
        margin = _95 * math.sqrt(verdict.variance)
        low, high = max(0.0, p - margin), min(1.0, p + margin)
    outcome: Outcome = "passed" if p > 0.5 else "failed"
    if not verdict.is_consistent:
        outcome = "order"
    return Result(*about, outcome, p, low, high)


def junit(report: Report) -> str:
    """The report as JUnit XML, as CI servers read it."""
    from xml.etree import ElementTree as xml

    from factory.core.terminal import printable

    bad = [test for test in report.tests if test.outcome != "passed"]
    counts = {"tests": str(len(report.tests)), "failures": str(len(bad)), "errors": "0"}
    root = xml.Element("testsuites", counts)
    suite = xml.SubElement(root, "testsuite", {"name": report.constitution, **counts})
    for test in report.tests:
        name = f"{test.principle}[{test.test}]"
        case = xml.SubElement(
            suite, "testcase", {"classname": report.constitution, "name": name, "time": "0"}
        )
        if test.outcome != "passed":
            said = "unparsed" if test.p is None else f"P(better) {test.p:.3f}"
            failure = xml.SubElement(case, "failure", {"type": test.outcome, "message": said})
            failure.text = printable(f"{test.prompt}\n{test.error}".strip())
    xml.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{xml.tostring(root, encoding="unicode")}\n'
