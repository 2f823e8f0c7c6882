"""What a stage is: a config that can be called. `async (sample, models) -> sample`.

A stage awaits model calls and adds what it learned to the sample. It knows nothing of ledgers,
batches, priorities or other samples. A user's own stage subclasses `Stage` and is named in the
recipe by its path, `kind: my_module:MyStage`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from factory.core.config import Config
from factory.core.constitution import Constitution, Principle
from factory.core.records import Combination, Message, Sample
from factory.engines.base import Completion, Sampling, Scoring, Task


class Asked(Protocol):
    """A completion and the ledger key of the call that made it."""

    @property
    def call(self) -> str: ...
    @property
    def completion(self) -> Completion: ...


Estimator = Literal["auto", "logprob", "sampled"]
"""How a judge is read (`stages.labels`). `auto`: by log-probabilities where its model shows them."""


class Reads(NamedTuple):
    """How a judge is read, once that is known."""

    estimator: Literal["logprob", "sampled"]
    thinks: bool
    """It thinks before it answers; of a sampled one it does not matter, and is not asked."""


class Models(Protocol):
    """What a stage sees of the world: the recipe's models, for one sample."""

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
        """How the model is read when it judges; the same for all of a run, and of those that go on
        with its ledger. `example`: a question for labels such as it is to be asked."""
        ...


class Judging(Protocol):
    """How a stage's judge is asked, about a conversation such as it will be asked about
    (`factory.scorers.labels`)."""

    @property
    def model(self) -> str: ...

    @property
    def estimator(self) -> Estimator: ...

    def question(self) -> Question:
        """For the label at once."""
        ...

    def examples(self, read: Reads) -> list[Question]:
        """A question of each kind that is asked of a judge that is read so."""
        ...


class Question:
    """One call to a model. `salt` makes its draw its own: what tells it from the sample's others."""

    __slots__ = ("labels", "messages", "prefix", "salt", "sampling", "scoring")

    def __init__(
        self,
        messages: list[Message],
        sampling: Sampling,
        *,
        salt: tuple[object, ...] = (),
        prefix: str = "",
        labels: tuple[str, ...] = (),
        scoring: Scoring | None = None,
    ) -> None:
        self.messages = messages
        self.sampling = sampling
        self.salt = salt
        self.prefix = prefix
        self.labels = labels
        self.scoring = scoring


class Expected(NamedTuple):
    """A sample as a stage may expect to find it, before any has come there."""

    answers: int = 0
    """To the prompt."""
    rounds: int = 0
    """Revisions of each answer."""
    principles: int = 1
    """Of the constitution."""

    @property
    def texts(self) -> int:
        """Answers and revisions."""
        return self.answers * (1 + self.rounds)


class Stage(Config):
    """The base of all stages. Subclasses declare their options as fields."""

    kind: str

    makes: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()

    def facts_made(self) -> frozenset[str]:
        """What samples hold after this stage, as `candidates` or `score:judge`; recipes are checked
        by it before anything runs."""
        return self.makes

    def facts_needed(self) -> frozenset[str]:
        """What must have been made by earlier stages."""
        return self.needs

    def models_used(self) -> dict[str, str]:
        """Field of this stage -> the recipe's model that it names."""
        model = getattr(self, "model", None)
        return {"model": model} if isinstance(model, str) else {}

    def judges(self) -> frozenset[str]:
        """Those of `models_used` that are asked for labels: their engines compute log-probabilities
        in float32."""
        return frozenset()

    def task(self) -> Task:
        """What the models of `models_used` must be served for."""
        return "generate"

    def examples(self) -> list[tuple[str, Question]]:
        """A question of each kind that this stage asks, but of its judge, with the recipe's name of the
        model that it goes to: they are tried before the work."""
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
        ]

    def splits(self) -> bool:
        """It cuts solutions into steps of its own."""
        return False

    def judging(self) -> Judging | None:
        """How its judge is asked, which `examples` leaves out: that depends on how it is read. None: it
        asks for no labels."""
        return None

    def expected_calls(self, sample: Expected) -> float:
        """Calls for one sample: what progress is reckoned with until samples have passed."""
        return len(self.examples()) * sample.texts

    def expected_after(self, sample: Expected) -> Expected:
        """The sample after this stage."""
        return sample

    def uses_constitution(self) -> bool:
        return False

    def combinations(self) -> list[Combination]:
        """Scores that views make of this stage's, with numbers of the whole run; a trace holds
        their parts only."""
        return []

    def problem(self) -> tuple[str, str] | None:
        """A field and what is wrong with it, found without a model; None: nothing."""
        return None

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        raise TypeError(f"{type(self).__name__} does not define __call__")


def render(template: str, /, **values: Any) -> str:
    """Fill a Jinja template in a sandbox: a user's template can format text and nothing else."""
    used = tuple((name, values[name]) for name in _compiled(template)[1] if name in values)
    if all(isinstance(value, str) for _, value in used):
        return _rendered(template, used)  # as a principle's request: few, and the same for many
    text: str = _compiled(template)[0].render(used)
    return text


@functools.lru_cache(maxsize=256)
def _rendered(template: str, values: tuple[tuple[str, str], ...]) -> str:
    text: str = _compiled(template)[0].render(values)
    return text


_MAX_REPEATS = 100
_GROWING = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
"""Methods of texts that make a long one out of a short one."""


@functools.lru_cache(maxsize=1)
def _sandbox() -> Any:
    """Where templates are rendered: nothing in it reaches outside, loops without end or fills the
    memory. Lists and texts that the template is given may have any length."""
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

    A prompt's own words stand on lines without the mark, so a quoted text cannot pass for them,
    whatever it says: "Answer (B):", an end of itself, the mark. Every line that any reader might
    see as one counts (`str.splitlines`). Nothing in the text is lost but how its lines ended.
    """
    return "\n".join(f"> {line}" if line else ">" for line in text.splitlines() or [""])


EXAMPLE_PROMPT: list[Message] = [{"role": "user", "content": "Hello"}]
EXAMPLE_ANSWERED: list[Message] = [*EXAMPLE_PROMPT, {"role": "assistant", "content": "Hi!"}]
EXAMPLE_STEP = "1 + 1 = 2"
EXAMPLE_PRINCIPLE = Principle(
    id="example", title="Title", critique="Criticise.", revision="Revise.", compare="Which?"
)


def template_problem(template: str, **example: Any) -> str | None:
    """What is wrong with a user's template, tried on example values; None: nothing."""
    try:
        render(template, **example)
    except Exception as error:  # an expression in a template can raise anything
        what = getattr(error, "message", None) or str(error) or type(error).__name__
        return f"the template does not render: {what} (it can use: {', '.join(sorted(example))})"
    return None
