"""vLLM in process: requests stream into its continuous batching, and nothing is ever preempted.

Invariants:
- The blocks of KV cache that admitted requests can ever need never exceed what there is, so vLLM
  never preempts (a preempted request is computed twice, and with a seed it kills the CPU engine).
- Requests wait in one heap by priority; a few more than can run are handed over, so that a slot
  that falls free is filled at the very next step.
- The engine's own processes may die at any time: calls in flight wait for a new one and are sent
  again, with the same seeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import heapq
import itertools
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from factory import weights
from factory.config import Config
from factory.engines.base import LABEL_CONTEXT, Completion, EngineStats, Request, label_token
from factory.errors import ContextOverflow, EngineError, RecipeError, SampleError
from factory.records import Message

_MAX_DEATHS = 4  # of the engine in a row without one call completed, or under one call
_CPU_SEQUENCES = 64  # throughput on CPUs is flat beyond
_CPU_BLOCK = 32  # tokens; vLLM's default there is 128, which misses short shared prefixes
_HANDED_OVER = (
    1.25  # requests given to vLLM for each that can run: the rest of them wait in its queue
)
# Engine arguments that say where and how fast, not what: changing them keeps the ledger valid.
_PLACEMENT = frozenset({
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enforce_eager",
    "gpu_memory_utilization", "kv_cache_memory_bytes", "block_size", "max_model_len",
    "max_num_seqs", "max_num_batched_tokens", "enable_prefix_caching", "async_scheduling",
})  # fmt: skip
_TRANSCRIPT_STOP = "\n\nHuman:"


class VllmConfig(Config):
    """A model that vLLM runs in this process."""

    engine: Literal["vllm"] = "vllm"
    model: str
    """`smollm2-135m-instruct`, a local folder (relative to the recipe), or a Hub id."""
    max_model_len: int | None = Field(None, ge=16)
    """Context in tokens. None: the model's own."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_num_seqs: int | None = Field(None, ge=1)
    """Sequences that run at once. None: 64 on CPUs, 256 on GPUs."""
    memory_fraction: float | None = Field(None, gt=0, le=1)
    """Share of the GPU's memory. None: 0.9 divided evenly among the recipe's engines."""
    chat_template_kwargs: dict[str, Any] = {}
    """Passed to the chat template, as `{enable_thinking: false}`."""
    trust_remote_code: bool = False
    """Run code that the model's authors ship with it. Say true only of authors you trust."""
    engine_args: dict[str, Any] = {}
    """Passed through to vLLM's AsyncEngineArgs, as `{tensor_parallel_size: 2}`."""


