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
import difflib
import itertools
import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from factory.core import weights
from factory.core.config import Config
from factory.core.errors import ContextOverflow, EngineError, RecipeError, SampleError
from factory.engines.admission import Admission
from factory.engines.base import (
    LABEL_CONTEXT,
    Completion,
    EngineStats,
    Request,
    Task,
    ended,
    label_token,
    refuse_other_task,
)
from factory.engines.reaper import start_reaper
from factory.engines.reasoning import OFF, Where, marks_in
from factory.engines.render import NEXT_TURN, conversation_ids, prompt_ids, step_ids
from factory.engines.vllm_names import ENGINE_ARGS, parser_problem, unknown_name
from factory.engines.vllm_reasoning import Thoughts, template_of, tokenizer_thinks

_MAX_DEATHS = 4  # deaths of the engine in a row without a completed call, or during one call
_CPU_SEQUENCES = 64  # throughput on CPUs does not grow beyond
_CPU_BLOCK = 32  # tokens; vLLM's default on CPUs is 128, which misses short shared prefixes
_HANDED_OVER = (
    1.25  # requests handed to vLLM per request that can run; the others wait in its queue
)
# Engine arguments that affect only place and speed, not answers: they are not in the fingerprint.
_PLACEMENT = frozenset({
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enforce_eager",
    "gpu_memory_utilization", "kv_cache_memory_bytes", "block_size", "max_model_len",
    "max_num_seqs", "max_num_batched_tokens", "enable_prefix_caching", "async_scheduling",
})  # fmt: skip


