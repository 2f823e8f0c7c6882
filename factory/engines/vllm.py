"""The engine that runs vLLM in process: requests stream into its batches and are never preempted.

Invariants:
- Admitted requests together never need more KV blocks than there are, so vLLM never preempts. (A
  preempted request is computed twice, and with a seed it kills the CPU engine.)
- An engine starts with a random state of its own, unless the recipe names its `seed`. Otherwise a
  restarted engine could draw the same text for the second answer to a prompt as for the first.
- Requests wait in one heap by priority. A few more than can run are handed over, so that a free slot
  is filled at the very next step.
- The engine's own processes may die at any time. Calls in flight then wait for a new engine and are
  sent again, with the same seed, if any.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from factory.core import weights
from factory.core.errors import EngineError, RecipeError, SampleError
from factory.engines.admission import Admission
from factory.engines.base import Completion, EngineStats, Request, refuse_other_task
from factory.engines.reaper import start_reaper
from factory.engines.reasoning import OFF, marks_in
from factory.engines.vllm_calls import Prepared, VllmCalls
from factory.engines.vllm_config import VllmConfig, refuse_other_head, refuse_unknown_tokens
from factory.engines.vllm_reasoning import template_of, tokenizer_thinks
from factory.engines.vllm_start import engine_args, hf_overrides, shut_down, start

_MAX_DEATHS = 4  # deaths of the engine in a row without a completed call, or during one call
_HANDED_OVER = (
    1.25  # requests handed to vLLM per request that can run; the others wait in its queue
)
# Engine arguments that affect only place and speed, not answers: they are not in the fingerprint.
_PLACEMENT = frozenset({
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enforce_eager",
    "gpu_memory_utilization", "kv_cache_memory_bytes", "block_size", "max_model_len",
    "max_num_seqs", "max_num_batched_tokens", "enable_prefix_caching", "async_scheduling",
})  # fmt: skip


class VllmEngine:
    """One vLLM engine, started on the first request. `log`: the file for its processes' output.

    `share`: the share of the machine it may take if the recipe names none, in (0, 1].
    `judges`: labels are read from it, so its last layer computes in float32. bfloat16 keeps 8 bits of
    a logit, which would turn a quarter of the verdicts near one half into false ties.
    """

    def __init__(
        self,
        config: VllmConfig,
        *,
        folder: Path | None = None,
        share: float = 1.0,
        judges: bool = False,
        log: Path | None = None,
    ) -> None:
        self.config = config
        self._model_dir = weights.resolve(config.model, folder)
        refuse_other_head(config, self._model_dir)
        self._share = share
        self._hf_overrides = hf_overrides(config, judges=judges)
        self._log = log or Path(tempfile.gettempdir()) / f"factory-engine-{os.getpid()}.log"
        self._fingerprint: str | None = None
        self._engine: Any = None
        self._reaper: subprocess.Popen[bytes] | None = None
        self._tokenizer: Any = None
        self._calls: VllmCalls
        """Set when the engine has started."""
        self._admission = Admission()
        self._starting = asyncio.Lock()
        self._deaths_in_a_row = 0
        self._request_ids = itertools.count()
        self._stats = EngineStats()

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            c = self.config
            content = {k: v for k, v in sorted(c.engine_args.items()) if k not in _PLACEMENT}
            if "head_dtype" in self._hf_overrides:
                theirs = c.engine_args.get("hf_overrides", {})
                head = {"head_dtype": self._hf_overrides["head_dtype"]}
                content = dict(sorted((content | {"hf_overrides": head | theirs}).items()))
            settings: list[Any] = [c.dtype, sorted(c.chat_template_kwargs.items()), content]
            if c.task != "generate":
                settings += [c.task, c.label_tokens]
            elif self._may_think:  # older ledgers hold its thoughts within its answers
                settings.append(["reasoning", c.reasoning_parser])
            if elsewhere := weights.read_from(c.engine_args):
                settings.append(elsewhere)
            self._fingerprint = f"{weights.fingerprint(self._model_dir)}:{settings}"
        return self._fingerprint

    @property
    def _may_think(self) -> bool:
        """True if its template has marks of thoughts, not switched off, or if a parser is named."""
        c = self.config
        is_off = any(c.chat_template_kwargs.get(name) is value for name, value in OFF.items())
        return c.reasoning_parser is not None or (
            not is_off and marks_in(template_of(self._tokenizer_dir)) is not None
        )

    @property
    def _tokenizer_dir(self) -> Path:
        """The tokenizer's folder, which may differ from the model's."""
        return Path(self.config.engine_args.get("tokenizer") or self._model_dir)

    async def thinks(self) -> bool:
        if self.config.task != "generate" or not self._may_think:
            return False
        if self._tokenizer is None:
            return await asyncio.to_thread(self._thinks)
        return self._thinks()

    def _thinks(self) -> bool:
        from transformers import AutoTokenizer

        tokenizer = self._tokenizer or AutoTokenizer.from_pretrained(
            self._tokenizer_dir, trust_remote_code=self.config.trust_remote_code
        )
        if marks_in(tokenizer.chat_template) is None:
            return self.config.reasoning_parser is not None
        return tokenizer_thinks(tokenizer, self.config.chat_template_kwargs)

    def stats(self) -> EngineStats:
        self._stats.running = self._admission.admitted
        is_starting = self._engine is None and self._starting.locked()
        again = " again" if self._stats.restarts else ""
        model = self.config.model
        name = model if model.count("/") < 2 else Path(model).name
        self._stats.doing = f"loading {name}{again}" if is_starting else ""
        return self._stats

    @property
    def process_ids(self) -> list[int]:
        """The engine's own processes. Empty before it has started."""
        if self._engine is None:
            return []
        return [p.pid for p in self._engine.engine_core.resources.engine_manager.processes]

    async def generate(self, request: Request) -> Completion:
        prepared = await self._prepared(request)
        for _ in range(_MAX_DEATHS):
            need = self._admission.blocks(prepared.tokens)
            await self._admission.acquire(need, request.priority)
            try:
                engine = await self._running()  # only now: it may have died while this waited
                output = await self._call(engine, prepared, request.priority)
            except _EngineDied:
                output = None
            finally:
                self._admission.release(need)
            if output is None:
                await self._bury(engine)
                continue
            self._deaths_in_a_row = 0
            completion = self._calls.completion(request, output, prepared)
            self._stats.add(completion)
            return completion
        raise SampleError(
            f"the engine died {_MAX_DEATHS} times while it worked on this call; what it printed is "
            f"in {self._log}"
        )

    async def check(self, request: Request) -> None:
        """Start the engine, and find errors that all requests of this kind would meet: unknown sampling
        parameters, labels of several tokens, no room for an answer.

        Raises `FactoryError`.
        """
        try:
            await self._prepared(request)
        except SampleError as error:
            raise EngineError(f"{self.config.model}: {error}") from error

    async def _call(self, engine: Any, prepared: Prepared, priority: int) -> Any:
        from vllm import TokensPrompt
        from vllm.exceptions import VLLMValidationError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        request_id = str(next(self._request_ids))
        ask = engine.generate if self.config.task == "generate" else engine.encode
        last = None
        try:
            prompt = TokensPrompt(prompt_token_ids=prepared.ids)
            async for output in ask(prompt, prepared.params, request_id, priority=priority):
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

    async def _prepared(self, request: Request) -> Prepared:
        """Start the engine, if needed, and make its input for the request."""
        await self._running()
        refuse_other_task(request, self.config.task, self.config.model)
        return self._calls.prepared(request)

    # -- the engine's life ---------------------------------------------------------------------

    async def _running(self) -> Any:
        if self._engine is None:
            async with self._starting:
                if self._engine is None:
                    await self._start()
        return self._engine

    async def _bury(self, dead: Any) -> None:
        """Remove a dead engine. The next `_running` starts another."""
        async with self._starting:
            if self._engine is not dead:
                return  # another call has removed it
            self._engine = None
            self._stats.restarts += 1
            self._deaths_in_a_row += 1
            await self._end(dead)
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
        except Exception as error:  # vLLM may raise anything; the user needs its message
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
        self._calls = VllmCalls(self.config, self._tokenizer, engine.model_config)
        self._engine = engine
        self._reaper = start_reaper(self.process_ids)

    def _load(self) -> Any:
        if self.config.label_tokens:
            refuse_unknown_tokens(self.config, self._model_dir)
        args = engine_args(self.config, self._model_dir, self._share, self._hf_overrides)
        return start(args, self._log)

    async def _end(self, engine: Any) -> None:
        if self._reaper is not None:
            self._reaper.kill()
            self._reaper.communicate()
            self._reaper = None
        await asyncio.to_thread(shut_down, engine)

    def _tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
        return ""

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await self._end(engine)


class _EngineDied(Exception):
    """The engine's process is gone; the request may be sent to another."""
