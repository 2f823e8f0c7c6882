"""The interface of an engine, which generates tokens for the stages.

A request holds a question and a draw, the number that tells one sampled answer from the next. With the
engine's fingerprint they form the key under which the ledger remembers the completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol

import msgspec
from pydantic import AfterValidator, Field

from factory.core.config import Config
from factory.core.errors import EngineError
from factory.core.records import Message

Task = Literal["generate", "classify", "token_classify"]
"""A model's task, by vLLM's names: `generate` text; `classify`: score a conversation (a reward model);
`token_classify`: score each step (a process reward model)."""


_SECRETS = {
    *("api_key", "apikey", "access_token", "auth_token", "hf_token"),
    *("authorization", "bearer", "password", "secret"),
}


def without_secrets(values: dict[str, Any]) -> dict[str, Any]:
    """The mapping, unchanged. Raises `ValueError` if it holds a key or password at any depth, since
    recipes are copied into run folders and cards."""
    stack: list[object] = [values]
    seen: set[int] = set()  # YAML's aliases can make a part contain itself
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            for name, inner in value.items():
                if str(name).lower().replace("-", "_") in _SECRETS and isinstance(inner, str):
                    raise ValueError(
                        f"'{name}' is a secret, and recipes are copied into cards; "
                        "leave it out and set it in the environment (for an endpoint: api_key_env)"
                    )
                stack.append(inner)
        elif isinstance(value, list):
            stack += value
    return values


WithoutSecrets = Annotated[dict[str, Any], AfterValidator(without_secrets)]


class Sampling(Config):
    """Options of sampling. The names and meanings are vLLM's and the OpenAI API's."""

    temperature: float = Field(1.0, ge=0)
    """Temperature. 0: greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    """Number of likeliest tokens to draw from. 0: all tokens."""
    min_p: float = Field(0.0, ge=0, le=1)
    max_tokens: int = Field(256, ge=1)
    """The longest answer, in tokens, including the thought before it."""
    min_tokens: int = Field(0, ge=0)
    stop: list[str] = []
    """Strings at which the answer ends. They are ignored within a thought, except `</think>`, which
    stops any model at the end of its thought."""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, gt=0)
    extra: WithoutSecrets = {}
    """Other sampling parameters of the engine, passed through unchecked."""

    @cached_property
    def changed(self) -> dict[str, Any]:
        """Temperature, max_tokens and the fields that differ from their defaults: part of the key."""
        values = self.model_dump(exclude_defaults=True)
        return {"temperature": self.temperature, "max_tokens": self.max_tokens, **values}

    @property
    def is_plain(self) -> bool:
        """True if tokens are drawn from the model's own distribution."""
        return self.temperature == 1 and set(self.changed) <= {"temperature", "max_tokens"}


class Scoring(msgspec.Struct, frozen=True):
    """The input of a scoring model: a whole conversation, or a solution's steps.

    Without steps, the conversation ends with the answer to score, and outputs are read at its end.
    With steps, the conversation ends with the user's message. The steps follow as the answer, each
    followed by `tag` and then `separator`, both tokenized by themselves, as TRL's trainer did. Outputs
    are read at each `tag` or, if `tag` is empty, at the last token of each `separator`.
    """

    steps: tuple[str, ...] = ()
    separator: str = "\n"
    tag: str = ""
    """A single token of the model, such as `<extra_0>`; or empty."""


class TextScoring(Scoring, frozen=True):
    """Prompt and steps as one text, without a chat template or names of speakers:

        PROMPT STEP1 TAG<separator>STEP2 TAG<separator>...STEPn TAG

    It is tokenized whole, since SentencePiece splits a tag or a line break within a text differently
    than alone. Outputs are read at the tag's token.
    """

    layout: Literal["text"] = "text"
    """Marks this layout in a call's key. Keys of a plain `Scoring` have no such field."""

    @property
    def spaced_tag(self) -> str:
        return f" {self.tag}"


