"""What the experiments share: a public file split by prompt, and the product's own command line."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def split(
    data: Path, prompt_of: Callable[[dict[str, Any]], str], folder: Path, share: float = 0.15
) -> tuple[Path, Path]:
    """Write `train.jsonl` and `held-out.jsonl` into `folder`; a hash of its prompt decides where a
    row goes, so rows of one prompt stay together."""
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = folder / "train.jsonl", folder / "held-out.jsonl"
    with data.open() as rows, train.open("w") as for_training, held_out.open("w") as rest:
        for line in rows:
            digest = hashlib.blake2b(prompt_of(json.loads(line)).encode(), digest_size=4).digest()
            is_held_out = int.from_bytes(digest, "big") < share * 2**32
            (rest if is_held_out else for_training).write(line)
    return train, held_out


def factory(*arguments: object, **settings: object) -> None:
    """Run `factory ARGUMENTS`, each setting as `--set name=value`; stop if it fails."""
    options = [f"--set={name}={value}" for name, value in settings.items()]
    subprocess.run([sys.executable, "-m", "factory", *map(str, arguments), *options], check=True)
