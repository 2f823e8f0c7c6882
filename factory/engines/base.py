"""What an engine is: the seam between stages and whatever makes the tokens.

A request carries what is asked, and a number that tells one draw of an answer from the next: with
the engine's fingerprint they are the key under which the ledger remembers the completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol

import msgspec
from pydantic import Field, field_validator

from factory.core.config import Config
from factory.core.errors import EngineError
from factory.core.records import Message

Task = Literal["generate", "classify", "token_classify"]
"""What a model is served for, in vLLM's words: to write; to score a conversation (a reward model);
to score each step (a process reward model)."""


_SECRETS = frozenset(
    {
        *("api_key", "apikey", "access_token", "auth_token", "hf_token"),
        *("authorization", "bearer", "password", "secret"),
    }
)


def without_secrets(values: dict[str, Any]) -> dict[str, Any]:
    """The mapping as it is. Raises `ValueError` if it holds a key or password at any depth: recipes
    are copied into run folders and cards."""
    stack: list[object] = [values]
    seen: set[int] = set()  # YAML's aliases can repeat a part without end
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            for name, inner in value.items():
                if str(name).lower().replace("-", "_") in _SECRETS and isinstance(inner, str):
                    raise ValueError(
                        f"'{name}' is a secret, and what a recipe holds is copied into cards; "
                        "leave it out and set it in the environment (of an endpoint: api_key_env)"
                    )
                stack.append(inner)
        elif isinstance(value, list):
            stack += value
    return values


class Sampling(Config):
    """How tokens are drawn. The names and meanings are vLLM's and the OpenAI API's."""

    temperature: float = Field(1.0, ge=0)
    """0: greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    """0: all tokens."""
    min_p: float = Field(0.0, ge=0, le=1)
    max_tokens: int = Field(256, ge=1)
    """The longest answer, in tokens, with the thought before it."""
    min_tokens: int = Field(0, ge=0)
    stop: list[str] = []
    """Where the answer ends. In a thought they are not looked for, but for `</think>`, which stops
    any model where its thought ends."""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, gt=0)
    extra: dict[str, Any] = {}
    """Anything else the engine's own sampling parameters take, passed through unread."""

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, value: dict[str, Any]) -> dict[str, Any]:
        return without_secrets(value)

    @cached_property
    def changed(self) -> dict[str, Any]:
        """What differs from the defaults, and always temperature and max_tokens: part of the key."""
        values = self.model_dump(exclude_defaults=True)
        return {"temperature": self.temperature, "max_tokens": self.max_tokens, **values}

    @property
    def is_plain(self) -> bool:
        """Tokens are drawn from the model's own distribution."""
        return self.temperature == 1 and set(self.changed) <= {"temperature", "max_tokens"}


class Scoring(msgspec.Struct, frozen=True):
    """What a scoring model reads: all of the conversation, or a solution's steps.

    Without steps the conversation ends with the answer to score, and the model's outputs at its end
    are read. With steps it ends with the user's message; the steps follow as the answer, each with
    `tag` and then `separator` after it, and the outputs are read at each `tag`, or, where there is
    none, at the last token of each `separator`. Tag and separator are tokenized by themselves, as
    TRL's process reward trainer did.
    """

    steps: tuple[str, ...] = ()
    separator: str = "\n"
    tag: str = ""
    """A single token of the model, as `<extra_0>`."""


class TextScoring(Scoring, frozen=True):
    """Steps as one text with the prompt, without a chat template or names of who speaks:

        PROMPT STEP1 TAG<separator>STEP2 TAG<separator>...STEPn TAG

    It is tokenized whole, as SentencePiece makes other tokens of a tag or a line break in a text
    than of one alone, and the outputs are read where the tag's token is.
    """

    layout: Literal["text"] = "text"
    """Tells the two apart in a call's key, which a `Scoring` of before had without it."""

    @property
    def spaced_tag(self) -> str:
        return f" {self.tag}"


