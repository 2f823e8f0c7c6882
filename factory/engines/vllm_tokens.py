"""The tokenizer of a vLLM server, by its /tokenize and /detokenize.

Names of control tokens in texts stay text (`control_tokens`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from factory.core.records import Message
from factory.engines import chat_api
from factory.engines.control_tokens import broken, joint_ids, joint_texts, kept, lookalikes, named
from factory.engines.endpoint_config import EndpointConfig
from factory.engines.http import post
from factory.engines.render import before
from factory.engines.routing import Server

_REMEMBERED_TEXTS = 4096  # prefixes, labels and tags whose token ids are kept
_LONG = 512  # characters; longer texts are not kept, as they rarely come again


class ServerTokens:
    """Token ids of one model on any of the servers that serve it. Keeps the ids of short texts."""

    def __init__(self, config: EndpointConfig) -> None:
        self._config = config
        self._ids: dict[str, list[int]] = {}
        self._texts: dict[tuple[int, ...], str] = {}

    async def chat_ids(
        self,
        server: Server,
        messages: Sequence[Message],
        *,
        begins_answer: bool,
        switch: Mapping[str, Any] = {},
    ) -> list[int]:
        """The chat template's ids. `begins_answer`: with those that open the assistant's turn. `switch`:
        further arguments of the template."""
        messages, joint = broken(messages, await self.names(server, messages))
        body = {
            "model": self._config.model,
            "messages": messages,
            "add_generation_prompt": begins_answer,
            "chat_template_kwargs": {**self._config.chat_template_kwargs, **switch},
        }
        ids = await _ids(server, body)
        return await self.unjoined(server, ids, joint)

    async def plain_ids(self, server: Server, text: str) -> list[int]:
        """Ids of a text, with names of control tokens as text."""
        text, joint = broken(text, await self.names(server, text))
        told = self.tokenize if len(text) > _LONG else self.text_ids
        return await self.unjoined(server, await told(server, text), joint)

    async def opening(self, server: Server) -> list[int]:
        """The ids that the tokenizer puts before a text, such as BOS."""
        inner = await self.text_ids(server, "a")
        body = {"model": self._config.model, "prompt": "a", "add_special_tokens": True}
        whole = await _ids(server, body)
        return before(inner, whole)

    async def unjoined(self, server: Server, ids: list[int], joint: str) -> list[int]:
        if not joint:
            return ids
        told = [await self.text_ids(server, text) for text in joint_texts(joint)]
        return [ids[i] for i in kept(ids, joint_ids(*told))]

    async def names(self, server: Server, value: Any) -> re.Pattern[str] | None:
        """A pattern of the strings in `value` that look like control tokens and are single tokens."""
        alike = {text: await self.text_ids(server, text) for text in sorted(lookalikes(value))}
        return named({text for text, ids in alike.items() if len(ids) == 1})

    async def text_ids(self, server: Server, text: str) -> list[int]:
        if text not in self._ids:
            if len(self._ids) >= _REMEMBERED_TEXTS:
                self._ids.clear()
            self._ids[text] = await self.tokenize(server, text)
        return self._ids[text]

    async def tokenize(self, server: Server, text: str, *, is_whole: bool = False) -> list[int]:
        """Ids of a text, from /tokenize. `is_whole`: the text is the model's whole input, so it begins
        with the tokenizer's own beginning (BOS)."""
        body = {"model": self._config.model, "prompt": text, "add_special_tokens": is_whole}
        return await _ids(server, body)

    async def text(self, server: Server, ids: Sequence[int]) -> str:
        if (known := self._texts.get(tuple(ids))) is not None:
            return known
        body = {"model": self._config.model, "tokens": [*ids]}
        text = (await post_beside(server, "/detokenize", body)).get("prompt")
        if not isinstance(text, str):
            raise chat_api.odd(server, "prompt", text, "text")
        if len(self._texts) >= _REMEMBERED_TEXTS:
            self._texts.clear()
        self._texts[tuple(ids)] = text
        return text


async def post_beside(server: Server, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post to one of vLLM's own routes, which are beside /v1."""
    return await post(server, server.url.removesuffix("/v1") + path, body)


async def _ids(server: Server, body: dict[str, Any]) -> list[int]:
    """Token ids, from /tokenize."""
    ids = (await post_beside(server, "/tokenize", body)).get("tokens")
    if not isinstance(ids, list) or not all(type(i) is int and i >= 0 for i in ids):
        raise chat_api.odd(server, "tokens", ids, "a list of token ids")
    return [*ids]
