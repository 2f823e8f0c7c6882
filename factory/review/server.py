"""The review's page and its requests, on this machine only.

Every address begins with a random token, which only the printed address holds. Requests for another host
name are refused (DNS rebinding), and those that another site sends. The page may load its own three
files and nothing else. Texts of models reach it as JSON and are shown as text.

    GET  /TOKEN/            page.html, with review.css and review.js beside it
    GET  /TOKEN/pair        the next pair and the progress
    POST /TOKEN/decide      a decision -> the next pair, once the decision is on disk
    POST /TOKEN/undo        the newest decision taken back -> its pair
    GET  /TOKEN/agreement   agreement with the judge and other reviewers
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from factory.core.errors import FactoryError, RecipeError
from factory.review.session import Answer, Refused, Session

HOST = "127.0.0.1"
_BODY_BYTES = 16 << 20  # an edited text of several megabytes fits
_FILES = {
    "": ("page.html", "text/html"),
    "review.css": ("review.css", "text/css"),
    "review.js": ("review.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


def bound(port: int) -> socket.socket:
    """A socket on this machine's own address. `port` 0: any free one. Raises `RecipeError`."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()  # who opens the address before the server has started waits
    except OSError as error:
        listening.close()
        raise RecipeError(
            f"--port {port} cannot be used ({error.strerror}); leave it out, or name another"
        ) from error
    return listening


def serve(session: Session, listening: socket.socket, token: str) -> None:
    """Serve the review until Ctrl+C."""
    port = listening.getsockname()[1]
    config = uvicorn.Config(
        app(session, token, port),
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,  # seconds; decisions take milliseconds
    )
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def new_token() -> str:
    return secrets.token_urlsafe(24)


def app(session: Session, token: str, port: int) -> ASGIApp:
    """The server's application. `port`: where it listens."""

    async def pair(_: Request) -> Any:
        return session.state()

    async def decide(request: Request) -> Any:
        content = b""
        async for chunk in request.stream():
            content += chunk
            if len(content) > _BODY_BYTES:
                raise Refused("the edited text is too large")
        try:
            answer = msgspec.json.decode(content, type=Answer)
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise Refused(f"not a decision: {error}") from error
        session.decide(answer)
        return session.state()

    async def undo(_: Request) -> Any:
        return session.undo()

    async def agreement(_: Request) -> Any:
        figures = await asyncio.to_thread(session.agreement)
        return [figure.text() for figure in figures]

    routes = [
        *(Route(f"/{name}", _file(*held)) for name, held in _FILES.items()),
        Route("/pair", _answered(pair)),
        Route("/decide", _answered(decide), methods=["POST"]),
        Route("/undo", _answered(undo), methods=["POST"]),
        Route("/agreement", _answered(agreement)),
    ]
    return _Guard(Starlette(routes=routes), token, port)


Handler = Callable[[Request], Awaitable[Response]]


def _file(name: str, kind: str) -> Handler:
    content = (Path(__file__).parent / name).read_bytes()

    async def handler(_: Request) -> Response:
        return Response(content, media_type=kind)

    return handler


def _answered(handler: Callable[[Request], Awaitable[Any]]) -> Handler:
    """The handler's answer as JSON; its errors as `{"error": ...}`, in words for the reviewer."""

    async def answered(request: Request) -> Response:
        try:
            return _json(200, await handler(request))
        except Refused as refused:
            return _json(409, {"error": str(refused)})
        except OSError as error:
            words = f"{error.strerror}; free some space or fix the folder, then decide again"
            return _json(507, {"error": f"not saved: {words}"})
        except FactoryError as error:
            return _json(500, {"error": str(error)})

    return answered


def _json(status: int, value: Any) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


class _Guard:
    """Refuses requests for another host, from another site, or without the token, and sets the headers
    of every answer."""

    def __init__(self, inner: ASGIApp, token: str, port: int) -> None:
        self._inner = inner
        self._token = token.encode()
        self._hosts = {f"{host}:{port}".encode() for host in (HOST, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._inner(scope, receive, send)
            return
        inner = self._inner
        if (refusal := self._refusal(scope)) is not None:
            inner = refusal
        else:
            path = "/" + scope["path"].split("/", 2)[2]
            scope = {**scope, "path": path, "raw_path": path.encode()}

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await inner(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        if len(hosts := headers.get(b"host", [])) != 1 or hosts[0] not in self._hosts:
            return Response("this address is served under 127.0.0.1 only", 421)
        origins = {b"http://" + host for host in self._hosts}
        if any(origin not in origins for origin in headers.get(b"origin", [])):
            return Response("requests of other sites are refused", 403)
        first, *rest = scope["path"].split("/", 2)[1:]
        if not rest or not secrets.compare_digest(first.encode(), self._token):
            return Response("open the whole address that `factory review` printed", 404)
        return None