class VllmConfig(Config):
    """Options of a model that vLLM runs in this process."""

    engine: Literal["vllm"] = "vllm"
    model: str
    """`smollm2-135m-instruct`, a local folder (relative to the recipe), a Hub id, or `trained:NAME`, the
    result of the recipe's training of that name."""
    max_model_len: int | None = Field(None, ge=16)
    """Context in tokens. None: the model's own."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_num_seqs: int | None = Field(None, ge=1)
    """Most sequences that run at once. None: 64 on CPUs, 256 on GPUs."""
    task: Task = "generate"
    """`classify`: a reward model. `token_classify`: a process reward model. Both only score, and need a
    trained model with a classification head."""
    label_tokens: list[str] = []
    """With a task that scores: use a generating model, whose outputs are then the logits of these
    tokens, written as in its vocabulary: `["▁+", "▁-"]` for Math-Shepherd's."""
    memory_fraction: float | None = Field(None, gt=0, le=1)
    """Share of the GPU's memory. None: an equal share of 0.9 for each of the recipe's engines."""
    chat_template_kwargs: dict[str, Any] = {}
    """Arguments for the chat template, such as `{enable_thinking: false}`."""
    reasoning_parser: str | None = None
    """vLLM's parser that splits this model's thought from its answer, as for `--reasoning-parser`.
    None: the marks in its chat template are used, if it thinks."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Set it only if you trust the model's authors."""
    engine_args: dict[str, Any] = {}
    """Arguments passed to vLLM's AsyncEngineArgs, such as `{tensor_parallel_size: 2}`. `hf_overrides`
    overrides, key by key, what this engine sets there (a judge's `head_dtype`)."""

    @field_validator("reasoning_parser")
    @classmethod
    def _check_parser(cls, value: str | None) -> str | None:
        if value is not None and (problem := parser_problem(value)) is not None:
            raise ValueError(problem)
        return value

    @field_validator("engine_args")
    @classmethod
    def _check_engine_args(cls, value: dict[str, Any]) -> dict[str, Any]:
        if (found := unknown_name(value, ENGINE_ARGS, "AsyncEngineArgs")) is not None:
            raise ValueError(found[1])
        return value

    @model_validator(mode="after")
    def _labels_need_a_task(self) -> Self:
        if self.label_tokens and self.task == "generate":
            raise ValueError(
                "label_tokens: they make a scoring model; set task: classify or token_classify"
            )
        return self


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
        _refuse_other_head(config, self._model_dir)
        self._share = share
        self._hf_overrides = _hf_overrides(config, judges=judges)
        self._log = log or Path(tempfile.gettempdir()) / f"factory-engine-{os.getpid()}.log"
        self._fingerprint: str | None = None
        self._engine: Any = None
        self._reaper: subprocess.Popen[bytes] | None = None
        self._tokenizer: Any = None
        self._thoughts: Thoughts | None = None
        """None: the model does not think."""
        self._admission = Admission(0, 0)
        self._starting = asyncio.Lock()
        self._deaths_in_a_row = 0
        self._request_ids = itertools.count()
        self._label_ids: dict[tuple[str, str], int] = {}
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
        """True if its template has marks of thoughts and the recipe does not switch them off, or if a
        parser is named."""
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
        self._stats.doing = f"loading {_short(self.config.model)}{again}" if is_starting else ""
        return self._stats

    @property
    def process_ids(self) -> list[int]:
        """The engine's own processes. Empty before it has started."""
        if self._engine is None:
            return []
        return [p.pid for p in self._engine.engine_core.resources.engine_manager.processes]

    async def generate(self, request: Request) -> Completion:
        await self._running()
        refuse_other_task(request, self.config.task, self.config.model)
        ids, positions, where = self._ids(request)
        params, stops = self._params(request, where)
        output_tokens = 0 if request.scoring else params.max_tokens
        context = self._engine.model_config.max_model_len
        if len(ids) + output_tokens > context:
            raise ContextOverflow(len(ids), output_tokens, context)
        for _ in range(_MAX_DEATHS):
            need = self._admission.blocks(len(ids) + output_tokens)
            await self._admission.acquire(need, request.priority)
            try:
                engine = await self._running()  # only now: it may have died while this waited
                output = await self._call(engine, ids, params, request.priority)
            except _EngineDied:
                output = None
            finally:
                self._admission.release(need)
            if output is None:
                await self._bury(engine)
                continue
            self._deaths_in_a_row = 0
            completion = (
                _scores(output, positions)
                if request.scoring
                else self._answer(request, output, where, stops)
            )
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
        await self._running()
        refuse_other_task(request, self.config.task, self.config.model)
        context = self._engine.model_config.max_model_len
        try:
            ids, _, where = self._ids(request)
            params, _ = self._params(request, where)
            prompt_tokens, tokens = len(ids), 0 if request.scoring else params.max_tokens
            if prompt_tokens + tokens > context:
                raise ContextOverflow(prompt_tokens, tokens, context)
        except SampleError as error:
            raise EngineError(f"{self.config.model}: {error}") from error

    async def _call(self, engine: Any, ids: list[int], params: Any, priority: int) -> Any:
        from vllm import TokensPrompt
        from vllm.exceptions import VLLMValidationError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        request_id = str(next(self._request_ids))
        ask = engine.generate if self.config.task == "generate" else engine.encode
        last = None
        try:
            prompt = TokensPrompt(prompt_token_ids=ids)
            async for output in ask(prompt, params, request_id, priority=priority):
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

    def _answer(
        self, request: Request, output: Any, where: Where, stops: Sequence[str]
    ) -> Completion:
        answer = output.outputs[0]
        finish_reason = ended(answer.finish_reason)
        if finish_reason is None:
            raise SampleError(f"vLLM did not end its answer: finish_reason {answer.finish_reason}")
        logprobs: dict[str, float] | None = None
        if request.labels:
            shown = answer.logprobs[0]
            logprobs = {
                label: shown[token].logprob
                for label in request.labels
                if (token := self._label_id(request.prefix, label)) in shown
            }
        text, reasoning, reasoning_tokens = "" if request.labels else answer.text, None, 0
        if self._thoughts is not None and not request.labels:
            said, reason, reasoning_tokens = self._thoughts.read(answer, where, stops)
            text, finish_reason = said.finished(ended(reason) or finish_reason)
            reasoning = said.reasoning
        return Completion(
            text=text,
            finish_reason=finish_reason,
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens or 0,
            output_tokens=len(answer.token_ids),
            label_logprobs=logprobs,
            reasoning=reasoning,
            reasoning_tokens=reasoning_tokens,
        )

    # -- from a request to what vLLM takes -----------------------------------------------------

    def _ids(self, request: Request) -> tuple[list[int], list[int], Where]:
        """The prompt's ids, the positions whose outputs are read (of steps, else none), and the kind of
        text that comes next."""
        kwargs, scoring = self.config.chat_template_kwargs, request.scoring
        if scoring is None and self._thoughts is not None:
            ids = prompt_ids(self._tokenizer, request.messages, kwargs)
            ids, where = self._thoughts.begin(ids, request.prefix)
            return ids, [], where
        if scoring is None:
            ids = prompt_ids(self._tokenizer, request.messages, kwargs, request.prefix)
            return ids, [], "answer"
        if not scoring.steps:
            return conversation_ids(self._tokenizer, request.messages, kwargs), [], "answer"
        return *step_ids(self._tokenizer, request.messages, scoring, kwargs), "answer"

    def _label_id(self, prefix: str, label: str) -> int:
        end = prefix[-LABEL_CONTEXT:]
        if (end, label) not in self._label_ids:
            before, both, alone = (
                self._tokenizer.encode(text, add_special_tokens=False)
                for text in (end, end + label, label)
            )
            self._label_ids[end, label] = label_token(before, both, alone, label, self.config.model)
        return self._label_ids[end, label]

    def _params(self, request: Request, where: Where) -> tuple[Any, list[str]]:
        """vLLM's parameters, and the stop strings that end only an answer."""
        from vllm import PoolingParams, SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if request.scoring:
            return PoolingParams(task=self.config.task, use_activation=False), []
        if request.labels:
            labels = [self._label_id(request.prefix, label) for label in request.labels]
            params = SamplingParams(
                max_tokens=1,
                temperature=0,
                allowed_token_ids=labels,
                logprob_token_ids=labels,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            return params, []
        values = dict(request.sampling)
        extra = values.pop("extra", {})
        stops: list[str] = []
        if self._tokenizer.chat_template is None:
            values["stop"] = [*values.get("stop", []), NEXT_TURN]
        if self._thoughts is not None:
            if values.get("stop"):
                values["stop"], stops = self._thoughts.stops(values["stop"], where)
            if self._thoughts.shows_control_tokens:
                extra = {"skip_special_tokens": False, **extra}
        try:
            params = SamplingParams(
                **values, **extra, seed=request.seed, output_kind=RequestOutputKind.FINAL_ONLY
            )
            return params, stops
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
        """Remove a dead engine. The next `_running` starts another."""
        async with self._starting:
            if self._engine is not dead:
                return  # another call has removed it
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
        if self.config.task == "generate":
            config = self.config
            thoughts = Thoughts(
                self._tokenizer,
                config.chat_template_kwargs,
                config.reasoning_parser,
                engine.model_config,
            )
            self._thoughts = thoughts if thoughts.are_there else None
        self._engine = engine
        self._reaper = start_reaper(self.process_ids)

    def _load(self) -> Any:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        if self.config.label_tokens:
            _refuse_unknown_tokens(self.config, self._model_dir)
        cores = sorted(os.sched_getaffinity(0))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
        os.environ.setdefault("OMP_NUM_THREADS", str(len(cores)))
        _spare_the_compiler()
        with _output_to(self._log):
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM

            # vLLM's later log lines in this process (such as an engine's death) go to its log too.
            logging.getLogger("vllm").handlers = [logging.FileHandler(self._log)]
            with _main_module_hidden():
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
            "seed": secrets.randbits(31),
        }
        if current_platform.is_cpu():
            args["max_num_seqs"] = config.max_num_seqs or _CPU_SEQUENCES
            args["block_size"] = _CPU_BLOCK
            args["enforce_eager"] = True  # compiling costs a minute and gains nothing on small runs
            # A prompt computed in two steps kills the CPU engine, as preemption does: vLLM rewinds
            # the request's random generator, which CPU generators cannot do ("CPU Generator does not
            # use offset", vLLM 0.31).
            args["enable_chunked_prefill"] = False
            args["kv_cache_memory_bytes"] = _cpu_cache_bytes(self._share)
        else:
            args["gpu_memory_utilization"] = config.memory_fraction or 0.9 * self._share
        if config.task != "generate":
            args["runner"] = "pooling"
            args["enable_prefix_caching"] = (
                config.task == "classify"
            )  # each step's output is wanted
        if config.label_tokens:
            args["convert"] = "classify"
        args |= config.engine_args
        if self._hf_overrides:
            args["hf_overrides"] = self._hf_overrides
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