class VllmEngine:
    """One vLLM engine, started on the first request. `log` gets what its processes print.

    `share`: the part of the machine this engine may take when the recipe names none, in (0, 1].
    """

    def __init__(
        self,
        config: VllmConfig,
        *,
        folder: Path | None = None,
        share: float = 1.0,
        log: Path | None = None,
    ) -> None:
        self.config = config
        self._model_dir = weights.resolve(config.model, folder)
        self._share = share
        self._log = log or Path(tempfile.gettempdir()) / f"factory-engine-{os.getpid()}.log"
        self._fingerprint: str | None = None
        self._engine: Any = None
        self._reaper: subprocess.Popen[bytes] | None = None
        self._tokenizer: Any = None
        self._admission = _Admission(0, 0)
        self._starting = asyncio.Lock()
        self._deaths_in_a_row = 0
        self._ids = itertools.count()
        self._label_ids: dict[tuple[str, str], int] = {}
        self._stats = EngineStats()

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            c = self.config
            content = {k: v for k, v in sorted(c.engine_args.items()) if k not in _PLACEMENT}
            settings = [c.dtype, sorted(c.chat_template_kwargs.items()), content]
            self._fingerprint = f"{weights.fingerprint(self._model_dir)}:{settings}"
        return self._fingerprint

    def stats(self) -> EngineStats:
        return self._stats

    @property
    def process_ids(self) -> list[int]:
        """The engine's own processes, for tests that kill them. Empty before it has started."""
        if self._engine is None:
            return []
        return [p.pid for p in self._engine.engine_core.resources.engine_manager.processes]

    async def generate(self, request: Request) -> Completion:
        await self._running()
        ids = self._prompt_ids(request)
        params = self._sampling_params(request)
        context = self._engine.model_config.max_model_len
        if len(ids) + params.max_tokens > context:
            raise ContextOverflow(len(ids), params.max_tokens, context)
        for _ in range(_MAX_DEATHS):
            engine = await self._running()
            need = self._admission.blocks(len(ids) + params.max_tokens)
            await self._admission.acquire(need, request.priority)
            try:
                output = await self._call(engine, ids, params, request.priority)
            except _EngineDied:
                output = None
            finally:
                self._admission.release(need)
            if output is None:
                await self._bury(engine)
                continue
            self._deaths_in_a_row = 0
            completion = self._completion(request, output)
            self._stats.add(completion)
            return completion
        raise SampleError(
            f"the engine died {_MAX_DEATHS} times while it worked on this call; what it printed is "
            f"in {self._log}"
        )

    async def _call(self, engine: Any, ids: list[int], params: Any, priority: int) -> Any:
        from vllm import TokensPrompt
        from vllm.exceptions import VLLMValidationError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        request_id = str(next(self._ids))
        last = None
        try:
            async for output in engine.generate(
                TokensPrompt(prompt_token_ids=ids), params, request_id, priority=priority
            ):
                last = output
        except EngineDeadError as error:
            raise _EngineDied from error
        except VLLMValidationError as error:
            raise SampleError(f"vLLM refused the request: {error}", is_permanent=True) from error
        except EngineGenerateError as error:
            if engine.errored:
                raise _EngineDied from error
            raise SampleError(f"vLLM failed on this request: {error.__cause__!r}") from error
        return last

    def _completion(self, request: Request, output: Any) -> Completion:
        answer = output.outputs[0]
        logprobs: dict[str, float] | None = None
        if request.labels:
            shown = answer.logprobs[0]
            logprobs = {
                label: shown[token].logprob
                for label in request.labels
                if (token := self._label_id(request.prefix, label)) in shown
            }
        return Completion(
            text="" if request.labels else answer.text,
            finish_reason="length" if answer.finish_reason == "length" else "stop",
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens or 0,
            output_tokens=len(answer.token_ids),
            label_logprobs=logprobs,
        )

    # -- from messages to token ids ------------------------------------------------------------

    def _prompt_ids(self, request: Request) -> list[int]:
        """Ids of the conversation up to where the completion begins, with exactly one BOS."""
        tokenizer = self._tokenizer
        if tokenizer.chat_template is None:
            text = transcript(request.messages)
            text += f" {request.prefix}" if request.prefix else ""
            ids: list[int] = tokenizer.encode(text)
            return ids
        ids = list(
            tokenizer.apply_chat_template(
                request.messages,
                add_generation_prompt=True,
                return_dict=False,
                **self.config.chat_template_kwargs,
            )
        )
        if request.prefix:
            ids += tokenizer.encode(request.prefix, add_special_tokens=False)
        return ids

    def _label_id(self, prefix: str, label: str) -> int:
        end = prefix[-LABEL_CONTEXT:]
        if (end, label) not in self._label_ids:
            before, both, alone = (
                self._tokenizer.encode(text, add_special_tokens=False)
                for text in (end, end + label, label)
            )
            self._label_ids[end, label] = label_token(before, both, alone, label, self.config.model)
        return self._label_ids[end, label]

    def _sampling_params(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if request.labels:
            labels = [self._label_id(request.prefix, label) for label in request.labels]
            return SamplingParams(
                max_tokens=1,
                temperature=0,
                allowed_token_ids=labels,
                logprob_token_ids=labels,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
        values = dict(request.sampling)
        extra = values.pop("extra", {})
        if self._tokenizer.chat_template is None:
            values["stop"] = [*values.get("stop", []), _TRANSCRIPT_STOP]
        try:
            return SamplingParams(
                **values, **extra, seed=request.seed, output_kind=RequestOutputKind.FINAL_ONLY
            )
        except (TypeError, ValueError) as error:
            raise RecipeError(
                f"vLLM refused the sampling parameters {values | extra}: {error}"
            ) from error

    # -- the engine's life ---------------------------------------------------------------------

    async def _running(self) -> Any:
        if self._engine is None:
            async with self._starting:
                if self._engine is None:
                    await self._start()
        return self._engine

    async def _bury(self, dead: Any) -> None:
        """Clear away a dead engine; the next `_running` starts another."""
        async with self._starting:
            if self._engine is not dead:
                return  # another call has seen to it
            self._engine = None
            self._dismiss_reaper()
            self._stats.restarts += 1
            self._deaths_in_a_row += 1
            await asyncio.to_thread(_shut_down, dead)
            if self._deaths_in_a_row >= _MAX_DEATHS:
                raise EngineError(
                    f"the engine of {self.config.model} died {self._deaths_in_a_row} times "
                    f"without completing a call between; the last lines it printed:\n{self._tail()}"
                )

    async def _start(self) -> None:
        try:
            engine = await asyncio.to_thread(self._load)
        except (EngineError, RecipeError):
            raise
        except Exception as error:  # whatever vLLM raises, the user needs its own words
            raise EngineError(
                f"vLLM could not start {self.config.model}: {error}\n{self._tail()}\n"
                f"(all it printed is in {self._log})"
            ) from error
        cache = engine.vllm_config.cache_config
        sequences = engine.vllm_config.scheduler_config.max_num_seqs
        self._admission.resize(
            cache.num_gpu_blocks,
            cache.block_size,
            max(sequences + 1, int(sequences * _HANDED_OVER)),
        )
        self._tokenizer = engine.get_tokenizer()
        self._engine = engine
        self._reaper = _start_reaper(self.process_ids)

    def _load(self) -> Any:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        cores = sorted(os.sched_getaffinity(0))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
        os.environ.setdefault("OMP_NUM_THREADS", str(len(cores)))
        with _output_to(self._log):
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM

            # What vLLM logs in this process later, as an engine's death, belongs in its log too.
            logging.getLogger("vllm").handlers = [logging.FileHandler(self._log)]
            return AsyncLLM.from_engine_args(self._engine_args(AsyncEngineArgs))

    def _engine_args(self, kind: Any) -> Any:
        from vllm.platforms import current_platform

        config = self.config
        args: dict[str, Any] = {
            "model": str(self._model_dir),
            "dtype": config.dtype,
            "max_model_len": config.max_model_len,
            "max_num_seqs": config.max_num_seqs,
            "trust_remote_code": config.trust_remote_code,
            "scheduling_policy": "priority",
            "enable_prefix_caching": True,
            "disable_log_stats": True,
        }
        if current_platform.is_cpu():
            args["max_num_seqs"] = config.max_num_seqs or _CPU_SEQUENCES
            args["block_size"] = _CPU_BLOCK
            args["enforce_eager"] = True  # compiling costs a minute and gains nothing on small runs
            # A prompt computed in two steps kills the CPU engine, as preemption does: it takes back
            # a random number from the request's generator, and those on CPUs cannot ("CPU Generator
            # does not use offset", vLLM 0.31).
            args["enable_chunked_prefill"] = False
            args["kv_cache_memory_bytes"] = _cpu_cache_bytes(self._share)
        else:
            args["gpu_memory_utilization"] = config.memory_fraction or 0.9 * self._share
        args |= config.engine_args
        known = kind.__dataclass_fields__
        for key in args:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise RecipeError(f"engine_args: vLLM has no engine argument '{key}'{hint}")
        return kind(**args)

    def _dismiss_reaper(self) -> None:
        if self._reaper is not None:
            self._reaper.kill()
            self._reaper.communicate()
            self._reaper = None

    def _tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
        return ""

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            self._dismiss_reaper()
            await asyncio.to_thread(_shut_down, engine)


class _EngineDied(Exception):
    """The engine's process is gone; the request may be sent to another."""


class _Admission:
    """Bounds the KV blocks and requests handed to vLLM; lets the lowest priority in first."""

    def __init__(self, blocks: int, requests: int) -> None:
        self._blocks = self._free_blocks = blocks
        self._requests = self._free_requests = requests
        self._block_size = 1
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def resize(self, blocks: int, block_size: int, requests: int) -> None:
        """Set what there is, when an engine has started. What is admitted stays admitted."""
        self._free_blocks += blocks - self._blocks
        self._free_requests += requests - self._requests
        self._blocks, self._requests, self._block_size = blocks, requests, block_size
        self._let_in()

    def blocks(self, tokens: int) -> int:
        """KV blocks that a sequence of so many tokens fills, plus one that vLLM may hold ahead."""
        return min(-(-tokens // self._block_size) + 1, self._blocks)

    async def acquire(self, need: int, priority: int) -> None:
        admitted = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._order), need, admitted))
        self._let_in()
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self.release(need)
            raise

    def release(self, need: int) -> None:
        self._free_blocks += need
        self._free_requests += 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._free_requests > 0:
            _, _, need, admitted = self._waiting[0]
            if not admitted.done():
                if need > self._free_blocks:
                    return  # the first in line waits for room; passing it by could starve it
                self._free_blocks -= need
                self._free_requests -= 1
                admitted.set_result(None)
            heapq.heappop(self._waiting)


def transcript(messages: list[Message]) -> str:
    """A conversation for a model without a chat template, as in the Constitutional AI paper."""
    names = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": ""}
    return "".join(names[m["role"]] + m["content"] for m in messages) + "\n\nAssistant:"


def _cpu_cache_bytes(share: float) -> int:
    """KV cache on a CPU: an eighth of the free memory, 256 MiB to 4 GiB."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        kib = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
        available = int(kib) * 1024
    return max(256 << 20, min(4 << 30, int(available * share / 8)))


_REAPER = """
import os, sys
sys.stdin.buffer.read()
for pid in sys.argv[1:]:
    try:
        os.kill(int(pid), 9)
    except ProcessLookupError:
        pass
"""


def _start_reaper(pids: list[int]) -> subprocess.Popen[bytes]:
    """A process that kills the engine's when this one is gone, however it went: its standard input
    then ends. vLLM's own would go on with what they were given, and keep the memory."""
    command = [sys.executable, "-S", "-E", "-c", _REAPER, *map(str, pids)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _shut_down(engine: Any) -> None:
    with contextlib.suppress(Exception):  # a dead engine may fail in any way while it is cleared
        engine.shutdown()
    # Its __del__ shuts down again, when the interpreter is half gone: complaints on every exit.
    engine.shutdown = lambda *_: None


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Send what this process and those it starts now print into `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for fd, old in enumerate(saved, start=1):
                os.dup2(old, fd)
                os.close(old)
