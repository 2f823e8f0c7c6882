"""Completions -> rewards, as trainers take them: all parts of a batch at once, then their sum.

In: prompts, completions, references and token counts of one batch, in step. Out: `Scored`. A part
that gives no number makes the total None, and the completion is counted by the reason: `unparsed:<name>`,
nothing could be read; `failed:<name>`, it could not be scored (the first such error is said).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from factory.core.errors import SampleError
from factory.core.records import Candidate, Message, Sample
from factory.core.seeds import derive_seed
from factory.engines.base import Engine, Request
from factory.scorers.judging import Judges
from factory.scorers.process_reward import NOT_FINITE
from factory.scorers.rules import Rule
from factory.stages.base import Asked
from factory.stages.models import SampleModels, StageCount
from factory.training.common.progress import say
from factory.training.online.rewards.entries import Entry, InProcess, Part, Served, parse_rewards

GivenPrompt = list[Message] | str
Completed = list[Message] | str


class Scored(msgspec.Struct):
    """The rewards of a batch. Lists run over its completions."""

    parts: dict[str, list[float | None]]
    """Name of a reward -> its raw values, before weights; higher is better."""
    totals: list[float | None]
    """The weighted sums. None: left out."""
    left_out: dict[str, int]
    """Completions without a total, by reason."""


class Rewards:
    """The rewards of a training. Use it as a context manager: it may hold models and connections."""

    def __init__(self, parts: Mapping[str, Part], engines: Mapping[str, Engine]) -> None:
        self._parts = dict(parts)
        self._engines = dict(engines)
        self._calls = {
            name: _Unremembered(engines.get(name), part.models_used().values())
            for name, part in parts.items()
        }
        self._runner: asyncio.Runner | None = None
        self._last: tuple[object, Scored] | None = None
        self._has_said: set[str] = set()
        self.stop: str | None = None
        """Where an engine would have stopped the policy: what a completion holds from there on is
        not scored. None: engines stop at end tokens alone, as the trainers do."""
        self.answer: Callable[[Sequence[int]], str] | None = None
        """From a completion's ids to its answer: all that scorers see of a policy that thinks. Rules
        read the whole of it. None: it does not think."""
        self.left_out: Counter[str] = Counter()
        """Completions without a total so far, by reason."""

    @property
    def weights(self) -> list[float]:
        return [part.weight for part in self._parts.values()]

    @property
    def needs_reference(self) -> bool:
        """Whether the dataset must have a column `reference`."""
        return any(part.needs_reference for part in self._parts.values())

    def __enter__(self) -> Rewards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the models, close the connections. May be called twice."""
        if self._runner is not None:
            for engine in self._engines.values():
                self._runner.run(engine.close())
            self._runner.close()
            self._runner = None

    def score(
        self,
        prompts: Sequence[GivenPrompt],
        completions: Sequence[Completed],
        references: Sequence[str | None] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
    ) -> Scored:
        """Score a batch. A completion is a text or the assistant's message in a list; a prompt that
        is a text counts as a user's message. Not to be called from within an event loop.

        Raises `EngineError` if a model cannot answer, `ValueError` if a rule counts tokens without ids.
        """
        texts = [_text(completion) for completion in completions]
        if self.stop is not None:
            texts = [text.partition(self.stop)[0] for text in texts]
        tokens = [len(ids) for ids in completion_ids or [[]] * len(texts)]
        known = references or [None] * len(texts)
        parts: dict[str, list[float | None]] = {}
        reasons: dict[str, list[str]] = {}
        staged: dict[str, Entry] = {}
        for name, part in self._parts.items():
            parts[name] = []
            if not isinstance(part, Rule):
                staged[name] = part
                continue
            if part.needs_tokens() and completion_ids is None and texts:
                raise ValueError(f"reward '{name}' counts tokens, and no ids were given")
            parts[name] = [part.score(*row) for row in zip(texts, tokens, strict=True)]
        if staged and texts:
            if self.answer is not None and completion_ids is not None:
                texts = [self.answer(ids) for ids in completion_ids]
            rows = list(zip(map(_messages, prompts), texts, known, strict=True))
            if self._runner is None:
                self._runner = asyncio.Runner()
            for name, found in self._runner.run(self._ask(staged, rows)).items():
                parts[name] = [None if isinstance(x, SampleError) else x for x in found]
                reasons[name] = [
                    f"{'failed' if isinstance(x, SampleError) else 'unparsed'}:{name}"
                    for x in found
                ]
        totals: list[float | None] = []
        left_out: Counter[str] = Counter()
        counted = [(name, part.weight) for name, part in self._parts.items() if part.weight]
        for i in range(len(texts)):
            values = {name: parts[name][i] for name, _ in counted}
            missing = next((name for name, value in values.items() if value is None), None)
            if missing is None:
                totals.append(sum(weight * (values[name] or 0.0) for name, weight in counted))
            else:
                totals.append(None)
                left_out[reasons[missing][i]] += 1
        self.left_out += left_out
        return Scored(parts, totals, dict(left_out))

    async def _ask(
        self, staged: Mapping[str, Entry], rows: Sequence[tuple[list[Message], str, str | None]]
    ) -> dict[str, list[float | SampleError | None]]:
        """Every scorer on every completion, all at once."""
        asked = [
            self._one(name, part, sample_of(*row)) for name, part in staged.items() for row in rows
        ]
        found = await asyncio.gather(*asked)
        return {
            name: list(found[i * len(rows) : (i + 1) * len(rows)]) for i, name in enumerate(staged)
        }

    async def _one(self, name: str, part: Entry, sample: Sample) -> float | SampleError | None:
        try:
            return await scored_by(part, self._calls[name], sample)
        except SampleError as error:
            if name not in self._has_said:
                self._has_said.add(name)
                say(f"reward '{name}' could not score a completion, left out: {error}")
            return error

    def functions(self) -> list[Callable[..., list[float | None]]]:
        """TRL's `reward_funcs`: one a name, so that each is logged apart, in step with `weights`.

        They share one scoring of a batch, and where a completion has no total all of them give
        None: TRL would sum the parts that are there.
        """
        return [self._function(name) for name in self._parts]

    def _function(self, name: str) -> Callable[..., list[float | None]]:
        def function(
            prompts: Sequence[GivenPrompt],
            completions: Sequence[Completed],
            completion_ids: Sequence[Sequence[int]] | None = None,
            reference: Sequence[str | None] | None = None,
            **_: Any,
        ) -> list[float | None]:
            if self._last is None or self._last[0] is not completions:
                scored = self.score(prompts, completions, reference, completion_ids)
                self._last = (completions, scored)
            scored = self._last[1]
            return [
                None if total is None else value
                for value, total in zip(scored.parts[name], scored.totals, strict=True)
            ]

        function.__name__ = name
        return function


