"""Calls that only a vLLM server understands: token ids in; log-probabilities of given tokens, and the
outputs of scoring models, out.

A vLLM server is recognized once per URL. It is then asked for more than the OpenAI API offers: sampling
that ignores the model's `generation_config.json`, prefixes appended as token ids, names of control
tokens that stay text (`control_tokens`), labels' log-probabilities by token id, and raw scores. The
results equal those of the in-process engine, with one exception: padding tokens at a conversation's end
are kept, since the server does not report the padding token. That matters only for a reward model that
was trained with its end-of-text token as padding and whose chat template ends with that token; run such
a model in process.

The functions raise the errors of the `openai` client besides those they name.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from factory.core.errors import ContextOverflow, EngineError, SampleError
from factory.core.records import Message
from factory.engines import chat_api
from factory.engines.api_errors import may_pass, no_model, words
from factory.engines.base import (
    LABEL_CONTEXT,
    Completion,
    Request,
    Scoring,
    TextScoring,
    label_token,
)
from factory.engines.control_tokens import broken
from factory.engines.endpoint_config import EndpointConfig
from factory.engines.http import get, post
from factory.engines.reasoning import KNOWN, OFF, Marks, Where, marks_after, thinks
from factory.engines.render import (
    NEXT_TURN,
    said_in,
    step_ids,
    tag_positions,
    transcript,
    whole_text,
)
from factory.engines.routing import Server
from factory.engines.vllm_tokens import ServerTokens, post_beside

_END = 16  # tokens at a prompt's end that are searched for a mark
NO_TEMPLATE = "must provide a chat template"
"""A server's message about a conversation for a model without a chat template."""


async def probe(server: Server, model: str) -> None:
    """Find out whether this is a vLLM server with /tokenize (a gateway may hide it)."""
    from openai import APIStatusError

    try:
        listed = (await get(server, "/models")).get("data")
        cards = [card for card in listed if isinstance(card, dict)] if _is_list(listed) else []
        server.models = [str(card.get("id")) for card in cards]
        if any(card.get("owned_by") == "vllm" for card in cards):  # others have another /tokenize
            told = await post_beside(server, "/tokenize", {"model": model, "prompt": "a"})
            server.context = chat_api.count(told, "max_model_len")
    except SampleError:
        pass  # it does not list models, but may still generate
    except APIStatusError as error:
        if may_pass(error):
            raise
    server.is_vllm = server.context > 0


