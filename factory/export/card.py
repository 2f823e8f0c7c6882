"""A view's report and the run's facts -> the dataset card (README.md).

What it says is in `card.md.jinja`. It holds no model's text and no time of day: the same run writes
the same card. Names from the recipe are set as code, so that none of them can act as Markdown or HTML.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from factory.export.report import ViewReport
from factory.export.schemas import MEANINGS
from factory.export.view import NOTES, REASONS, View
from factory.stats.noise import doubts

TITLES = {
    "preference": "pairs of answers, the better one chosen",
    "kto": "single answers labeled good or bad",
    "sft": "prompts, each with an answer worth imitating",
    "reward": "prompts, each with several answers and their scores",
    "process": "solutions, each step labeled right or wrong",
    "grpo": "prompts to train on by trial and reward",
}
TRAINERS = {"preference": "DPO", "kto": "KTO", "sft": "SFT", "grpo": "GRPO"}
"""By kind of view: TRL's trainer, without `Config` or `Trainer`."""
COMMANDS = {
    "preference": "dpo",
    "kto": "kto",
    "sft": "sft",
    "reward": "reward",
    "process": "prm",
    "grpo": "grpo --set 'rewards=[{kind: verify}]'",
}
"""By kind of view: what `factory train` calls it."""
CUT_SHARE = 0.1
"""Of a stage's answers: above it, a run and a card say what to do about those that were cut."""
FEW_PAIRS = 2_000
"""Gao et al. (2210.10760): a reward model from fewer comparisons is near chance."""


def card(view: View, report: ViewReport, facts: Mapping[str, Any]) -> str:
    """Markdown with YAML front matter. Each of `facts` may be missing."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": _code, "fenced": _fenced, "number": _number, "plain": _plain}
    cuts = facts.get("cut") or {}
    cuts = {stage: (cut, answers) for stage, (cut, answers) in cuts.items() if answers}
    return environment.get_template("card.md.jinja").render(
        front_matter=_front_matter(report, facts),
        view=view,
        view_yaml=yaml.safe_dump(view.model_dump(mode="json"), sort_keys=False),
        report=report,
        facts=facts,
        title=TITLES.get(report.kind),
        doubts=doubts(msgspec.to_builtins(report)),
        file_format=facts.get("file_format", "arrow"),
        trainer=TRAINERS.get(report.kind),
        command=COMMANDS.get(report.kind),
        columns=[*view.features(), *(["extra"] if facts.get("carries") else [])],
        cut=cuts,
        often_cut=[name for name, (cut, answers) in cuts.items() if cut > CUT_SHARE * answers],
        cut_share=CUT_SHARE,
        few_pairs=FEW_PAIRS,
        meanings=MEANINGS,
        reasons=REASONS,
        notes=NOTES,
    )


def _front_matter(report: ViewReport, facts: Mapping[str, Any]) -> str:
    """What the Hub reads of the card."""
    from huggingface_hub import DatasetCardData

    trainer = TRAINERS.get(report.kind)
    data = DatasetCardData(
        pretty_name=" ".join(filter(None, [facts.get("run_name"), report.view])),
        tags=["factory", "synthetic", "rlaif", *(["trl", trainer.lower()] if trainer else [])],
        size_categories=[_size(report.rows)],
    )
    return data.to_yaml()


def _size(rows: int) -> str:
    """The Hub's name for so many rows."""
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "n>10M")
    return names[bisect_right([10**n for n in range(3, 8)], rows)]


def _number(value: float | None, form: str = ",") -> str:
    """Nothing where there is none."""
    return "" if value is None else format(value, form)


def _plain(text: str) -> str:
    """A line of text in which nothing acts as Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks within."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def _code(text: object) -> str:
    """A name as inline code, safe in a table; characters that would end either become spaces."""
    safe = re.sub(r"[`|\s]", " ", str(text)).strip()
    return f"`{safe}`" if safe else ""
