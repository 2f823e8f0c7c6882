"""What `--set bf16=true` saves on this CPU: a training step's passes in float32 and in bfloat16.

    python -m benchmarks.precision [--repeats 5]

The embedded model, 4 sequences of 256 tokens, forward and backward; weights and gradients stay in
float32, as in a training. Both in turn, so that a slow minute is slow for both.
"""

from __future__ import annotations

import argparse
import statistics
import time

from factory.core import weights


def main(repeats: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = weights.resolve(weights.EMBEDDED)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 40_000, (4, 256), generator=generator)

    def seconds(*, is_short: bool) -> float:
        began = time.monotonic()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_short):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        model.zero_grad()
        return time.monotonic() - began

    seconds(is_short=False), seconds(is_short=True)  # the first are slower
    taken = [(seconds(is_short=False), seconds(is_short=True)) for _ in range(repeats)]
    ratios = [short / full for full, short in taken]
    for (full, short), ratio in zip(taken, ratios, strict=True):
        print(f"float32 {full:.2f} s   bfloat16 {short:.2f} s   {ratio:.2f}")
    print(f"median of {repeats}: {statistics.median(ratios):.2f} of the time")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    main(parser.parse_args().repeats)