class Request(msgspec.Struct, frozen=True):
    """One call of a model. All fields except `priority` and `seed` are part of its key."""

    messages: list[Message]
    """The conversation. A model without a chat template sees it as a Human/Assistant transcript."""
    sampling: dict[str, Any]
    """`Sampling.changed`: temperature and max_tokens, and other fields that are not default."""
    draw: int = 0
    """In [0, 2**31). Tells sampled calls of the same content apart: each is drawn and remembered
    separately. 0 where nothing is sampled: greedy calls, and labels."""
    prefix: str = ""
    """Beginning of the assistant's answer, which the completion continues. A thinking model then
    does not think, unless the prefix begins with a thought (`reasoning.begun`)."""
    labels: tuple[str, ...] = ()
    """If given, nothing is generated: the completion holds the log-probability of each label as the
    next token after `prefix`. Each label must be a single token."""
    scoring: Scoring | None = None
    """If given, nothing is generated: the completion holds the outputs of a scoring model, whose
    `task` is `classify` (no steps) or `token_classify` (steps)."""
    priority: int = 0
    """Lower goes first."""
    seed: int | None = None
    """Seed of the engine's random numbers for this call: its draw, if the recipe says
    `reproducible: true`. None: not seeded, which is faster."""


def refuse_other_task(request: Request, task: Task, model: str) -> None:
    """Raise `EngineError` if the request does not fit the model's `task`."""
    wanted = "generate"
    if request.scoring:
        wanted = "token_classify" if request.scoring.steps else "classify"
    if wanted != task:
        raise EngineError(
            f"{model} is served with task: {task}, and was asked to {wanted}; "
            f"set task: {wanted} in the recipe's models"
        )


Tokens = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
"""A number of tokens, in the range that a trace file can hold."""


class Completion(msgspec.Struct, array_like=True):
    """A model's answer. The ledger stores and reads only values of these types."""

    text: str
    finish_reason: str
    """`stop` or `length`."""
    prompt_tokens: Tokens
    cached_tokens: Tokens
    """Prompt tokens whose keys and values came from the engine's prefix cache."""
    output_tokens: Tokens
    label_logprobs: dict[str, float] | None = None
    """Natural log-probabilities over the whole vocabulary, <= 0. None unless labels were asked for."""
    scores: list[list[float]] | None = None
    """A scoring model's raw outputs (logits, no activation): [1, labels], or with steps
    [steps, labels]. None unless scoring was asked for. Not necessarily finite."""
    reasoning: str | None = None
    """The model's thought before `text`, without the marks around it. None: it did not think. If the
    thought never ended, `text` is empty and the finish reason is `length`."""
    reasoning_tokens: Tokens = 0
    """Output tokens of the thought and its marks. 0 also if a server does not report them."""


_ENDS = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length", "repetition"), "length"),
}


def ended(reason: object) -> str | None:
    """An engine's or server's finish reason as `Completion.finish_reason`. None: the answer did not
    end, as with `error` and `abort`."""
    return _ENDS.get(reason.lower()) if isinstance(reason, str) else None


LABEL_CONTEXT = 8
"""Characters at the prefix's end that are tokenized with a label to find the label's token there."""


def label_token(
    before: Sequence[int], with_label: Sequence[int], alone: Sequence[int], label: str, model: str
) -> int:
    """The token of a label after a prefix, from three tokenizations: the prefix's end, the same with
    the label, and the label alone (which SentencePiece writes with a space).

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
    """Counts of an engine since it started. Tokens are counted when a call completes."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    restarts: int = 0
    running: int = 0
    """Calls in progress."""
    doing: str = ""
    """Work before it can answer: `loading smollm2-135m-instruct`. Empty: none."""

    def add(self, completion: Completion) -> None:
        self.calls += 1
        self.prompt_tokens += completion.prompt_tokens
        self.cached_tokens += completion.cached_tokens
        self.output_tokens += completion.output_tokens


class Engine(Protocol):
    """An engine. Starting is slow, so it starts on the first call."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything besides the request that decides a completion: weights, tokenizer,
        precision. Available, at little cost, before the engine has started."""
        ...

    async def generate(self, request: Request) -> Completion:
        """Answer one request. Any number may be in flight; the engine batches them.

        Raises `SampleError` if this request cannot be served (too long for the context, refused),
        `EngineError` if no request can.
        """
        ...

    async def thinks(self) -> bool:
        """True if it thinks before it answers, by its template or the server's prompts. False if unknown."""
        ...

    def stats(self) -> EngineStats: ...

    async def close(self) -> None:
        """Free everything and end all processes of the engine. May be called twice."""
        ...
