"""A model behind one or several OpenAI-compatible URLs: a vLLM server, or anybody's API.

Invariants:
- At most `concurrency` calls are in flight per URL. The others wait in one heap, lowest priority
  first, oldest first among equals; a retry keeps its place.
- A call goes to the URL with the fewest calls in flight. A URL that failed gets none while another
  is well, but for a trial call now and then; its next answer makes it well again.
- The API key is read from the environment and is in no message that leaves this module.

A vLLM server is recognised once per URL and asked for more than the OpenAI API promises: sampling
that ignores the model's `generation_config.json`, prefixes appended as token ids, and labels'
log-probabilities by token id. All three then equal those of the in-process engine. Other servers
get only what the recipe sets; there a prefix needs a server that can continue the last message,
and a label that is not among the 20 likeliest tokens has no log-probability.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import json
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from factory.config import Config
from factory.engines.base import (
    LABEL_CONTEXT,
    Completion,
    EngineStats,
    Request,
    Sampling,
    label_token,
)
from factory.errors import ContextOverflow, EngineError, SampleError

if TYPE_CHECKING:
    from openai import APIError, AsyncOpenAI

# Seconds before retry i: uniform in [0, min(_LONGEST_WAIT, 2**i)], on top of any Retry-After. Eight
# retries last a minute and a half on average, which is a server's restart.
_LONGEST_WAIT = 60.0
_LONGEST_RETRY_AFTER = 300.0  # a server that asks for more is asked again by then
_CONNECT_TIMEOUT = 10.0
_REST = 5.0  # seconds between trial calls to a URL that failed
_TOP_LOGPROBS = 20  # the most that the OpenAI API gives
_REMEMBERED_TEXTS = 4096  # prefixes and labels whose token ids are kept
_QUOTED = 500  # characters of a server's words in a message

log = logging.getLogger(__name__)


class EndpointConfig(Config):
    """A model that somebody serves over HTTP."""

    engine: Literal["endpoint"]
    model: str
    """The served model's name. Serve new weights under a new name: the ledger knows them by it."""
    base_url: str | list[str] = Field(min_length=1)
    """As `http://localhost:8000/v1`. Several URLs must serve the same model."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key. Local servers need none."""
    concurrency: int = Field(64, ge=1, le=1000)
    """Calls in flight per URL. 1000 is all that the HTTP client can hold."""
    timeout: float = Field(600.0, gt=0)
    """Seconds to wait for an answer, in each try."""
    max_retries: int = Field(8, ge=0)
    """Further tries after a failure that may pass: 408, 409, 429, 5xx, no connection, no answer."""
    chat_template_kwargs: dict[str, Any] = {}
    """Passed to the chat template, as `{enable_thinking: false}`, by servers that take it."""

    @field_validator("base_url")
    @classmethod
    def _check_urls(cls, value: str | list[str]) -> str | list[str]:
        for url in [value] if isinstance(value, str) else value:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"'{url}' is not an http:// or https:// URL")
            if "@" in parts.netloc:
                raise ValueError("a URL in a recipe holds no user or password; use api_key_env")
        return value

    @property
    def urls(self) -> list[str]:
        """Each URL once, in order, without a slash at its end."""
        urls = [self.base_url] if isinstance(self.base_url, str) else self.base_url
        return list(dict.fromkeys(url.rstrip("/") for url in urls))


@dataclass(eq=False)
class _Server:
    """What we know of one URL."""

    url: str
    client: AsyncOpenAI
    in_flight: int = 0
    is_failing: bool = False
    next_trial: float = 0.0
    """While failing: the `time.monotonic()` from which it may be tried."""
    is_vllm: bool | None = None
    """None: not known yet."""
    context: int = 0
    """Tokens; 0: not told."""
    models: Sequence[str] = ()
    """Names of the models it serves, where it tells."""


