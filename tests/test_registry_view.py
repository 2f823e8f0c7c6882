"""What a view of one's own costs: a class, and a line in the registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from factory.core.config import Config
from factory.core.records import Drop, Sample
from factory.export.export import VIEWS, export
from factory.export.features import Features, Value
from factory.recipe.load import load


class Questions(Config):
    """Prompts that ask something, with their length in characters."""

    kind: Literal["questions"] = "questions"
    name: str | None = None

    def rows(self, sample: Sample) -> Iterator[dict[str, Any] | Drop]:
        text = sample.prompt[-1]["content"]
        yield {"characters": float(len(text))} if "?" in text else Drop("no-question")

    def needs(self) -> frozenset[str]:
        return frozenset()

    def features(self) -> Features:
        return Features({"characters": Value("float64")})


def test_a_view_is_a_class_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import load_from_disk

    monkeypatch.setitem(VIEWS, "questions", Questions)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Why?"}\n{"prompt": "So."}\n')
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: mine\nsource: {path: prompts.jsonl}\nmodels: {policy: {model: smollm2-135m-instruct}}\n"
        "stages: [{kind: generate, model: policy}]\nviews: [{kind: questions}]\n"
    )
    views = load(recipe).views
    said = ("Why?", "So.")
    samples = [
        Sample(id=str(i), index=i, prompt=[{"role": "user", "content": text}])
        for i, text in enumerate(said)
    ]
    [report] = export(views, lambda: iter(samples), tmp_path / "out", {})
    assert (report.rows, report.drops) == (1, {"no-question": 1})
    assert load_from_disk(str(tmp_path / "out" / "questions"))[:] == {"characters": [4]}