class Request(msgspec.Struct, frozen=True):
    """One call of a model. All fields but `priority` and `seed` name it in the ledger."""

    messages: list[Message]
    """The conversation. A model without a chat template sees it as a Human/Assistant transcript."""
    sampling: dict[str, Any]
    """`Sampling.changed`: temperature and max_tokens always, the rest where not default."""
    draw: int = 0
    """In [0, 2**31). Tells sampled calls of the same content apart: each is drawn anew, and
    remembered by itself. 0 where nothing is sampled: greedy calls, and labels."""
    prefix: str = ""
    """Words put into the assistant's mouth; the completion continues them. A model that thinks goes
    on without a thought, unless it begins with one (`reasoning.begun`)."""
    labels: tuple[str, ...] = ()
    """If given, nothing is generated: the completion carries the log-probability of each label,
    every one a single token, as the next token after `prefix`."""
    scoring: Scoring | None = None
    """If given, nothing is generated: the completion carries the outputs of a scoring model, one
    whose `task` is `classify` (no steps) or `token_classify` (steps)."""
    priority: int = 0
    """Lower goes first."""
    seed: int | None = None
    """Of the engine's random numbers for this call: its draw, in a recipe with `reproducible: true`.
    None: whatever comes, which is faster."""


def refuse_other_task(request: Request, task: Task, model: str) -> None:
    """Raise `EngineError` if a model served for `task` is asked for something else."""
    wanted = "generate"
    if request.scoring:
        wanted = "token_classify" if request.scoring.steps else "classify"
    if wanted != task:
        raise EngineError(
            f"{model} is served with task: {task}, and was asked to {wanted}; "
            f"set task: {wanted} in the recipe's models"
        )


Tokens = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
"""A count of tokens, within what a trace file holds."""


class Completion(msgspec.Struct, array_like=True):
    """What a model answered. The ledger remembers none, and reads none, outside of these types."""

    text: str
    finish_reason: str
    """`stop` or `length`."""
    prompt_tokens: Tokens
    cached_tokens: Tokens
    """Prompt tokens whose keys and values came from the engine's prefix cache."""
    output_tokens: Tokens
    label_logprobs: dict[str, float] | None = None
    """Natural log-probabilities under the whole vocabulary, <= 0; None unless labels were asked."""
    scores: list[list[float]] | None = None
    """A scoring model's raw outputs (logits, no activation): [1, labels], or with steps
    [steps, labels]. None unless scoring was asked. Not necessarily finite."""
    reasoning: str | None = None
    """What a thinking model thought before `text`, without the marks around it. None: it did not
    think. A thought that never ended has an empty `text` and the finish reason `length`."""
    reasoning_tokens: Tokens = 0
    """Of the output tokens, those of the thought and its marks. 0 also where nobody says."""


_ENDS = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length", "repetition"), "length"),
}


def ended(reason: object) -> str | None:
    """`Completion.finish_reason`, of what an engine or a server calls the end of an answer. None:
    it is no end, such as `error` and `abort`."""
    return _ENDS.get(reason.lower()) if isinstance(reason, str) else None


LABEL_CONTEXT = 8
"""Characters of the prefix that are tokenized with a label to see what token it becomes there."""


def label_token(
    before: Sequence[int], with_label: Sequence[int], alone: Sequence[int], label: str, model: str
) -> int:
    """The token that a label is after a prefix, from three tokenizations: the prefix's end, the same
    with the label, and the label alone (SentencePiece writes that one with a space).

    Raises `EngineError` if the label is not one token.
    """
    if len(with_label) == len(before) + 1 and [*with_label[:-1]] == [*before]:
        return with_label[-1]
    if len(alone) == 1:
        return alone[0]
    raise EngineError(
        f"the label '{label}' is {len(alone)} tokens in {model}'s tokenizer; "
        "a judge's labels must be one token each: choose others"
    )


class EngineStats(msgspec.Struct):
    """What an engine did since it started. Tokens are counted when a call completes."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    restarts: int = 0
    running: int = 0
    """Calls that it is working on now."""
    doing: str = ""
    """What it does before it can answer, as `loading smollm2-135m-instruct`. Empty: nothing."""

    def add(self, completion: Completion) -> None:
        self.calls += 1
        self.prompt_tokens += completion.prompt_tokens
        self.cached_tokens += completion.cached_tokens
        self.output_tokens += completion.output_tokens


class Engine(Protocol):
    """Where tokens come from. Starting is slow, so it happens on the first call, not before."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that determines a completion besides the request: weights, tokenizer,
        precision. Cheap enough to ask before the engine has started."""
        ...

    async def generate(self, request: Request) -> Completion:
        """Answer one request. Any number may be in flight; the engine batches them.

        Raises `SampleError` when this request cannot be served (too long for the context, refused),
        `EngineError` when none can.
        """
        ...

    async def thinks(self) -> bool:
        """Whether the model thinks before it answers, by its chat template or what a server makes of
        it; False where nobody says."""
        ...

    def stats(self) -> EngineStats: ...

    async def close(self) -> None:
        """Free everything; no process stays behind. May be called twice."""
        ...
