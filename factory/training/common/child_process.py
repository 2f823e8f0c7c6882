"""A training in a process of its own: engines and trainers never share a process's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from factory.core.errors import FactoryError
from factory.core.yamlfile import dump
from factory.engines.reaper import start_reaper
from factory.training.config import TrainingConfig


def train_in_child_process(
    training: TrainingConfig, data: Path, model: str, out: Path
) -> dict[str, Any]:
    """Run `factory train` for a recipe's entry, on the dataset `data`, and return training.json.

    A finished training is not repeated; a stopped one continues. The config is written beside `out`.
    However this process ends, the training ends too.
    Raises `FactoryError` if the training fails, `KeyboardInterrupt` if it was interrupted.
    """
    config = out.with_name(f"{out.name}.yaml")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(dump(training.config), encoding="utf-8")
    command = [sys.executable, "-m", "factory", "train", training.kind, "--resume"]
    command += ["--data", str(data), "--model", model, "--out", str(out), "--config", str(config)]
    if training.lora is not None:
        command += ["--lora", msgspec.json.encode(training.lora).decode()]
    # Its last lines are for users of `factory train`.
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        reaper = start_reaper([process.pid])
        try:
            code = process.wait()
        finally:  # after Ctrl+C, which the training gets too, it is waited for
            process.wait()
            reaper.kill()
            reaper.communicate()
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise FactoryError(f"the training of {out} failed with exit code {code}; see above")
    if (curves := out / "curves.png").exists():
        print(f"  curves: {curves}", file=sys.stderr, flush=True)
    record: dict[str, Any] = msgspec.json.decode((out / "training.json").read_bytes())
    return record
