"""A process reward model trained on a CPU in some 20 minutes, evaluated on problems it did not see.

    python -m benchmarks.process_model --data prm_steps.jsonl [--out runs/process-model]
    python -m benchmarks.process_model --generated [--out runs/process-model-sums]

`--data`: PRM800K's own JSON lines. `--generated`: chains of sums made by `reasoning-gym`, each right
once and wrong twice by a known step (stage `corrupt`); other seeds for training than for evaluation.
Everything goes through the command line: `factory run`, `factory train prm`, `factory eval process`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.experiment import factory, split

TRAINING = {
    "bf16": "true",
    "per_device_train_batch_size": 8,
    "max_steps": 80,
    "max_length": 384,
    "learning_rate": 2e-5,
    "warmup_steps": 10,
}
SUMS = """\
name: sums
seed: {seed}
source:
  path: reasoning-gym:chain_sum
  limit: {rows}
  options: {{seed: {seed}, min_terms: 4, max_terms: 7, min_digits: 1, max_digits: 2}}
models: {{none: {{model: smollm2-135m-instruct}}}}
stages: [{{kind: corrupt, n: 2}}]
views: [{{kind: process, steps: known}}]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--generated", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=TRAINING["max_steps"])
    parser.add_argument("--learning-rate", type=float, default=TRAINING["learning_rate"])
    given = parser.parse_args()
    if given.generated:
        out = given.out or Path("runs/process-model-sums")
        train, held_out = (_sums(out, seed, rows) for seed, rows in ((1, 1500), (2, 100)))
    elif given.data:
        out = given.out or Path("runs/process-model")
        train, held_out = split(given.data, _problem, out / "data")
    else:
        parser.error("give --data FILE or --generated")
    model = out / "model"
    base = "smollm2-135m-instruct"
    settings = {**TRAINING, "max_steps": given.steps, "learning_rate": given.learning_rate}
    factory(
        "train", "prm", "--data", train, "--model", base, "--out", model, "--resume", **settings
    )
    report = out / "report.json"
    work = out / "eval"
    factory(
        "eval", "process", "--data", held_out, "--model", model, "--work", work, "--out", report
    )


def _problem(row: dict[str, dict[str, str]]) -> str:
    return row["question"]["problem"]


def _sums(out: Path, seed: int, rows: int) -> Path:
    recipe = out / f"sums-{seed}.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(SUMS.format(seed=seed, rows=rows))
    run = out / f"sums-{seed}"
    factory("run", recipe, "--out", run)
    return run / "datasets" / "process"


if __name__ == "__main__":
    main()
