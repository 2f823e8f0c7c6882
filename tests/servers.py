"""Servers for tests: a real vLLM server, and one on loopback that fails as it is told."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextlib.contextmanager
def vllm_server(
    model: str, *arguments: str, start_within: float = 290
) -> Iterator[Callable[[], str]]:
    """A vLLM server of `model` under the name `smol`, on the CPU in float32. It starts while the test
    goes on; what is yielded waits for it and gives its base URL.

    That raises if it is not ready `start_within` seconds after its start, with what it printed last.
    """
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", "smol", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "1024"]
    command += ["--kv-cache-memory-bytes", str(256 << 20), "--block-size", "32", *arguments]
    env = os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    with tempfile.TemporaryFile("w+", errors="replace") as printed:
        process = subprocess.Popen(
            command, stdout=printed, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
        deadline = time.monotonic() + start_within

        def ready() -> str:
            while not _is_healthy(f"http://127.0.0.1:{port}/health"):
                if process.poll() is not None or time.monotonic() > deadline:
                    printed.seek(0)
                    raise RuntimeError(f"the vLLM server did not start:\n{printed.read()[-4000:]}")
                time.sleep(0.2)
            return f"http://127.0.0.1:{port}/v1"

        try:
            yield ready
        finally:
            _end_group(process)


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the server and the engine process it started, whatever state they are in."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Reply(NamedTuple):
    """What the fake server answers to one call."""

    status: int
    body: Any
    headers: dict[str, str] = {}
    parts: Iterable[bytes] | None = None
    """Sent one by one in the body's place, as they come."""


def completion(text: str = "ok", **choice: Any) -> Reply:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "finish_reason": "stop", "message": message, **choice}]
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    return Reply(200, {"object": "chat.completion", "choices": choices, "usage": usage})


def pooled(data: list[Any], **usage: int) -> Reply:
    """What a vLLM server answers to /pooling."""
    return Reply(200, {"object": "list", "data": [{"index": 0, "data": data}], "usage": usage})


def failure(status: int, message: str = "no", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"error": {"message": message}}, named)


class FakeServer:
    """Answers calls with `replies` in turn and then with `ok`; use it as a context manager.

    `before` runs in the thread of each call before it is answered: it may block, to hold the call.
    `tokenize` makes ids of the body of a call to /tokenize, which also tells `context`, or the reply;
    `detokenize` makes a text of ids.
    """

    def __init__(
        self,
        *replies: Reply,
        models: list[dict[str, str]] | None = None,
        before: Callable[[], object] = lambda: None,
        tokenize: Callable[[dict[str, Any]], list[int] | Reply] = lambda _: [1],
        detokenize: Callable[[list[int]], str] = lambda _: "",
        context: int = 64,
    ) -> None:
        self.calls: list[dict[str, Any]] = []
        """Bodies of the calls of the model, in order of arrival."""
        self.paths: list[str] = []
        """Where they went."""
        self.keys: set[str | None] = set()
        """The Authorization headers seen."""
        self.was_called = threading.Event()
        self.most_in_flight = 0
        self._in_flight = 0
        self._replies = list(replies)
        self._models = models
        self._before = before
        self._tokenize = tokenize
        self._detokenize = detokenize
        self._context = context
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> FakeServer:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: dict[str, Any], key: str | None) -> Reply:
        if path == "/v1/models":
            return failure(404) if self._models is None else Reply(200, {"data": self._models})
        if path == "/tokenize":
            ids = self._tokenize(body)
            if isinstance(ids, Reply):
                return ids
            return Reply(200, {"tokens": ids, "count": len(ids), "max_model_len": self._context})
        if path == "/detokenize":
            return Reply(200, {"prompt": self._detokenize(body["tokens"])})
        with self._lock:
            self.calls.append(body)
            self.paths.append(path)
            self.keys.add(key)
            self.was_called.set()
            reply = self._replies.pop(0) if self._replies else completion()
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            self._before()
        finally:
            with self._lock:
                self._in_flight -= 1
        return reply


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # of 5, the default, a burst of calls loses some

    def handle_error(self, *_: object) -> None:
        """A client that hung up is part of the tests, and not worth a traceback."""


def _handler(fake: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # an answer in two writes would wait 40 ms for the second

        def _reply(self, body: dict[str, Any]) -> None:
            reply = fake.answer(self.path, body, self.headers.get("Authorization"))
            data = json.dumps(reply.body).encode()
            self.send_response(reply.status)
            headers = {"Content-Type": "application/json"}
            if reply.parts is None:
                headers["Content-Length"] = str(len(data))
            else:
                self.close_connection = True
            for name, value in (headers | reply.headers).items():
                self.send_header(name, value)
            self.end_headers()
            for part in [data] if reply.parts is None else reply.parts:
                self.wfile.write(part)

        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *_: object) -> None:
            pass

    return Handler
