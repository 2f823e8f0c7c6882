"""One HTTP call to a server, bounded in size: a JSON object out, a JSON object in.

Uses the `openai` client, for its handling of keys, proxies and errors. Raises that client's errors,
and `SampleError` for an answer that is too long or no JSON object. Redirects are not followed: a POST
would arrive as a GET. The caller limits the duration.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from factory.core.errors import SampleError
from factory.engines.routing import Server

if TYPE_CHECKING:
    from openai import AsyncOpenAI

LONGEST_ANSWER = 64 << 20  # bytes, unpacked
_CONNECT_TIMEOUT = 10.0  # seconds


def client_for(url: str, key: str, timeout: float) -> AsyncOpenAI:
    """A client for a server. `timeout`: seconds without a byte."""
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

    class Bounded(DefaultAsyncHttpxClient):  # type: ignore[misc]
        async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            response = await super().send(request, stream=True, **options)
            try:
                content = await _bounded(url, response)
            finally:
                await response.aclose()
            headers = {k: v for k, v in response.headers.items() if k != "content-encoding"}
            return type(response)(
                response.status_code, headers=headers, content=content, request=response.request
            )

    return AsyncOpenAI(
        base_url=url,
        api_key=key or "EMPTY",
        max_retries=0,
        timeout=Timeout(timeout, connect=min(_CONNECT_TIMEOUT, timeout)),
        http_client=Bounded(follow_redirects=False),
    )


async def _bounded(url: str, response: Any) -> bytes:
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > LONGEST_ANSWER:
            raise SampleError(
                f"{url} answered with more than {LONGEST_ANSWER >> 20} MiB, too much for a "
                "completion; correct base_url, or fix the server"
            )
    return bytes(content)


async def post(server: Server, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post a JSON object. `path`: a URL, or a path below the server's URL."""
    return _object(server, path, await server.client.post(path, body=body, cast_to=str))


async def get(server: Server, path: str) -> dict[str, Any]:
    return _object(server, path, await server.client.get(path, cast_to=str))


def _object(server: Server, path: str, text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)  # accepts NaN, which some servers write for a score
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        said = server.clean(text) or "nothing"
        raise SampleError(
            f"{server.url}: {path} answered with no JSON object, but {said}; correct base_url, "
            "which usually ends in /v1, or fix the server"
        )
    return answer
