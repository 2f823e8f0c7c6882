"""Starting vLLM in this process, and ending it."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factory.core.errors import RecipeError
from factory.engines.vllm_config import VllmConfig

_CPU_SEQUENCES = 64  # throughput on CPUs does not grow beyond
_CPU_BLOCK = 32  # tokens; vLLM's default on CPUs is 128, which misses short shared prefixes


def start(args: dict[str, Any], log: Path) -> Any:
    """Start an engine. All that it prints goes to `log`."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    cores = sorted(os.sched_getaffinity(0))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
    os.environ.setdefault("OMP_NUM_THREADS", str(len(cores)))
    spare_the_compiler()
    with _output_to(log):
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        # vLLM's later log lines in this process (such as an engine's death) go to its log too.
        logging.getLogger("vllm").handlers = [logging.FileHandler(log)]
        with _main_module_hidden():
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**args))


def _has_bfloat16() -> bool:
    """False if this CPU only emulates bfloat16, which takes five times as long as float32 (AVX2 alone)."""
    import torch

    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a build without oneDNN
        return True


def shut_down(engine: Any) -> None:
    with contextlib.suppress(Exception):  # shutting down a dead engine may raise anything
        engine.shutdown()
    # Its __del__ would shut down again while the interpreter exits, and print errors each time.
    engine.shutdown = lambda *_: None


def engine_args(
    config: VllmConfig, model_dir: Path, share: float, hf_overrides: dict[str, Any]
) -> dict[str, Any]:
    """Arguments of vLLM's AsyncEngineArgs. `share`: as in `VllmEngine`."""
    from vllm.platforms import current_platform

    args: dict[str, Any] = {
        "model": str(model_dir),
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
        args["kv_cache_memory_bytes"] = _cpu_cache_bytes(share)
        if config.dtype == "auto" and not _has_bfloat16():
            args["dtype"] = "float32"
    else:
        args["gpu_memory_utilization"] = config.memory_fraction or 0.9 * share
    if config.task != "generate":
        args["runner"] = "pooling"
        args["enable_prefix_caching"] = config.task == "classify"  # each step's output is wanted
    if config.label_tokens:
        args["convert"] = "classify"
    args |= config.engine_args
    if hf_overrides:
        args["hf_overrides"] = hf_overrides
    return args


def hf_overrides(config: VllmConfig, *, judges: bool) -> dict[str, Any]:
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


def _cpu_cache_bytes(share: float) -> int:
    """Bytes of KV cache on a CPU: an eighth of the free memory, 256 MiB to 4 GiB."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        kib = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
        available = int(kib) * 1024
    return max(256 << 20, min(4 << 30, int(available * share / 8)))


def spare_the_compiler() -> None:
    """Sample uncompiled if there is no C++ compiler, 20% slower at 64 sequences. On CPUs vLLM compiles
    its sampler at the first unseeded batch (16 s, then cached: 3 s), and dies without a compiler."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


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
