"""The engine for models behind one or several OpenAI-compatible URLs: a vLLM server, or any API.

Invariants:
- At most `concurrency` calls are in flight per URL. `routing` decides which call goes next, and to
  which URL. A retry keeps its place in line.
- The API key is read from the environment, and no message of this engine contains it.

`chat_api` has the requests and answers of any server, `vllm_server` vLLM's own, `api_errors` the errors.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
import os
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from factory.core.errors import ContextOverflow, EngineError, SampleError
from factory.engines import api_errors, chat_api, vllm_server
from factory.engines.base import Completion, EngineStats, Request, refuse_other_task
from factory.engines.control_tokens import broken
from factory.engines.endpoint_config import EndpointConfig
from factory.engines.http import client_for
from factory.engines.routing import Router, Server

# Seconds before retry i: uniform in [0, min(_LONGEST_WAIT, 2**i)], on top of any Retry-After. Eight
# retries last a minute and a half on average, which is a server's restart.
_LONGEST_WAIT = 60.0

log = logging.getLogger(__name__)
_T = TypeVar("_T")


class EndpointEngine:
    """An engine behind URLs. Any number of calls may be made at once; they wait here, not at the server.

    `sleep` waits between tries and `rng` draws the jitter; neither changes any answer.
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
        self._rng = rng or random.Random()  # not seeded, so that processes do not retry in step
        self._key = _key(config.api_key_env)
        self._router = Router([], config.concurrency)
        self._order = itertools.count()
        self._vllm = vllm_server.ServerCalls(config)
        self._stats = EngineStats()

    @property
    def fingerprint(self) -> str:
        facts = ["endpoint", self.config.model, self.config.chat_template_kwargs]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    async def thinks(self) -> bool:
        if self.config.task != "generate":
            return False
        return await self._served(self._thinks, priority=0)

    def stats(self) -> EngineStats:
        servers = self._router.servers
        self._stats.running = sum(server.in_flight for server in servers)
        is_failing = bool(servers) and all(server.is_failing for server in servers)
        urls = " and ".join(server.url for server in servers)
        self._stats.doing = f"trying again to reach {urls}" if is_failing else ""
        return self._stats

    async def close(self) -> None:
        servers, self._router = self._router.servers, Router([], self.config.concurrency)
        for server in servers:
            await server.client.close()

    async def generate(self, request: Request) -> Completion:
        completion = await self._answer(request)
        if request.labels and completion.label_logprobs is None:
            raise SampleError(
                f"{' and '.join(self.config.urls)} gave no log-probabilities for "
                f"{', '.join(request.labels)}: the next run asks again"
            )
        self._stats.add(completion)
        return completion

    async def check(self, request: Request) -> None:
        """Make a call like this one, as short as possible, without counting it.

        Raises `EngineError` if no such call can be answered.
        """
        max_tokens = request.sampling.get("max_tokens", 1)
        sampling = {**request.sampling, "max_tokens": 1}
        sampling.pop("min_tokens", None)
        try:
            try:
                completion = await self._answer(msgspec.structs.replace(request, sampling=sampling))
            except api_errors.Refusal:
                if request.labels or request.scoring or sampling == request.sampling:
                    raise
                completion = await self._answer(request)  # it may refuse so short an answer
        except api_errors.Refusal as error:
            raise EngineError(f"{error}{_wants(request)}") from error
        except SampleError:
            return  # this one call failed; others may succeed
        if request.labels and completion.label_logprobs is None:
            raise EngineError(
                f"{' and '.join(self.config.urls)} gives no log-probabilities, which reading a "
                "judge needs; enable them there (logprobs, top_logprobs), or name a server that "
                "has them, such as vLLM"
            )
        for server in self._router.servers:
            if not request.scoring and 0 < server.context <= max_tokens:
                raise EngineError(
                    f"{server.url}: max_tokens {max_tokens} leaves no room for a prompt in the "
                    f"model's context of {server.context} tokens; lower max_tokens"
                )

    async def _answer(self, request: Request) -> Completion:
        refuse_other_task(request, self.config.task, self.config.model)
        texts, _ = broken([request.messages, request.prefix], None)  # which JSON can hold
        request = msgspec.structs.replace(request, messages=texts[0], prefix=texts[1])
        return await self._served(lambda server: self._ask(server, request), request.priority)

    async def _served(self, ask: Callable[[Server], Awaitable[_T]], priority: int) -> _T:
        """A server's answer, with the recipe's number of retries and waits between them."""
        from openai import APIError

        self._connect()
        order = next(self._order)
        for retry in itertools.count():
            async with self._router.slot(priority, order) as server:
                try:
                    answer = await self._try(server, ask)
                except APIError as error:
                    if not api_errors.may_pass(error):
                        config = self.config
                        raise api_errors.refusal(
                            server, error, config.model, config.api_key_env
                        ) from None
                    failure = error
                    if not server.is_failing:
                        said = api_errors.words(server, error)
                        log.warning("%s failed and will be tried again: %s", server.url, said)
                    server.note_failure()
                else:
                    server.is_failing = False
                    return answer
            if retry == self.config.max_retries:
                break
            jitter = self._rng.uniform(0, min(_LONGEST_WAIT, 2.0 ** min(retry, 10)))
            await self._sleep(api_errors.retry_after(failure) + jitter)
        raise api_errors.exhausted(
            self._router.servers, server, failure, tries=self.config.max_retries + 1
        )

    def _connect(self) -> None:
        if not self._router.servers:
            for url in self.config.urls:
                client = client_for(url, self._key, self.config.timeout)
                self._router.servers.append(Server(url, client, self._key))

    async def _try(self, server: Server, ask: Callable[[Server], Awaitable[_T]]) -> _T:
        """One try on one server, limited to `timeout` seconds in all, even if the server sends a byte
        now and then. Raises the errors of the `openai` client."""
        from openai import APITimeoutError

        seconds = self.config.timeout
        try:
            async with asyncio.timeout(seconds):
                return await ask(server)
        except TimeoutError:
            cause = TimeoutError(f"no whole answer within the {seconds:g} s of timeout")
            raise APITimeoutError(request=None) from cause

    async def _probe(self, server: Server) -> None:
        if server.is_vllm is None:  # concurrent calls may each find out, which does no harm
            await vllm_server.probe(server, self.config.model)

    async def _thinks(self, server: Server) -> bool:
        from openai import BadRequestError

        await self._probe(server)
        try:
            await self._vllm.learn(server)
        except BadRequestError:  # it has no chat template
            return False
        return await self._vllm.thinks(server)

    async def _ask(self, server: Server, request: Request) -> Completion:
        from openai import BadRequestError

        await self._probe(server)
        if request.scoring:
            return await self._vllm.score(server, request.messages, request.scoring)
        try:
            if not server.is_vllm:
                return await chat_api.complete(server, self.config, request)
            await self._vllm.learn(server)
            is_chat = not request.prefix and not request.labels
            if is_chat and await self._vllm.takes(server, request.messages):
                completion = await chat_api.complete(server, self.config, request)
            else:
                completion = await self._vllm.complete(server, request)
            await self._vllm.count(server, completion)
            return completion
        except BadRequestError as error:
            if server.has_chat_template and vllm_server.NO_TEMPLATE in str(error):
                server.has_chat_template = False
                if server.is_vllm:
                    return await self._ask(server, request)
            # vLLM's own message counts a too long prompt only up to the limit, or in characters.
            if server.is_vllm:
                prompt_tokens = len(await self._vllm.prompt_ids(server, request))
                max_tokens = 1 if request.labels else request.sampling["max_tokens"]
                if prompt_tokens + max_tokens > server.context:
                    raise ContextOverflow(prompt_tokens, max_tokens, server.context) from None
            raise


def _wants(request: Request) -> str:
    """The ability that a server needs for a request that it refused."""
    if not request.prefix and not request.labels:
        return ""
    wanted = "continue a message that has begun (continue_final_message)" if request.prefix else ""
    if request.labels:
        wanted += (" and " if wanted else "") + "give log-probabilities (logprobs, top_logprobs)"
    return f"; it must {wanted}, as vLLM does: name another server or model for this stage"


def _key(variable: str) -> str:
    """The API key, which may be empty. Raises `EngineError` if no header can hold it."""
    key = os.environ.get(variable, "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise EngineError(
            f"the key in {variable} holds a line break, a space or another character that no key "
            "has; set it to the key alone"
        )
    return key