class _Router:
    """Decides which call goes next, and to which server."""

    def __init__(self, servers: list[_Server], concurrency: int) -> None:
        self.servers = servers
        self._concurrency = concurrency
        self._waiting: list[tuple[int, int, asyncio.Future[_Server]]] = []

    @asynccontextmanager
    async def slot(self, priority: int, order: int) -> AsyncIterator[_Server]:
        """Wait for a turn; then a place at this server is held for the length of the block."""
        turn: asyncio.Future[_Server] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, order, turn))
        self._hand_out()
        try:
            yield await turn
        finally:
            if turn.done() and not turn.cancelled():
                turn.result().in_flight -= 1
                self._hand_out()

    def _hand_out(self) -> None:
        """Give the places there are to the first in line."""
        while self._waiting:
            turn = self._waiting[0][2]
            if not turn.done():  # done: its caller was cancelled
                server = self._least_loaded()
                if server is None:
                    return
                server.in_flight += 1
                turn.set_result(server)
            heapq.heappop(self._waiting)

    def _least_loaded(self) -> _Server | None:
        """The server for the next call. None: none has a place."""
        some_are_well = any(not server.is_failing for server in self.servers)
        open_servers = []
        for server in self.servers:
            places = self._concurrency
            if server.is_failing and some_are_well:
                places = 1 if time.monotonic() >= server.next_trial else 0
            if server.in_flight < places:
                open_servers.append(server)
        return min(open_servers, key=lambda server: server.in_flight, default=None)


