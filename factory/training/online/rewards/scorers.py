"""Rewards by a scoring stage: those of `factory/scorers`, each on a sample of one candidate.

Their options are the stages' own. What differs from a recipe is where the model comes from: of
`reward` and `process` it is a folder or a Hub id, run by transformers in this process; of `judge`
it is the name under which an endpoint serves it.

There is no pairwise judge here: a group of G answers would cost G (G - 1) calls an update, and a
verdict is about two answers, where these rewards are about one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, ValidationError

from factory.core import constitution as constitutions
from factory.core import weights
from factory.core.errors import SampleError
from factory.core.paths import user_path
from factory.core.records import Candidate, Message, Sample
from factory.core.seeds import derive_seed
from factory.engines.base import Completion, Engine, Request
from factory.engines.endpoint import EndpointEngine
from factory.engines.endpoint_config import EndpointConfig
from factory.scorers.judge_pointwise import RUBRIC, PointwiseJudge
from factory.scorers.judging import Judges
from factory.scorers.process_reward import NOT_FINITE, ProcessReward, trained_layout
from factory.scorers.reward_model import Reward
from factory.scorers.verify import Verify
from factory.stages.base import Asked, Estimator, Question, Reads, Stage
from factory.training.online.rewards.local import LocalScorer

WEIGHT = 1.0


class VerifyReward(Verify):
    """1: the answer equals the column `reference`; 0: it does not."""

    weight: float = WEIGHT
    unparsed: float | None = 0.0
    """Of a completion in which no answer can be read: that is the policy's doing, not the verifier's.
    None: it is left out."""

    def ready(self, folder: Path) -> VerifyReward:
        return self

    def engine(self, folder: Path, device: str | None) -> Engine | None:
        return None


class ModelReward(Reward):
    """A reward model's raw output. Several models: an entry each, with weights."""

    model: str
    """A folder or a Hub id of a sequence classification model."""
    weight: float = WEIGHT

    def ready(self, folder: Path) -> ModelReward:
        return self

    def engine(self, folder: Path, device: str | None) -> Engine | None:
        return LocalScorer(self.model, "classify", folder, device)


class ProcessModel(ProcessReward):
    """A process reward model's score of the solution, in [0, 1]."""

    model: str
    """A folder or a Hub id of a token classification model. Of one that `factory train prm` made,
    separator and tag are read from its training.json unless given here."""
    weight: float = WEIGHT
    unparsed: float | None = 0.0
    """Of a completion without a step. None: it is left out."""

    def problem(self) -> tuple[str, str] | None:
        if self.steps is not None:
            return "steps", "completions have no step labels; the text is cut by `split`"
        return super().problem()

    def ready(self, folder: Path) -> ProcessModel:
        given = self.model_fields_set
        layout = trained_layout(weights.resolve(self.model, folder))
        return self.model_copy(update={k: v for k, v in layout.items() if k not in given})

    def engine(self, folder: Path, device: str | None) -> Engine | None:
        return LocalScorer(self.model, "token_classify", folder, device)


class JudgeReward(PointwiseJudge):
    """A judge's expected score by a rubric, in [low, high]."""

    mode: Literal["pointwise"] = "pointwise"
    model: str
    """The name under which the endpoint serves it."""
    endpoint: str | list[str] = Field(min_length=1)
    """As `http://localhost:8000/v1`. Several URLs must serve the same model."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key."""
    constitution: str | None = None
    """A constitution's file, in place of `rubric`: all its principles are the rubric."""
    weight: float = WEIGHT
    reproducible: bool = False
    """Seed the judge for each sampled reasoning, by its prompt and completion."""

    def problem(self) -> tuple[str, str] | None:
        if self.constitution is not None and self.rubric != RUBRIC:
            return "constitution", "expected `rubric` or `constitution`, found both; leave one out"
        try:
            self._endpoint()
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            return "endpoint", said
        return super().problem()

    def ready(self, folder: Path) -> JudgeReward:
        if self.constitution is None:
            return self
        from factory.core.assets import shipped_file

        path = folder / user_path(self.constitution)
        shipped = shipped_file(f"constitutions/{self.constitution}.yaml")
        if not path.is_file() and "/" not in self.constitution and shipped:
            path = shipped
        rules = constitutions.load(path).principles
        lines = [f"{i}. {rule.title}" for i, rule in enumerate(rules, start=1)]
        rubric = "The more fully the answer follows these principles, the higher its score:\n"
        return self.model_copy(update={"rubric": rubric + "\n".join(lines), "constitution": None})

    def engine(self, folder: Path, device: str | None) -> Engine | None:
        return EndpointEngine(self._endpoint())

    def _endpoint(self) -> EndpointConfig:
        return EndpointConfig(
            engine="endpoint",
            model=self.model,
            base_url=self.endpoint,
            api_key_env=self.api_key_env,
        )