def _short(model: str) -> str:
    """A model's name without its folders."""
    return model if model.count("/") < 2 else Path(model).name


class _EngineDied(Exception):
    """The engine's process is gone; the request may be sent to another."""


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Hide the user's script from the engine's process, which would otherwise run it again. It needs
    nothing of it, and a script without `if __name__ == "__main__"` would start engines without end."""
    module = sys.modules["__main__"]
    hidden: dict[str, Any] = {
        name: module.__dict__.pop(name)
        for name in ("__file__", "__spec__")
        if name in module.__dict__
    }
    module.__spec__ = None  # the attribute must exist
    try:
        yield
    finally:
        module.__dict__.update(hidden)


def _spare_the_compiler() -> None:
    """Sample uncompiled if there is no C++ compiler, 20% slower at 64 sequences. On CPUs vLLM compiles
    its sampler at the first unseeded batch (16 s, then cached: 3 s), and dies without a compiler."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


def _scores(output: Any, positions: list[int]) -> Completion:
    """A scoring model's outputs: one row, or one row per position."""
    rows = output.outputs.data.float()
    rows = rows[positions] if positions else rows.reshape(1, -1)
    return Completion(
        text="",
        finish_reason="stop",
        prompt_tokens=len(output.prompt_token_ids),
        cached_tokens=output.num_cached_tokens or 0,
        output_tokens=0,
        scores=rows.tolist(),
    )


