"""The interface of a stage: a config that can be called, `async (sample, models) -> sample`.

A stage awaits model calls and adds their results to the sample. It knows nothing of ledgers, batches,
priorities or other samples. A user's own subclasses `Stage`, and is named `kind: my_module:MyStage`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from factory.core.config import Config
from factory.core.constitution import Constitution, Principle
from factory.core.errors import SampleError
from factory.core.records import Candidate, Combination, Message, Sample
from factory.engines.base import Completion, Sampling, Scoring, Task


@dataclass(slots=True)
class Asked:
    """A completion and the ledger key of the call that made it, if it is remembered."""

    key: bytes
    completion: Completion

    @property
    def call(self) -> str:
        return self.key.hex()


NOT_SAMPLED = Sampling(temperature=0.0, max_tokens=1)
"""Sampling of a call that reads labels or scores and draws no token: only a part of its key."""
Estimator = Literal["auto", "logprob", "sampled"]
"""Method of reading a judge (`scorers.labels`). `auto`: `logprob` if its model gives
log-probabilities, else `sampled`."""


class Reads(NamedTuple):
    """The method of reading a judge that was found."""

    estimator: Literal["logprob", "sampled"]
    thinks: bool
    """True: it thinks before it answers. Irrelevant, and not determined, for `sampled`."""


class Models(Protocol):
    """The recipe's models as a stage sees them, for one sample."""

    @property
    def constitution(self) -> Constitution | None: ...

    def seed(self, *salt: object) -> int:
        """A seed in [0, 2**31) from the recipe's seed, the sample's id and `salt`."""
        ...

    async def ask(self, model: str, questions: Sequence[Question]) -> list[Asked]:
        """Answer the questions, all at once, in their order.

        Raises `SampleError` if one cannot be answered: the sample is then quarantined.
        """
        ...

    async def reads(self, model: str, estimator: Estimator, example: Question) -> Reads:
        """The method of reading the model as a judge. It is the same for a whole run and for runs that
        continue with its ledger. `example`: a typical question for labels."""
        ...


class Judging(Protocol):
    """Questions to a stage's judge about a typical conversation (`factory.scorers.labels`)."""

    @property
    def model(self) -> str: ...

    @property
    def estimator(self) -> Estimator: ...

    def question(self) -> Question:
        """The question that asks for the label directly."""
        ...

    def examples(self, read: Reads) -> list[Question]:
        """A question of each kind that is asked of a judge read by this method."""
        ...


@dataclass(slots=True)
class Question:
    """One question to a model."""

    messages: list[Message]
    sampling: Sampling
    _: KW_ONLY
    salt: tuple[object, ...] = ()
    """Tells its draw from those of the sample's other questions."""
    prefix: str = ""
    labels: tuple[str, ...] = ()
    scoring: Scoring | None = None


class Expected(NamedTuple):
    """Expected sizes of a sample at a stage, before any sample has reached it."""

    answers: int = 0
    """Number of answers to the prompt."""
    rounds: int = 0
    """Number of revisions of each answer."""
    principles: int = 1
    """Number of principles in the constitution."""

    @property
    def texts(self) -> int:
        """Number of answers and revisions."""
        return self.answers * (1 + self.rounds)


class Stage(Config):
    """The base of all stages. Subclasses declare their options as fields."""

    kind: str

    makes: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    needs_reference: ClassVar[bool] = False
    """It checks answers against the sample's reference."""
    may_be_unparsed: ClassVar[bool] = False
    """A score of None is the answer's doing: it could not be read. For online rewards a number then
    stands for it (`unparsed`), else dodging a problem would beat trying it."""

    def facts_made(self) -> frozenset[str]:
        """Facts that samples hold after this stage, such as `candidates` or `score:judge`. Recipes are
        checked by them before anything runs."""
        return self.makes

    def facts_needed(self) -> frozenset[str]:
        """Facts that earlier stages must have made."""
        return self.needs

    def models_used(self) -> dict[str, str]:
        """Field of this stage -> recipe name of the model that it names."""
        model = getattr(self, "model", None)
        return {"model": model} if isinstance(model, str) else {}

    def judges(self) -> frozenset[str]:
        """Recipe names of the models asked for labels, whose engines compute log-probabilities in float32."""
        judging = self.judging()
        return frozenset() if judging is None else frozenset({judging.model})

    @classmethod
    def task(cls) -> Task:
        """The task that the models of `models_used` must be served for."""
        return "generate"

    def examples(self) -> list[tuple[str, Question]]:
        """(model's recipe name, question) of each kind but those to its judge, tried before the work."""
        messages, scoring = EXAMPLE_PROMPT, None
        if self.task() == "classify":
            messages, scoring = EXAMPLE_ANSWERED, Scoring()
        elif self.task() == "token_classify":
            scoring = Scoring(steps=(EXAMPLE_STEP,))
        sampling = getattr(self, "sampling", None)
        sampling = sampling if isinstance(sampling, Sampling) else Sampling()
        return [
            (model, Question(messages, sampling, scoring=scoring))
            for model in dict.fromkeys(self.models_used().values())
            if model not in self.judges()
        ]

    def splits(self) -> bool:
        """True if it splits solutions into steps itself."""
        return False

    def judging(self) -> Judging | None:
        """The questions to its judge, which `examples` leaves out, since they depend on the method of
        reading. None: it asks for no labels."""
        return None

    def expected_calls(self, sample: Expected) -> float:
        """Calls for one sample: the forecast's estimate until samples have passed."""
        return len(self.examples()) * sample.texts

    def expected_after(self, sample: Expected) -> Expected:
        """Expected sizes of the sample after this stage."""
        return sample

    def uses_constitution(self) -> bool:
        return False

    def combinations(self) -> list[Combination]:
        """Scores that views combine from this stage's over the whole run. Traces hold only their parts."""
        return []

    def problem(self) -> tuple[str, str] | None:
        """(field, error) that is found without a model. None: no error."""
        return None

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        raise TypeError(f"{type(self).__name__} does not define __call__")


