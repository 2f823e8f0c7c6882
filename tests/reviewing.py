"""A finished run, written without an engine, whose pairs tests review."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from factory.core.records import Candidate, Sample, Verdict
from factory.pipeline import traces
from factory.pipeline.manifest import Manifest
from tests.conftest import CONSTITUTION, RECIPE


def made_run(run: Path, samples: Sequence[Sample], **view: Any) -> Path:
    """A run with these samples and one preference view."""
    run.mkdir(parents=True)
    (run / "prompts.jsonl").write_text('{"prompt": "unused"}\n')
    (run / "kind.yaml").write_text(yaml.safe_dump(CONSTITUTION))
    stages = [*RECIPE["stages"][:1], {"kind": "judge", "model": "policy", "pairs": "all_pairs"}]
    views = [{"kind": "preference", "pairs": "all_pairs", **view}]
    recipe = {**RECIPE, "stages": stages, "views": views}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    part = traces.write_part(run, 0, samples)
    count = len(samples)
    Manifest(
        digest="made",
        source_digest="made",
        part_size=10_000,
        state="finished",
        parts=1,
        rows=count,
        samples=count,
        trace_parts=[part],
    ).save(run)
    return run


def judged(index: int, p: float | None, *texts: str, **more: Any) -> Sample:
    """A prompt with two answers, and the judge's P(the first is better)."""
    first, second = texts or (f"Yes, to number {index}.", f"No, not to number {index}.")
    answers = [Candidate(i, t, "generate", "policy", "") for i, t in enumerate((first, second))]
    is_consistent = more.pop("is_consistent", True)
    verdict = Verdict("judge", 0, 1, p, 0.1, is_consistent, 1.0, ["kind-words"], [])
    prompt = [{"role": "user", "content": f"Is {index} a number?"}]
    return Sample(f"p{index}", index, prompt, candidates=answers, verdicts=[verdict], **more)
