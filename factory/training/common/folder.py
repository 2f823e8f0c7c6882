"""The folder of a training: its files, and the check whether this training may continue in it.

    OUT/
      job.json         what is trained on what; written first
      checkpoints/     checkpoint-N/: weights, optimizer, random states; to resume from; see
                       `checkpoints`
      log.jsonl        one line a logging step, TRL's names
      curves.png, curves.svg   drawn from it
      config.json, *.safetensors, tokenizer*   the trained model
      adapter/         the LoRA adapter, if there is one
      training.json    the record; written last: without it the training is not finished

The model's files are moved in from a temporary folder once all are on disk, config.json last, and
no library loads a folder without config.json: the model is whole or absent.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from factory.core.errors import FactoryError
from factory.core.files import sync, write_whole
from factory.core.lock import LOCK, alone_in, refuse_if_held
from factory.training.common import checkpoints, options, references

_TEMPORARY = ".weights-"
_HALF = re.compile(r"\.(job\.json|training\.json|quality\.json|log\.jsonl)(\.\d+)?")
"""Temporary files that a kill leaves."""


class Job(msgspec.Struct, frozen=True):
    """Everything that decides a training's result. Jobs that differ only in paths are the same."""

    kind: str
    data: str
    data_fingerprint: str
    model: str
    model_fingerprint: str
    lora: dict[str, Any] | None
    config: dict[str, Any]
    """The config as the user gave it."""
    contents: dict[str, str] = {}
    """`references.contents` of the config."""

    batch: int | None = None
    """Sequences per step: processes x per_device_train_batch_size x gradient_accumulation_steps. None:
    not known yet. With a different number, a continued training would skip the wrong rows."""

    def difference(self, other: Job) -> str:
        """The first difference of `other`, in words; empty if it is the same training. For a path in the
        config whose contents are known, the contents count, not the path."""
        if self.kind != other.kind:
            return f"kind {other.kind}, not {self.kind}"
        if self.data_fingerprint != other.data_fingerprint:
            return f"on other data ({other.data})"
        if self.model_fingerprint != other.model_fingerprint:
            return f"of another base model ({other.model})"
        if (mine := _scaled(self.lora)) != (theirs := _scaled(other.lora)):
            return f"with lora {theirs}, not {mine}"
        here, there = (references.without(job.config, job.contents) for job in (self, other))
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                return f"with config.{name} {other.config.get(name)}, not {self.config.get(name)}"
        for name in sorted(self.contents.keys() & other.contents.keys()):
            if self.contents[name] != other.contents[name]:
                return f"with another content of config.{name}"
        if self.batch != other.batch and None not in (self.batch, other.batch):
            return f"of {other.batch} sequences a step, not {self.batch} (processes x batch x accumulation)"
        return ""


def _scaled(lora: dict[str, Any] | None) -> dict[str, Any] | None:
    """`lora` with peft's `lora_alpha` if it has none, as in jobs of older versions."""
    return None if lora is None else {"lora_alpha": options.PEFT_ALPHA, **lora}


class TrainingFolder:
    """One training's folder. Nothing is written before it is `held`."""

    def __init__(self, path: Path, job: Job) -> None:
        """Raises `FactoryError` if the folder holds anything except this training."""
        self.path = path
        self.job = job
        if path.exists() and not path.is_dir():
            raise FactoryError(f"--out {path} is a file; name a folder")
        if os.environ.get("RANK", "0") == "0":  # of those that `accelerate launch` started
            refuse_if_held(path)
        self._refuse_others()

    def _refuse_others(self) -> None:
        path = self.path
        # Files that a training makes before job.json, which a kill may leave.
        checkpoint, _ = checkpoints.newest(self.checkpoints, reads=False)
        early = {LOCK} if checkpoint else {LOCK, self.checkpoints.name}
        names = sorted(
            p.name
            for p in (path.iterdir() if path.is_dir() else ())
            if p.name not in early and not _is_half(p)
        )
        if names and "job.json" not in names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise FactoryError(
                f"--out {path} holds something that is not a training ({shown}); "
                "name another folder, or empty this one"
            )
        if names and (difference := self.job.difference(_read(path / "job.json", Job))):
            raise FactoryError(
                f"--out {path} holds another training, {difference}; "
                "name another folder, or delete this one"
            )

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    def record(self) -> dict[str, Any] | None:
        """training.json, if it is finished. Raises `FactoryError` for weights missing or of another size."""
        path = self.path / "training.json"
        if not path.exists():
            return None
        record: dict[str, Any] = _read(path, dict[str, Any])
        for name, size in record.get("weights_bytes", {}).items():
            file = self.path / name
            has = file.stat().st_size if file.is_file() else None
            if has != size:
                found = "is gone" if has is None else f"has {has} bytes, not {size}"
                raise FactoryError(
                    f"{file} {found}: this finished training has lost its weights; put the file back, "
                    f"or delete {self.path} to train again"
                )
        return record

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder while this process trains in it, with job.json written. Raises `FactoryError` if
        another process trains in it, or has begun another training there meanwhile."""
        with alone_in(self.path):
            self._refuse_others()
            for leftover in self.path.glob(f"{_TEMPORARY}*"):
                shutil.rmtree(leftover)
            for leftover in filter(_is_half, self.path.iterdir()):
                leftover.unlink()
            write_whole(self.path / "job.json", msgspec.to_builtins(self.job))
            yield
            (self.path / LOCK).unlink(missing_ok=True)

    @contextmanager
    def publishing(self) -> Iterator[Path]:
        """Yield a temporary folder, whose files are moved into place at the end of the block."""
        with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=self.path) as name:
            yield Path(name)
            for file in Path(name).rglob("*"):
                sync(file)
            for item in sorted(Path(name).iterdir(), key=lambda p: (p.name == "config.json", p)):
                target = self.path / item.name
                if target.is_dir():
                    shutil.rmtree(target)
                item.replace(target)
            sync(self.path)

    def finish(self, record: dict[str, Any], *, keep_checkpoints: bool) -> None:
        write_whole(self.path / "training.json", record)
        if not keep_checkpoints:
            shutil.rmtree(self.checkpoints, ignore_errors=True)


def _is_half(path: Path) -> bool:
    return _HALF.fullmatch(path.name) is not None


def _read(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise FactoryError(
            f"{path} cannot be read: {error}; name another folder for --out"
        ) from error