def _hf_overrides(config: VllmConfig, *, judges: bool) -> dict[str, Any]:
    """Overrides of the model's own config: ours, and the recipe's, which take precedence.

    Raises `RecipeError` if the recipe's are no mapping.
    """
    theirs = config.engine_args.get("hf_overrides") or {}
    if not isinstance(theirs, dict):
        raise RecipeError(
            f"engine_args.hf_overrides of {config.model}: expected a mapping, as "
            f"{{head_dtype: float32}}, found {theirs!r}"
        )
    ours: dict[str, Any] = {}
    if config.label_tokens:
        ours |= {"classifier_from_token": config.label_tokens, "method": "no_post_processing"}
    if judges and config.task == "generate" and config.dtype != "float32":
        ours["head_dtype"] = "float32"  # a scoring model's is float32 already
    return ours | theirs


def _refuse_other_head(config: VllmConfig, model_dir: Path) -> None:
    """Raise `RecipeError` if the model's head does not fit its task. vLLM would score with a random
    head."""
    try:
        names = json.loads((model_dir / "config.json").read_text())["architectures"] or []
    except (OSError, ValueError, KeyError):
        return  # vLLM will report the folder's error
    writes = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)
    if writes and config.task != "generate" and not config.label_tokens:
        trains = "reward" if config.task == "classify" else "prm"
        raise RecipeError(
            f"{config.model} ({', '.join(names)}) has no classification head to score with, as "
            f"task: {config.task} needs; train one with `factory train {trains}`, or name the "
            "label_tokens it answers with"
        )
    if not writes and names and config.task == "generate":
        raise RecipeError(
            f"{config.model} ({', '.join(names)}) scores and does not write; set task: classify "
            "(a reward model) or task: token_classify (a process reward model)"
        )


def _refuse_unknown_tokens(config: VllmConfig, model_dir: Path) -> None:
    """Raise `RecipeError` if a label token is not in the vocabulary. vLLM would read the logits of the
    unknown token instead."""
    from transformers import AutoTokenizer

    vocabulary = AutoTokenizer.from_pretrained(
        model_dir, trust_remote_code=config.trust_remote_code
    ).get_vocab()
    for token in config.label_tokens:
        if token not in vocabulary:
            # A token that follows a space is written with "▁" by SentencePiece, with "Ġ" by BPE.
            near = [spaced for mark in "▁Ġ" if (spaced := mark + token) in vocabulary]
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise RecipeError(f"label_tokens: '{token}' is no token of {config.model}{hint}")


def _cpu_cache_bytes(share: float) -> int:
    """Bytes of KV cache on a CPU: an eighth of the free memory, 256 MiB to 4 GiB."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        kib = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
        available = int(kib) * 1024
    return max(256 << 20, min(4 << 30, int(available * share / 8)))


def _shut_down(engine: Any) -> None:
    with contextlib.suppress(Exception):  # shutting down a dead engine may raise anything
        engine.shutdown()
    # Its __del__ would shut down again while the interpreter exits, and print errors each time.
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
