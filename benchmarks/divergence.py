"""The noise of the log-ratio between two models that hardly differ, by the precision computed in.

    python -m benchmarks.divergence [--answers 16]

The embedded model beside itself with every weight moved by noise of 0.2% of its matrix' deviation, both
saved in bfloat16; the answers are texts of some hundred tokens. Errors are against float64.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from factory.align.divergence import answer_ids, compute_in_float32, log_probability
from factory.core import weights
from factory.training.common.save import rounded

PROMPTS = Path(__file__).parents[1] / "pipelines" / "prompts"
SENTENCES = 6  # of an answer


def moved(base: Path, folder: Path) -> Path:
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(base, folder)
    generator = torch.Generator().manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            moved_by = 2e-3 * weight.std() * noise
            weight.data = rounded(weight + moved_by, torch.bfloat16, generator)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def texts(name: str) -> list[str]:
    lines = (PROMPTS / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def log_probabilities(folder: Path, dtype: str, rows: list[tuple[list[int], list[int]]]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    load = "bfloat16" if dtype == "ours" else dtype
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, load)).eval()
    if dtype == "ours":
        compute_in_float32(model)
    found = []
    with torch.no_grad():
        for prompt, answer in rows:
            if dtype == "float64":
                ids = torch.tensor([prompt + answer])
                logits = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                found.append(float(logits.gather(-1, ids[0, len(prompt) :, None]).sum()))
            else:
                found.append(log_probability(model, prompt, answer))
    return torch.tensor(found, dtype=torch.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=16)
    count = parser.parse_args().answers
    from transformers import AutoTokenizer

    base = weights.embedded_model()
    tokenizer = AutoTokenizer.from_pretrained(base)
    said = texts("everyday.jsonl")
    rows = []
    for i, prompt in enumerate(texts("held-out.jsonl")[:count]):
        answer = " ".join(said[(5 * i + k) % len(said)] for k in range(SENTENCES))
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        rows.append(answer_ids(tokenizer, turns, {}, is_cut=True))
    with tempfile.TemporaryDirectory(prefix="factory-divergence-") as name:
        new = moved(base, Path(name) / "moved")
        ratios = {
            dtype: log_probabilities(new, dtype, rows) - log_probabilities(base, dtype, rows)
            for dtype in ("float64", "bfloat16", "float32", "ours")
        }
    truth = ratios["float64"]
    for dtype, found in ratios.items():
        error = found - truth
        print(
            f"{dtype:<9} mean {found.mean():+.4f} nats an answer; error: mean {error.mean():+.4f}, "
            f"deviation {error.std():.4f}, largest {error.abs().max():.4f}"
        )


if __name__ == "__main__":
    main()