class Scorer(Stage):
    """The base of stages that give each answer a score of their own name."""

    name: str

    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})

    def facts_made(self) -> frozenset[str]:
        return frozenset({f"score:{self.name}", "ranking"})


def add_answer(
    sample: Sample,
    answer: Asked,
    origin: str,
    model: str,
    *,
    parent: int | None = None,
    round: int = 0,
) -> None:
    """Add what a model answered as the sample's next candidate."""
    said = answer.completion
    sample.candidates.append(
        Candidate(
            index=len(sample.candidates),
            text=said.text.strip(),
            origin=origin,
            model=model,
            call=answer.call,
            parent=parent,
            round=round,
            finish_reason=said.finish_reason,
            output_tokens=said.output_tokens,
            reasoning=said.reasoning,
            reasoning_tokens=said.reasoning_tokens,
        )
    )


def constitution_for(stage: Stage, models: Models) -> Constitution:
    if models.constitution is None:
        raise SampleError(f"{stage.kind} needs a constitution", is_permanent=True)
    return models.constitution


def render(template: str, /, **values: Any) -> str:
    """Fill a Jinja template in a sandbox, where a user's template can only format text."""
    used = tuple((name, values[name]) for name in _compiled(template)[1] if name in values)
    if all(isinstance(value, str) for _, value in used):
        return _rendered(template, used)  # cached: few texts, such as a principle's request
    text: str = _compiled(template)[0].render(used)
    return text


@functools.lru_cache(maxsize=256)
def _rendered(template: str, values: tuple[tuple[str, str], ...]) -> str:
    text: str = _compiled(template)[0].render(values)
    return text


_MAX_REPEATS = 100
_GROWING = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
"""Methods of texts that can make a short text long."""


@functools.lru_cache(maxsize=1)
def _sandbox() -> Any:
    """The sandbox for templates: they cannot reach outside, loop without end or fill the memory. The
    lists and texts given to a template may have any length."""
    from jinja2 import StrictUndefined
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**", "%"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            numbers = isinstance(left, int | float) and isinstance(right, int | float)
            if operator == "**":
                raise SecurityError("'**' is not allowed")
            if not numbers:
                raise SecurityError(f"'{operator}' is for numbers")
            return super().call_binop(context, operator, left, right)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            is_growing = isinstance(obj, str) and attr in _GROWING
            return not is_growing and super().is_safe_attribute(obj, attr, value)

        def wrap_str_format(self, value: Any) -> Any:
            checked = super().wrap_str_format(value)
            if checked is None:
                return None

            def narrow(*args: Any, **kwargs: Any) -> str:
                given = (value.__self__, *args, *kwargs.values())
                if any(re.search(r"\d{4}", str(x)) for x in given if isinstance(x, str | int)):
                    raise SecurityError("format() takes no number of four digits or more")
                return str(checked(*args, **kwargs))

            return narrow

    def short_range(*args: int) -> range:
        if len(numbers := range(*args)) > _MAX_REPEATS:
            raise SecurityError(f"range() gives at most {_MAX_REPEATS} numbers")
        return numbers

    sandbox = Sandbox(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    sandbox.globals = {**sandbox.globals, "range": short_range}
    sandbox.globals.pop("lipsum")
    sandbox.filters.pop("center")
    sandbox.filters["quoted"] = quoted
    return sandbox


@functools.lru_cache(maxsize=256)
def _compiled(template: str) -> tuple[Any, tuple[str, ...]]:
    """The template, and the names of the values it uses."""
    from jinja2 import meta

    environment = _sandbox()
    names = sorted(meta.find_undeclared_variables(environment.parse(template)))
    return environment.from_string(template), tuple(names)


def quoted(text: str) -> str:
    """The text with "> " before every line, as in mail; in templates `{{ a | quoted }}`.

    The prompt's own words are on lines without the mark, so a quoted text cannot imitate them, even if it
    holds "Answer (B):", a fake end or the mark. Lines are those of `str.splitlines`, whose ends are lost.
    """
    return "\n".join(f"> {line}" if line else ">" for line in text.splitlines() or [""])


EXAMPLE_PROMPT: list[Message] = [{"role": "user", "content": "Hello"}]
EXAMPLE_ANSWERED: list[Message] = [*EXAMPLE_PROMPT, {"role": "assistant", "content": "Hi!"}]
EXAMPLE_STEP = "1 + 1 = 2"
EXAMPLE_PRINCIPLE = Principle(
    id="example", title="Title", critique="Criticise.", revision="Revise.", compare="Which?"
)


def template_problem(template: str, **example: Any) -> tuple[str, str] | None:
    """The problem of a stage's field `template`, tried on example values. None: no error."""
    try:
        render(template, **example)
    except Exception as error:  # an expression in a template can raise anything
        what = getattr(error, "message", None) or str(error) or type(error).__name__
        can_use = ", ".join(sorted(example))
        return "template", f"the template does not render: {what} (it can use: {can_use})"
    return None


def pattern_problem(pattern: str | None) -> tuple[str, str] | None:
    """The problem of a stage's field `pattern`. None: it is a regular expression, or not given."""
    try:
        re.compile(pattern or "")
    except re.error as error:
        return "pattern", f"'{pattern}' is not a regular expression: {error}"
    return None