class EndpointEngine:
    """Any number of calls may be made at once; they wait here, not in a server's queue.

    `sleep` waits between tries and `rng` draws the jitter; neither changes what is answered.
    """

    def __init__(
        self,
        config: EndpointConfig,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.config = config
        self._sleep = sleep
        self._rng = rng or random.Random()  # not seeded: processes must not retry in step
        self._key = os.environ.get(config.api_key_env, "").strip()
        self._router = _Router([], config.concurrency)
        self._order = itertools.count()
        self._ids: dict[str, list[int]] = {}
        self._stats = EngineStats()

    @property
    def fingerprint(self) -> str:
        facts = ["endpoint", self.config.model, self.config.chat_template_kwargs]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def stats(self) -> EngineStats:
        return self._stats

    async def close(self) -> None:
        servers, self._router = self._router.servers, _Router([], self.config.concurrency)
        for server in servers:
            await server.client.close()

    async def generate(self, request: Request) -> Completion:
        from openai import APIError

        self._connect()
        order = next(self._order)
        for retry in itertools.count():
            async with self._router.slot(request.priority, order) as server:
                try:
                    completion = await self._ask(server, request)
                except APIError as error:
                    if not _may_pass(error):
                        raise self._refusal(server, error) from None
                    failure = error
                    self._note_failure(server, error)
                else:
                    server.is_failing = False
                    self._stats.add(completion)
                    return completion
            if retry == self.config.max_retries:
                break
            jitter = self._rng.uniform(0, min(_LONGEST_WAIT, 2.0**retry))
            await self._sleep(_retry_after(failure) + jitter)
        raise self._exhausted(server, failure)

    def _connect(self) -> None:
        if self._router.servers:
            return
        from openai import AsyncOpenAI, Timeout

        timeout = Timeout(self.config.timeout, connect=min(_CONNECT_TIMEOUT, self.config.timeout))
        for url in self.config.urls:
            client = AsyncOpenAI(
                base_url=url, api_key=self._key or "EMPTY", timeout=timeout, max_retries=0
            )
            self._router.servers.append(_Server(url, client))

    # -- one try on one server: these raise openai's errors ------------------------------------

    async def _ask(self, server: _Server, request: Request) -> Completion:
        from openai import BadRequestError

        if server.is_vllm is None:  # calls that start together may each find out: that does no harm
            await self._probe(server)
        try:
            if server.is_vllm and (request.prefix or request.labels):
                return await self._ask_by_ids(server, request)
            return await self._ask_by_messages(server, request)
        except BadRequestError:
            # vLLM's own message counts an overlong prompt only up to the limit, or in characters.
            if server.is_vllm:
                prompt_tokens = len(await self._prompt_ids(server, request))
                max_tokens = 1 if request.labels else request.sampling["max_tokens"]
                if prompt_tokens + max_tokens > server.context:
                    raise ContextOverflow(prompt_tokens, max_tokens, server.context) from None
            raise

    async def _probe(self, server: _Server) -> None:
        """Find out whether this is a vLLM server with /tokenize (a gateway may hide it)."""
        from openai import APIStatusError

        try:
            listed: Any = await server.client.get("/models", cast_to=object)
            cards = listed.get("data") or [] if isinstance(listed, dict) else []
            server.models = [str(card.get("id")) for card in cards]
            if any(card.get("owned_by") == "vllm" for card in cards):  # others tokenize otherwise
                server.context = (await self._tokenize(server, prompt="a")).get("max_model_len", 0)
        except APIStatusError as error:
            if _may_pass(error):
                raise
        server.is_vllm = server.context > 0

    async def _ask_by_messages(self, server: _Server, request: Request) -> Completion:
        body = self._body(server, request)
        messages: list[Any] = list(request.messages)
        if request.prefix:
            messages.append({"role": "assistant", "content": request.prefix})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if request.labels:
            body |= {"logprobs": True, "top_logprobs": _TOP_LOGPROBS}
        if self.config.chat_template_kwargs:
            body["chat_template_kwargs"] = self.config.chat_template_kwargs
        response = await server.client.chat.completions.create(
            model=self.config.model, messages=messages, extra_body=body
        )
        choice = self._choice(server, response)
        if not request.labels:
            return _completion(response, choice, choice.message.content or "")
        tokens = choice.logprobs.content if choice.logprobs else None
        shown = {top.token: top.logprob for top in tokens[0].top_logprobs} if tokens else {}
        found = {label: shown[label] for label in request.labels if label in shown}
        return _completion(response, choice, "", found)

    async def _ask_by_ids(self, server: _Server, request: Request) -> Completion:
        """Send the chat template's ids, generation prompt included, and then the prefix's.

        `continue_final_message` may merge tokens of the template and the prefix, loses spaces that
        a template trims, and renders no <think> block that the generation prompt opens.
        """
        body = self._body(server, request)
        end = request.prefix[-LABEL_CONTEXT:]
        tokens = {label: await self._label_id(server, end, label) for label in request.labels}
        if tokens:
            # Servers too old to know `logprob_token_ids` give the likeliest tokens instead.
            body |= {"logprobs": _TOP_LOGPROBS, "logprob_token_ids": list(tokens.values())}
            body["return_tokens_as_token_ids"] = True
        ids = await self._prompt_ids(server, request)
        response = await server.client.completions.create(
            model=self.config.model, prompt=ids, extra_body=body
        )
        choice = self._choice(server, response)
        if not tokens:
            return _completion(response, choice, choice.text)
        shown = choice.logprobs.top_logprobs[0] if choice.logprobs else {}
        names = {label: f"token_id:{token}" for label, token in tokens.items()}
        found = {label: shown[name] for label, name in names.items() if name in shown}
        return _completion(response, choice, "", found)

    def _body(self, server: _Server, request: Request) -> dict[str, Any]:
        """The sampling fields of a call. An `extra` of null takes a field out."""
        # What a call leaves out, vLLM takes from the model's generation_config.json.
        body = Sampling().model_dump() if server.is_vllm else {}
        body |= {"max_tokens": 1, "temperature": 0.0} if request.labels else request.sampling
        body |= {"seed": request.seed, **body.pop("extra", {})}
        return {name: value for name, value in body.items() if value is not None}

    async def _prompt_ids(self, server: _Server, request: Request) -> list[int]:
        kwargs = self.config.chat_template_kwargs
        chat = await self._tokenize(server, messages=request.messages, chat_template_kwargs=kwargs)
        prefix = await self._text_ids(server, request.prefix) if request.prefix else []
        return [*chat["tokens"], *prefix]

    async def _label_id(self, server: _Server, end: str, label: str) -> int:
        before = await self._text_ids(server, end) if end else []
        both = await self._text_ids(server, end + label)
        alone = await self._text_ids(server, label)
        return label_token(before, both, alone, label, self.config.model)

    async def _text_ids(self, server: _Server, text: str) -> list[int]:
        if text not in self._ids:
            if len(self._ids) >= _REMEMBERED_TEXTS:
                self._ids.clear()
            answer = await self._tokenize(server, prompt=text, add_special_tokens=False)
            self._ids[text] = answer["tokens"]
        return self._ids[text]

    async def _tokenize(self, server: _Server, **what: Any) -> dict[str, Any]:
        """vLLM's own endpoint, which lies beside /v1: `tokens` and `max_model_len`."""
        url = server.url.removesuffix("/v1") + "/tokenize"
        body = {"model": self.config.model, **what}
        answer: Any = await server.client.post(url, body=body, cast_to=object)
        return answer if isinstance(answer, dict) else {}

    def _choice(self, server: _Server, response: Any) -> Any:
        choices = getattr(response, "choices", None)
        if not choices:
            said = self._clean(str(response))
            raise SampleError(f"{server.url} answered, but with no completion: {said}")
        if choices[0].finish_reason == "content_filter":
            raise SampleError(f"{server.url} filtered the answer out", is_permanent=True)
        return choices[0]

    # -- what went wrong -----------------------------------------------------------------------

    def _note_failure(self, server: _Server, error: APIError) -> None:
        if not server.is_failing:
            log.warning("%s failed and will be tried again: %s", server.url, self._words(error))
        server.is_failing = True
        server.next_trial = time.monotonic() + _REST

    def _exhausted(self, server: _Server, error: APIError) -> Exception:
        from openai import APIConnectionError

        words = self._words(error)
        tries = f"tried {self.config.max_retries + 1} times, last {server.url}: {words}"
        servers = self._router.servers
        if isinstance(error, APIConnectionError) and all(s.is_failing for s in servers):
            urls = ", ".join(s.url for s in servers)
            return EngineError(
                f"nothing answers at {urls} ({tries}); start the server, or correct base_url"
            )
        return SampleError(f"no completion ({tries})")

    def _refusal(self, server: _Server, error: APIError) -> Exception:
        """What to raise where trying again would change nothing."""
        status = getattr(error, "status_code", None)
        words = self._words(error)
        name = self.config.api_key_env
        if status == 401:  # not in the server's words: some quote a part of the key
            state = "was refused" if self._key else "is not set, and this server wants a key"
            return EngineError(f"{server.url}: {name} {state} (HTTP 401); set it to a valid key")
        if status == 403:
            return EngineError(f"{server.url}: the key in {name} may not do this ({words})")
        if status == 404:
            have = ", ".join(server.models) or "none named"
            return EngineError(
                f"{server.url} has no model '{self.config.model}' (have: {have}; it said {words}); "
                "correct model, or base_url, which usually ends in /v1"
            )
        return SampleError(f"{server.url} refused the request: {words}", is_permanent=True)

    def _words(self, error: APIError) -> str:
        """What the server said, or what kept it from answering."""
        from openai import APIStatusError

        if not isinstance(error, APIStatusError):
            cause = error.__cause__ or error
            return self._clean(f"{type(cause).__name__} {cause}")
        said = error.body.get("message") if isinstance(error.body, dict) else None
        return self._clean(f"HTTP {error.status_code}: {said or error.response.text}")

    def _clean(self, text: str) -> str:
        return (text.replace(self._key, "<key>") if self._key else text)[:_QUOTED].strip()


def _completion(
    response: Any, choice: Any, text: str, label_logprobs: dict[str, float] | None = None
) -> Completion:
    usage = response.usage
    details = getattr(usage, "prompt_tokens_details", None)
    return Completion(
        text=text,
        finish_reason="length" if choice.finish_reason == "length" else "stop",
        prompt_tokens=getattr(usage, "prompt_tokens", 0) or 0,
        cached_tokens=getattr(details, "cached_tokens", 0) or 0,
        output_tokens=getattr(usage, "completion_tokens", 0) or 0,
        label_logprobs=label_logprobs,
    )


def _may_pass(error: APIError) -> bool:
    """Whether the same call may succeed a little later."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, APIConnectionError)


def _retry_after(error: APIError) -> float:
    """Seconds the server asked us to wait (it says a number or a date); 0: it did not."""
    response = getattr(error, "response", None)
    asked = response.headers.get("retry-after", "") if response is not None else ""
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(asked).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(0.0, seconds), _LONGEST_RETRY_AFTER)
