"""Errors that stop a training, in plain language, with a remedy."""

from __future__ import annotations

import errno
import shutil
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from factory.core.errors import FactoryError, RecipeError
from factory.training.common import checkpoints


class Advice(NamedTuple):
    """A trainer's advice if memory runs out, and the library that its errors come from."""

    library: str = "TRL"
    length: str = "max_length"
    """Name of the option that limits a sequence's length."""
    accumulate: str = " and double gradient_accumulation_steps (the same training)"
    """Text after `halve per_device_train_batch_size`."""
    less_memory: str = ""
    """Further advice, such as `lower num_generations; `."""


# Errors of a full, broken or read-only disk. Others are errors of a wrong path.
_DISK = {
    getattr(errno, name)
    for name in ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EFBIG", "ESTALE", "EACCES", "EPERM", "ENODEV")
    if hasattr(errno, name)
}
# Messages of safetensors (from Rust) and torch (its archive) about it, which are no OSError.
_DISK_WORDS = ("I/O error", "os error", "inline_container", "PytorchStreamWriter", "iostream error")


def in_plain_words(
    error: Exception, model: str, config: Mapping[str, Any], advice: Advice, out: Path | None = None
) -> Exception:
    """The error to raise instead. `out`: the training's folder."""
    from jinja2 import TemplateError

    text = str(error)
    is_out_of_memory = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    if is_out_of_memory or "DefaultCPUAllocator" in text:
        return _out_of_memory(error, config, advice)
    if isinstance(error, TemplateError):
        return FactoryError(
            f"the chat template of {model} refused a conversation: {text}; look for roles it does "
            "not take (system) or two messages of one role in a row"
        )
    if disk := next(filter(_is_of_disk, _chain(error)), None):
        return FactoryError(f"{_first_line(disk)}. {_how_to_go_on(out)}")
    if type(error).__name__ == "SafetensorError":
        return FactoryError(
            f"a file of weights is no whole safetensors file ({text}); look at {model} and get its "
            "weights again"
        )
    if isinstance(error, OSError):
        return FactoryError(f"{type(error).__name__}: {text}")
    library = advice.library
    if isinstance(error, ValueError | NotImplementedError):
        return RecipeError(f"{library} refused this training: {text}")
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" at {Path(frame[0].filename).name}:{frame[0].lineno}" if frame else ""
    given = ", ".join(f"{name}: {value!r:.60}" for name, value in config.items()) or "the defaults"
    return FactoryError(
        f"{library} could not do this training: {_first_line(error)}{place}. Look for a wrong value "
        f"in the config ({given}), then in the data and in the model {model}"
    )


def _out_of_memory(error: Exception, config: Mapping[str, Any], advice: Advice) -> FactoryError:
    batch = config.get("per_device_train_batch_size", "default")
    length = advice.length
    lines = str(error).splitlines()
    return FactoryError(
        f"out of memory (batch {batch}, {length} {config.get(length, 'default')}). "
        "In this order: halve per_device_train_batch_size"
        f"{advice.accumulate}; lower {length}; {advice.less_memory}train an adapter, "
        f"lora: {{r: 16}}. It said: {lines[0] if lines else type(error).__name__}"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, since libraries wrap a disk's errors."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_disk(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _DISK
    return any(word in str(error) for word in _DISK_WORDS)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _how_to_go_on(out: Path | None) -> str:
    """The remedy for a disk's error, and the point from which the training then continues."""
    if out is None:
        return "Make room or fix the disk, then add --resume"
    with_parents = (out, *out.absolute().parents)
    free = shutil.disk_usage(next(path for path in with_parents if path.exists())).free
    checkpoint, _ = checkpoints.newest(out / "checkpoints", reads=False)
    where = f"goes on from {checkpoint.name}" if checkpoint else "starts again"
    return (
        f"Make room where {out} is ({free / 1e9:.1f} GB are free there) or fix the disk; then the same "
        f"command with --resume {where}"
    )