async def scored_by(part: Entry, calls: _Unremembered, sample: Sample) -> float | None:
    """The score that the part gives the sample's one candidate. None: nothing could be read, and the
    part says no number for that (`unparsed`).

    Raises `SampleError` if this sample cannot be scored, `EngineError` if none can.
    """
    is_seeded = getattr(part, "reproducible", False)
    models = SampleModels(calls, None, sample, None, StageCount(), is_reproducible=is_seeded)
    scored = await part(sample, models)
    name = getattr(part, "name", part.kind)
    found = next(score for score in scored.scores if score.name == name)
    if found.value is not None:
        return found.value
    if found.detail == NOT_FINITE:
        raise SampleError(
            "the model's output is not finite; look at its weights and its precision",
            is_permanent=True,
        )
    return getattr(part, "unparsed", None)


def sample_of(prompt: list[Message], text: str, reference: str | None) -> Sample:
    """A sample with one candidate, the completion. Its id, and so its seeds, is a hash of both."""
    known = None if reference is None else str(reference)  # a JSON file may hold a number
    sample = _Completed(id="", index=0, prompt=prompt, reference=known)
    sample.candidates = [Candidate(index=0, text=text, origin="policy", model="policy", call="")]
    sample.id = str(derive_seed(sample.prompt_text(), text))
    return sample


class _Completed(Sample):
    """A completion is scored even if it says nothing: left out, that would beat trying."""

    def answered(self) -> list[Candidate]:
        return self.candidates


class _Unremembered:
    """Calls of a part's model, straight to its engine: no completion comes twice."""

    def __init__(self, engine: Engine | None, names: Iterable[str]) -> None:
        """`names`: those by which the part knows its model."""
        self._engines = {} if engine is None else dict.fromkeys(names, engine)
        self.judges = Judges(self._engines)

    async def answer(
        self, model: str, requests: Sequence[Request], count: object, before: object = None
    ) -> list[Asked]:
        made = [self._engines[model].generate(request) for request in requests]
        return [Asked(b"", completion) for completion in await asyncio.gather(*made)]


def build_rewards(entries: Any, folder: Path = Path(), *, device: str | None = None) -> Rewards:
    """The rewards that the entries of `rewards:` name. Relative paths in them are looked for from
    `folder` first; `device` is torch's name of where scoring models run (None: the GPU, if there is
    one). Models load when the first batch is scored.

    Raises `RecipeError` for an entry that is wrong, or a model that is not there or of another kind.
    """
    parts = parse_rewards(entries)
    engines: dict[str, Engine] = {}
    for name, part in parts.items():
        if isinstance(part, InProcess | Served):
            parts[name] = ready = part.ready(folder)
            engines[name] = ready.engine(folder, device)
    return Rewards(parts, engines)


def _messages(prompt: GivenPrompt) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def _text(completion: Completed) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]
