"""A reward model trained on a CPU in some 20 minutes, evaluated on prompts that it did not see.

    python -m benchmarks.reward_model --data hh_harmless.jsonl [--out runs/reward-model]

`--data`: JSON lines with `chosen` and `rejected`, transcripts as in anthropics/hh-rlhf. Everything
goes through the command line: `factory train reward`, then `factory eval reward`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.experiment import factory, split

TRAINING = {
    "bf16": "true",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "max_steps": 140,
    "max_length": 320,
    "learning_rate": 2e-5,
    "warmup_steps": 10,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/reward-model"))
    given = parser.parse_args()
    train, held_out = split(given.data, _first_message, given.out / "data")
    model = given.out / "model"
    base = "smollm2-135m-instruct"
    factory(
        "train", "reward", "--data", train, "--model", base, "--out", model, "--resume", **TRAINING
    )
    report = given.out / "report.json"
    work = given.out / "eval"
    factory("eval", "reward", "--data", held_out, "--model", model, "--work", work, "--out", report)


def _first_message(row: dict[str, str]) -> str:
    return row["chosen"].split("\n\nAssistant:")[0]


if __name__ == "__main__":
    main()
