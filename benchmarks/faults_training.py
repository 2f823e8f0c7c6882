"""A training that is killed at each of its file operations, or in which each fails once, and goes on.

    python -m benchmarks.faults_training [--kinds sft,lora,ppo] [--every 1] [--modes kill,EIO,ENOSPC]

A tiny model with random weights, a few steps, a checkpoint after each. Every open, write, rename, delete
and fsync in the training's folder is hit in turn, whoever makes it (Python, torch's C++, safetensors'
Rust): `faults.c` stands before the C library. A kill at a write comes after half of its bytes. A fault
must end in one `FactoryError` or do no harm; then `--resume` must lead to the weights of a training
that was left alone. Linux, with a C compiler. `--every 7`: each seventh operation.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHIM = "FACTORY_FAULTS_SHIM"
_REFUSED = 3
_STEPS = {"max_steps": 3, "save_steps": 1, "learning_rate": 3e-3, "use_cpu": True}
_TRAININGS: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "sft": ("sft", {"per_device_train_batch_size": 2, "logging_steps": 1}, None),
    "lora": ("sft", {"save_total_limit": 2, "logging_steps": 1}, {"r": 2}),
    "ppo": (
        "ppo",
        {
            "rewards": [{"kind": "length", "target": 4}],
            "rollout_batch_size": 2,
            "max_completion_length": 4,
        },
        None,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", default=",".join(_TRAININGS))
    parser.add_argument("--modes", default="kill,EIO,ENOSPC")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    if SHIM not in os.environ:
        sys.exit(_preloaded(sys.argv[1:]))
    _import_all()
    shim = ctypes.CDLL(os.environ[SHIM])
    shim.faults_count.restype = ctypes.c_long
    bad = 0
    with tempfile.TemporaryDirectory(prefix="factory-faults-") as name:
        folder = Path(name)
        model, data = _made(folder)
        for kind in given.kinds.split(","):
            train = _training(kind, data, model)
            for mode in given.modes.split(","):
                bad += _all_faults(shim, train, folder, kind, mode, given.first, given.every)
    sys.exit(1 if bad else 0)


def _preloaded(arguments: list[str]) -> int:
    """This command again, with the shim before the C library."""
    with tempfile.TemporaryDirectory(prefix="factory-shim-") as folder:
        shim = Path(folder) / "faults.so"
        source = Path(__file__).with_name("faults.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True)
        more = {"LD_PRELOAD": str(shim), SHIM: str(shim), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "benchmarks.faults_training", *arguments]
        return subprocess.run(command, env={**os.environ, **more}, check=False).returncode


def _import_all() -> None:
    """Once, and not in each child. Nothing is computed here: a fork takes no threads along."""
    from importlib import import_module

    for name in (
        "datasets.formatting",
        "factory.training.offline.kto",
        "factory.training.ppo.trainer",
        "factory.training.offline.sft",
        "matplotlib.figure",
        "peft",
        "transformers.models.llama.modeling_llama",
        "trl.trainer.sft_trainer",
    ):
        import_module(name)


def _made(folder: Path) -> tuple[Path, Path]:
    from factory.core import weights
    from tests.tiny import cut_tokenizer, save, save_llama

    tokenizer = cut_tokenizer(weights.embedded_model(), folder / "tokenizer")
    model = save_llama(folder / "model", tokenizer, hidden_size=16, intermediate_size=16)
    rows = [{"prompt": f"Is {n} a number?", "completion": "Yes, it is."} for n in range(8)]
    return model, save(rows, folder / "rows.jsonl")


def _training(kind: str, data: Path, model: Path) -> Callable[[Path, bool], None]:
    from factory.training import TRAINERS

    name, more, lora = _TRAININGS[kind]

    def train(out: Path, resume: bool) -> None:
        TRAINERS[name].train(data, model, out, lora=lora, config=_STEPS | more, resume=resume)

    return train


def _all_faults(
    shim: Any,
    train: Callable[[Path, bool], None],
    folder: Path,
    kind: str,
    mode: str,
    first: int,
    every: int,
) -> int:
    """How many of the faults did harm."""
    whole, operations = folder / f"{kind}-whole", folder / "operations"
    failure = 0 if mode == "kill" else getattr(errno, mode)
    began = time.monotonic()
    left_alone = folder / f"{kind}-operations"
    if not whole.exists():
        code, said = _in_child(shim, train, whole, -1, 0, False, left_alone)
        assert code == 0, said
    count = len(left_alone.read_text().splitlines())
    ends: Counter[str] = Counter()
    bad = 0
    for number in range(first, count, every):
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        code, said = _in_child(shim, train, out, number, failure, False, operations)
        what = next(
            (x for x in operations.read_text().splitlines() if x.startswith(f"{number} ")), "?"
        )
        ends[
            {0: "did no harm", _REFUSED: "one error"}.get(code, "killed" if code < 0 else "?")
        ] += 1
        harm = "" if code in (0, _REFUSED, -signal.SIGKILL) else f"ended with {code}: {said}"
        if not harm:
            code, said = _in_child(shim, train, out, -1, 0, True, folder / "again")
            harm = f"resuming: {code}: {said}" if code else _difference(whole, out)
        if harm:
            bad += 1
            print(f"{kind} {mode} at {what}: {harm}", flush=True)
    told = ", ".join(f"{n} {what}" for what, n in ends.most_common())
    tried, minutes = sum(ends.values()), (time.monotonic() - began) / 60
    line = f"{kind}, {mode} at {tried} of {count} operations ({told}): {bad} bad"
    print(f"{line}; {minutes:.1f} min", flush=True)
    return bad


def _in_child(
    shim: Any,
    train: Callable[[Path, bool], None],
    out: Path,
    number: int,
    failure: int,
    resume: bool,
    operations: Path,
) -> tuple[int, str]:
    """The exit code of a training in a process of its own, negative if a signal ended it, and what it
    said last."""
    said = operations.with_suffix(".said")
    child = os.fork()
    if child == 0:
        code = 1
        with said.open("w") as file, operations.open("w") as log:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            try:
                shim.faults_arm(str(out).encode(), number, failure, log.fileno())
                code = _trained(train, out, resume)
            finally:
                shim.faults_arm(b"", -1, 0, -1)
                os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), "\n".join(said.read_text().splitlines()[-12:])


def _trained(train: Callable[[Path, bool], None], out: Path, resume: bool) -> int:
    from factory.core.errors import FactoryError

    try:
        train(out, resume)
    except FactoryError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return _REFUSED
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _difference(whole: Path, out: Path) -> str:
    """In what the result differs: weights, log and leftovers."""
    for file in sorted(whole.rglob("*.safetensors")):
        other = out / file.relative_to(whole)
        if not other.exists() or _hash(other) != _hash(file):
            return f"{file.relative_to(whole)} differs"
    names = [{str(p.relative_to(x)) for p in x.rglob("*") if p.is_file()} for x in (whole, out)]
    if names[0] != names[1]:
        return f"files differ: {sorted(names[0] ^ names[1])}"
    lines = [_steps(x / "log.jsonl") for x in (whole, out)]
    return "" if lines[0] == lines[1] else f"the log differs: {lines[1]}"


def _steps(log: Path) -> list[Any]:
    import json

    return [(line["step"], line["loss"]) for line in map(json.loads, log.read_text().splitlines())]


def _hash(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