class ServerCalls:
    """Calls of one model on any of the vLLM servers that serve it."""

    def __init__(self, config: EndpointConfig) -> None:
        self._config = config
        self._tokens = ServerTokens(config)
        self._learning = asyncio.Lock()

    async def complete(self, server: Server, request: Request) -> Completion:
        """Send the chat template's ids, generation prompt included, followed by the prefix's ids.

        `continue_final_message` is not used: it may merge tokens of the template and the prefix, loses
        spaces that a template trims, and omits a <think> block that the generation prompt opens.
        """
        ids, where = await self._begun(server, request)
        body, stops = chat_api.sampling_fields(server, request, where)
        end = request.prefix[-LABEL_CONTEXT:]
        tokens = {label: await self._label_id(server, end, label) for label in request.labels}
        if tokens:
            # Servers that are too old for `logprob_token_ids` give the likeliest tokens instead.
            body |= {"logprobs": chat_api.TOP_LOGPROBS, "logprob_token_ids": list(tokens.values())}
            body["return_tokens_as_token_ids"] = True
        elif not server.has_chat_template:
            body["stop"] = [*body.get("stop", []), NEXT_TURN]
        body = {"model": self._config.model, "prompt": ids, **body}
        answer = await post(server, "/completions", body)
        choice = chat_api.only_choice(server, answer)
        if not tokens:
            completion = chat_api.read(server, answer, choice, choice.get("text"))
            return chat_api.split(server, request, choice, completion, where, stops)
        shown = _shown(server, choice)
        names = {label: f"token_id:{token}" for label, token in tokens.items()}
        found = {label: shown[name] for label, name in names.items() if name in shown}
        found = chat_api.bounded(request.labels, found, shown.values())
        return chat_api.read(server, answer, choice, "", found if shown else None)

    async def score(self, server: Server, messages: list[Message], scoring: Scoring) -> Completion:
        """A scoring model's outputs at the conversation's end, or at each step.

        Raises `EngineError` if it cannot score, `ContextOverflow`, `SampleError` for an invalid answer.
        """
        from openai import APIStatusError

        model, task = self._config.model, self._config.task
        remedy = (
            f"scoring through an endpoint needs a vLLM server with `--runner pooling` (and, where "
            f"the model can do more, `--pooler-config.task {task}`) and a reachable /tokenize"
        )
        if not server.is_vllm:
            if server.models and model not in server.models:
                raise no_model(server, model)
            raise EngineError(f"{server.url} is not a vLLM server; {remedy}")
        if scoring.steps:
            ids, positions = await self._step_ids(server, messages, scoring)
        else:
            ids, positions = await self._tokens.chat_ids(server, messages, begins_answer=False), [0]
        if len(ids) > server.context:
            raise ContextOverflow(len(ids), 0, server.context)
        body = {"model": model, "input": ids, "add_special_tokens": False}
        body |= {"task": task, "use_activation": False, "encoding_format": "float"}
        try:
            answer = await post_beside(server, "/pooling", body)
        except APIStatusError as error:
            # 404: it generates; 501: it has no head; param: another task
            if error.status_code in (404, 501) or error.param == "task":
                said = words(server, error)
                raise EngineError(f"{server.url} cannot {task} ({said}); {remedy}") from None
            raise
        rows = _rows(server, answer)
        expected = len(ids) if scoring.steps else 1
        if len(rows) != expected:
            raise EngineError(
                f"{server.url} gave {len(rows)} rows of scores for {len(ids)} tokens, and {expected}"
                f" should be there for {task}; serve the model without a pooler config of its own"
            )
        return Completion(
            text="",
            finish_reason="stop",
            prompt_tokens=chat_api.count(answer.get("usage"), "prompt_tokens") or len(ids),
            cached_tokens=0,
            output_tokens=0,
            scores=[rows[position] for position in positions],
        )

    # -- thoughts ------------------------------------------------------------------------------

    async def learn(self, server: Server) -> None:
        """Find the model's marks of thoughts, once: by the end of its prompts, or else by known marks
        that are single tokens of its vocabulary."""
        from openai import APIStatusError

        async with self._learning:
            if server.opening is not None or not (server.is_vllm and server.has_chat_template):
                return
            try:
                opening, end = await self._end_of_prompts(server, {})
                server.marks = marks_after(end) or await self._marks_of_vocabulary(server)
            except APIStatusError as error:
                if may_pass(error) or NO_TEMPLATE in str(error):
                    raise
                opening, end = (), ""  # unknown
            except SampleError:
                opening, end = (), ""
            server.where = server.marks.where(end) if server.marks else "either"
            server.opening = opening

    async def thinks(self, server: Server) -> bool:
        """True if the model thinks before it answers, as far as its prompts show."""
        if server.marks is None or server.where != "either":
            return server.where == "thought"
        _, off = await self._end_of_prompts(server, OFF)
        return thinks(server.marks, "", off, on="it is not asked")

    async def count(self, server: Server, completion: Completion) -> None:
        """Count the tokens of a thought, if the server has not."""
        if completion.reasoning and not completion.reasoning_tokens:
            ids = await self._tokens.tokenize(server, completion.reasoning)
            completion.reasoning_tokens = min(len(ids), completion.output_tokens)

    async def _end_of_prompts(
        self, server: Server, switch: Mapping[str, Any]
    ) -> tuple[tuple[int, ...], str]:
        """Ids and text that all prompts end with. They hold nothing of a user's text."""
        one, other = [
            await self._tokens.chat_ids(
                server, [Message(role="user", content=said)], begins_answer=True, switch=switch
            )
            for said in ("Hello", "Is 7 odd? Yes")
        ]
        size = 0
        while size < min(len(one), len(other)) and one[-size - 1] == other[-size - 1]:
            size += 1
        shared = one[len(one) - size :]
        return tuple(shared), await self._tokens.text(server, shared)

    async def _marks_of_vocabulary(self, server: Server) -> Marks | None:
        for marks in KNOWN:
            ids = [await self._tokens.text_ids(server, mark) for mark in (marks.open, marks.close)]
            if all(len(mark) == 1 for mark in ids) and ids[0] != ids[1]:
                return marks
        return None

    # -- token ids -----------------------------------------------------------------------------

    async def prompt_ids(self, server: Server, request: Request) -> list[int]:
        """As `render.prompt_ids`."""
        return (await self._begun(server, request))[0]

    async def _begun(self, server: Server, request: Request) -> tuple[list[int], Where]:
        """The prompt's ids with those of the prefix, and the kind of text that comes next."""
        prefix = request.prefix
        if not server.has_chat_template:
            text = transcript(request.messages) + (f" {prefix}" if prefix else "")
            opening = await self._tokens.opening(server)
            return opening + await self._tokens.plain_ids(server, text), "answer"
        ids = await self._tokens.chat_ids(server, request.messages, begins_answer=True)
        if server.marks is None:
            if not prefix:
                return ids, server.where
            return ids + await self._tokens.plain_ids(server, prefix), "answer"
        end = await self._tokens.text(server, ids[-_END:])
        pieces, where = server.marks.layout(end, prefix)
        for text, is_mark in pieces:
            told = self._tokens.text_ids if is_mark else self._tokens.plain_ids
            ids += await told(server, text)
        return ids, where

    async def takes(self, server: Server, messages: Sequence[Message]) -> bool:
        """True if the server itself tokenizes these messages correctly: it has a chat template, and the
        texts hold no names of control tokens."""
        return server.has_chat_template and await self._tokens.names(server, messages) is None

    async def _step_ids(
        self, server: Server, messages: list[Message], scoring: Scoring
    ) -> tuple[list[int], list[int]]:
        """As `render.step_ids`, which is called once the ids of every text are known."""
        if isinstance(scoring, TextScoring):
            plain = said_in(messages, scoring)
            said, joint = broken(plain, await self._tokens.names(server, plain))
            ids = await self._tokens.tokenize(server, whole_text(said, scoring), is_whole=True)
            ids = await self._tokens.unjoined(server, ids, joint)
            tag = await self._tokens.text_ids(server, scoring.spaced_tag)
            return ids, tag_positions(ids, tag, scoring)
        texts = {
            text: await self._tokens.text_ids(server, text)
            for text in {scoring.tag, scoring.separator} - {""}
        }
        for step in scoring.steps:
            if step.strip() and step not in texts:
                texts[step] = await self._tokens.plain_ids(server, step)
        prompt = await self._tokens.chat_ids(server, messages, begins_answer=True)
        return step_ids(_Tokenized(prompt, texts), messages, scoring, {})

    async def _label_id(self, server: Server, end: str, label: str) -> int:
        before = await self._tokens.text_ids(server, end) if end else []
        both = await self._tokens.text_ids(server, end + label)
        alone = await self._tokens.text_ids(server, label)
        return label_token(before, both, alone, label, self._config.model)