Scorer = VerifyReward | ModelReward | ProcessModel | JudgeReward


async def scored_by(
    stage: Stage, name: str, engine: Engine | None, judges: Judges, sample: Sample
) -> float | None:
    """The score named `name` that the stage gives the sample's one candidate. None: nothing could be
    read, and the stage says no number for that (`unparsed`). `judges`: of `engine`, by that name.

    Raises `SampleError` if this sample cannot be scored, `EngineError` if none can.
    """
    is_reproducible = getattr(stage, "reproducible", False)
    scored = await stage(sample, _Models(name, engine, judges, sample.id, is_reproducible))
    found = next(score for score in scored.scores if score.name == name)
    if found.value is not None:
        return found.value
    if found.detail == NOT_FINITE:
        raise SampleError(
            "the model's output is not finite; look at its weights and its precision",
            is_permanent=True,
        )
    return getattr(stage, "unparsed", None)


def sample_of(prompt: list[Message], text: str, reference: str | None) -> Sample:
    """A sample whose one candidate is the completion. Its id, and so every seed drawn for it, is a
    hash of both."""
    known = None if reference is None else str(reference)  # a JSON file may hold a number
    sample = _Completed(id="", index=0, prompt=prompt, reference=known)
    sample.candidates = [Candidate(index=0, text=text, origin="policy", model="policy", call="")]
    sample.id = str(derive_seed(sample.prompt_text(), text))
    return sample


class _Completed(Sample):
    """A completion is scored even if it says nothing: left out, that would beat trying."""

    def answered(self) -> list[Candidate]:
        return self.candidates


class _Answer(NamedTuple):
    call: str
    completion: Completion


class _Models:
    """`factory.stages.base.Models` with one model and no memory: no completion comes twice."""

    constitution = None

    def __init__(
        self,
        name: str,
        engine: Engine | None,
        judges: Judges,
        sample_id: str,
        is_reproducible: bool,
    ) -> None:
        self._name = name
        self._engine = engine
        self._judges = judges
        self._sample_id = sample_id
        self._is_reproducible = is_reproducible

    def seed(self, *salt: object) -> int:
        return derive_seed(self._sample_id, *salt)

    async def ask(self, model: str, questions: Sequence[Question]) -> list[Asked]:
        import asyncio

        assert self._engine is not None
        made = [self._engine.generate(self._request(question)) for question in questions]
        return [_Answer("", completion) for completion in await asyncio.gather(*made)]

    async def reads(self, model: str, estimator: Estimator, example: Question) -> Reads:
        return await self._judges.reads(self._name, estimator, self._request(example))

    def _request(self, question: Question) -> Request:
        is_fixed = bool(question.labels or question.scoring) or not question.sampling.temperature
        draw = 0 if is_fixed else self.seed(*question.salt)
        return Request(
            messages=question.messages,
            sampling=question.sampling.changed,
            draw=draw,
            seed=draw if self._is_reproducible and not is_fixed else None,
            prefix=question.prefix,
            labels=question.labels,
            scoring=question.scoring,
        )
