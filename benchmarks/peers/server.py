"""The one vLLM server that all contestants use, on loopback, and what it says it did."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from factory.core import weights

MODEL = "smollm2"
_START_WITHIN = 240  # seconds
# As the factory's own engine on CPUs: compiling takes a minute, vLLM's blocks of 128 tokens are too
# long for these prompts, and a prompt computed in two steps kills a CPU engine that is given seeds.
_ON_CPUS = ("--enforce-eager", "--block-size=32", "--no-enable-chunked-prefill")
_ON_CPUS += ("--kv-cache-memory-bytes", str(1 << 30))


class Done(NamedTuple):
    """What a server did between two looks at its counters."""

    calls: int
    prompt_tokens: int
    output_tokens: int

    def since(self, before: Done) -> Done:
        return Done(*(now - then for now, then in zip(self, before, strict=True)))


class Server(NamedTuple):
    address: str

    @property
    def url(self) -> str:
        return f"{self.address}/v1"

    def forget(self) -> None:
        """Empty the prefix cache, so that nobody profits from another's run."""
        _get(f"{self.address}/reset_prefix_cache", method="POST")

    def done(self) -> Done:
        told = _get(f"{self.address}/metrics")
        names = ("request_success", "prompt_tokens", "generation_tokens")
        return Done(*(_total(told, f"vllm:{name}_total") for name in names))


@contextlib.contextmanager
def running(log: Path, sequences: int) -> Iterator[Server]:
    """A server of the embedded model. Raises `RuntimeError`, with its last words, if none starts."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(weights.embedded_model()), "--served-model-name", MODEL]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048"]
    command += ["--max-num-seqs", str(sequences), *(() if shutil.which("nvidia-smi") else _ON_CPUS)]
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    env = {"VLLM_CPU_OMP_THREADS_BIND": cores, "VLLM_NO_USAGE_STATS": "1"} | os.environ
    env |= {"VLLM_SERVER_DEV_MODE": "1"}  # or there is no /reset_prefix_cache
    with log.open("wb") as printed:
        process = subprocess.Popen(
            command, stdout=printed, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
    try:
        deadline = time.monotonic() + _START_WITHIN
        while not _is_healthy(server):
            if process.poll() is not None or time.monotonic() > deadline:
                words = log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"the vLLM server did not start; its last words:\n{words}")
            time.sleep(0.2)
        yield server
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads its group, and all that it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)


def _is_healthy(server: Server) -> bool:
    with contextlib.suppress(OSError):
        _get(f"{server.address}/health")
        return True
    return False


def _get(url: str, method: str = "GET") -> str:
    """Raises `OSError` if the server does not answer, or not with success."""
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
        return str(answer.read().decode())


def _total(told: str, name: str) -> int:
    """A counter, over all its labels, in Prometheus' text form."""
    return int(sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", told, re.MULTILINE))))