class _Tokenized:
    """A tokenizer that knows only the texts whose ids a server has given."""

    chat_template = "the server's"

    def __init__(self, prompt: list[int], texts: Mapping[str, list[int]]) -> None:
        self._prompt = prompt
        self._texts = texts

    def apply_chat_template(self, messages: object, **_: object) -> list[int]:
        return self._prompt

    def encode(self, text: str, **_: object) -> list[int]:
        return self._texts[text]


def _shown(server: Server, choice: Mapping[str, Any]) -> dict[str, float]:
    """Name of each shown token -> its log-probability. Empty: none is shown."""
    logprobs = choice.get("logprobs")
    if logprobs is None:
        return {}
    tops = logprobs.get("top_logprobs") if isinstance(logprobs, dict) else logprobs
    if not tops:
        return {}
    if not _is_list(tops) or not isinstance(tops[0], dict):
        raise chat_api.odd(server, "logprobs", logprobs, "the log-probabilities of tokens")
    return {token: chat_api.logprob(server, token, value) for token, value in tops[0].items()}


def _rows(server: Server, answer: dict[str, Any]) -> list[list[float]]:
    """The outputs: one row, or one row per token. Values that JSON cannot hold (null) become NaN."""
    try:
        data = answer["data"][0]["data"]
        rows = data if isinstance(data[0], list) else [data]
        scores = [[_score(value) for value in row] for row in rows]
        if len({len(row) for row in scores}) != 1 or not scores[0]:
            raise ValueError
        return scores
    except (LookupError, TypeError, ValueError, OverflowError):
        said = server.clean(str(answer))
        raise SampleError(
            f"{server.url} answered without scores: {said}; serve the model with vLLM's "
            "`--runner pooling`: the next run asks again"
        ) from None


def _score(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)
