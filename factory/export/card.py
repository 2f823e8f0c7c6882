"""A view's report and the run's facts -> the dataset card (README.md).

The card holds no model's text and no time of day: the same run writes the same card. Names from the
recipe are set as code, so that none of them can act as Markdown or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import yaml

from factory.export.schemas import MEANINGS
from factory.export.statistics import ViewReport
from factory.export.view import NOTES, REASONS, View
from factory.export.write import FileFormat
from factory.stats.noise import doubts

TITLES = {
    "preference": "pairs of answers, the better one chosen",
    "kto": "single answers labelled good or bad",
    "sft": "prompts, each with an answer worth imitating",
    "reward": "prompts, each with several answers and their scores",
    "process": "solutions, each step labelled right or wrong",
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
REWARD_FUNCTION = '''
def holds_reference(completions, reference, **columns):
    """An example: 1 where the answer holds the reference; None (left out) where there is none."""
    pairs = zip(completions, reference)
    return [None if r is None else float(r in c[0]["content"]) for c, r in pairs]

'''
CUT_SHARE = 0.1
"""Of a stage's answers: above it, a run and a card say what to do about those that were cut."""
FEW_PAIRS = 2_000
"""Gao et al. (2210.10760): a reward model from fewer comparisons is near chance."""


def card(view: View, report: ViewReport, facts: Mapping[str, Any]) -> str:
    """Markdown with YAML front matter. Each of `facts` may be missing."""
    sections = [
        _front_matter(report, facts),
        _title(report, facts),
        _doubts(report),
        _load(report, facts.get("file_format", "arrow")),
        _columns(view, facts),
        _rows(report),
        _cut(facts),
        _thinking(view, report, facts),
        _evidence(report),
        _combined(report),
        _lengths(report),
        _numbers(report),
        _making(view, facts),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(report: ViewReport, facts: Mapping[str, Any]) -> str:
    tags = ["factory", "synthetic", "rlaif"]
    if report.kind in TRAINERS:
        tags += ["trl", TRAINERS[report.kind].lower()]
    header = {
        "pretty_name": " ".join(
            [*([facts["run_name"]] if facts.get("run_name") else []), report.view]
        ),
        "tags": tags,
        "size_categories": [_size(report.rows)],
    }
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---"


def _size(rows: int) -> str:
    """The Hub's name for so many rows."""
    bounds = [("1K", 10**3), ("10K", 10**4), ("100K", 10**5), ("1M", 10**6), ("10M", 10**7)]
    below = "n"
    for name, bound in bounds:
        if rows < bound:
            return f"{below}<{name}" if below == "n" else f"{below}<n<{name}"
        below = name
    return "n>10M"


def _title(report: ViewReport, facts: Mapping[str, Any]) -> str:
    lines = [f"# {_code(report.view)}: {TITLES.get(report.kind, _code(report.kind))}", ""]
    run = f" of the run {_code(facts['run_name'])}" if facts.get("run_name") else ""
    lines.append(
        f"{report.rows:,} rows from {report.prompts:,} prompts{run}. No human labels: the answers "
        "are a model's, and so is every judgement of them."
    )
    if report.kind == "preference" and report.rows < FEW_PAIRS:
        lines += [
            "",
            f"Fewer than {FEW_PAIRS:,} pairs: a reward model trained on these alone is likely to "
            "be near chance (Gao et al. 2022).",
        ]
    return "\n".join(lines)


def _doubts(report: ViewReport) -> str:
    lines = doubts(msgspec.to_builtins(report))
    safe = (re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", line) for line in lines)
    return _section("Reasons to doubt it", "\n".join(f"- {line}" for line in safe)) if lines else ""


def _load(report: ViewReport, file_format: FileFormat) -> str:
    opener, data = "load_from_disk", f'data = load_from_disk("{report.view}")  # this folder'
    if file_format != "arrow":
        reader = {"jsonl": "json"}.get(file_format, file_format)
        files = f"{report.view}/data.{file_format}"
        opener = "load_dataset"
        data = f'data = load_dataset("{reader}", data_files="{files}", split="train")'
    trainer, command = TRAINERS.get(report.kind), COMMANDS.get(report.kind)
    train = f"`factory train {command} --data FOLDER --model MODEL --out OUT`"
    if trainer is None:
        code = _fenced(f"from datasets import {opener}\n\n{data}", "python")
        if command is None:
            return _section("Load", code)
        return _section("Load and train", f"{code}\n\n{train} trains on it.")
    function, argument = ("", "")
    if report.kind == "grpo":
        function, argument = REWARD_FUNCTION, "\n    reward_funcs=holds_reference,"
    code = f"""\
from datasets import {opener}
from trl import {trainer}Config, {trainer}Trainer
{function}
{data}
trainer = {trainer}Trainer(
    model="PATH_OR_HUB_ID",{argument}
    args={trainer}Config(output_dir="{trainer.lower()}-out"),
    train_dataset=data,
)
trainer.train()"""
    if command is None:
        return _section("Load and train", _fenced(code, "python"))
    note = f"Or {train}."
    if report.kind == "preference":
        note += (
            "\n\nTRL's `RewardTrainer` takes these rows too, but works a column named `margin` "
            "into its loss and cannot read a null there; unless you mean that, give it "
            '`data.remove_columns("margin")`.'
        )
    return _section("Load and train", f"{_fenced(code, 'python')}\n\n{note}")


def _columns(view: View, facts: Mapping[str, Any]) -> str:
    names = [*view.features(), *(["extra"] if facts.get("carries") else [])]
    return _section(
        "Columns",
        _table(["column", "holds"], [[_code(name), MEANINGS.get(name, "")] for name in names]),
    )


def _rows(report: ViewReport) -> str:
    rows = [["**kept**", "", f"{report.rows:,}"]]
    for reason, count in report.drops.items():
        rows.append([_code(reason), REASONS.get(reason, ""), f"{count:,}"])
    parts = [_table(["", "why", "rows"], rows)]
    if report.notes:
        noted = [
            [_code(reason), NOTES.get(reason, ""), f"{count:,}"]
            for reason, count in report.notes.items()
        ]
        parts.append(_table(["to know of the rows", "what", "times"], noted))
    return _section("Kept and dropped", "\n\n".join(parts))


def _cut(facts: Mapping[str, Any]) -> str:
    """How many answers did not end, by the stage that asked for them."""
    counts = {
        stage: (cut, answers)
        for stage, (cut, answers) in (facts.get("cut") or {}).items()
        if answers
    }
    if not counts:
        return ""
    rows = [
        [_code(stage), f"{answers:,}", f"{cut:,} ({cut / answers:.1%})"]
        for stage, (cut, answers) in counts.items()
    ]
    parts = [_table(["stage", "answers", "cut"], rows)]
    if many := [stage for stage, (cut, answers) in counts.items() if cut > CUT_SHARE * answers]:
        parts.append(
            f"More than {CUT_SHARE:.0%} in {', '.join(map(_code, many))}: raise "
            "`sampling.max_tokens` there, or ask for shorter answers."
        )
    return _section("Answers cut at max_tokens", "\n\n".join(parts))


def _thinking(view: View, report: ViewReport, facts: Mapping[str, Any]) -> str:
    """What was thought before the answers, and where it is in the rows."""
    if not report.thinking:
        return ""
    rows = [
        [
            _code(name),
            f"{each.answers:,}",
            f"{each.with_thought:,}",
            f"{each.unended:,}",
            *(
                "" if mean is None else f"{mean:.0f}"
                for mean in (each.mean_thought_tokens, each.mean_answer_tokens)
            ),
        ]
        for name, each in report.thinking.items()
    ]
    header = ["model", "answers", "with a thought", "thought never ended"]
    header += ["mean tokens of a thought", "of an answer"]
    parts = [
        "Answers are judged, scored and compared without what their model thought before them. An "
        "answer whose thought never ended is none.",
        _table(header, rows),
    ]
    form = facts.get("thoughts")
    if form is None:
        parts.append(
            "Thoughts are not in the rows"
            + (" (`reasoning: drop`)." if hasattr(view, "reasoning") else ".")
        )
    elif form.key:
        parts.append(
            f"Thoughts are in the rows (`reasoning: keep`), in the key {_code(form.key)} of an "
            f"answer's message, from where the chat template of {_code(facts.get('thoughts_for'))} "
            "writes them. Train a model whose template reads that key."
        )
    else:
        parts.append(
            f"Thoughts are in the rows (`reasoning: keep`): an answer's content begins with one, as "
            f"{_code(form.describe())}"
            + (
                f", which the chat template of {_code(facts['thoughts_for'])} keeps."
                if facts.get("thoughts_for")
                else ". The run had no chat template at hand: train a model whose template keeps it."
            )
        )
    return _section("Thoughts and answers", "\n\n".join(parts))


def _evidence(report: ViewReport) -> str:
    parts = []
    if report.judges:
        parts.append(
            "Every verdict in the traces, also those that made no row. Each pair is shown in both "
            "orders; a flip is a verdict whose two orders prefer different answers."
        )
        header = ["judge", "verdicts", "unparsed", "order flips", "mean order gap", "read by"]
        rows = [
            [
                _code(name),
                f"{judge.verdicts:,}",
                f"{judge.unparsed:,}",
                "" if judge.flip_rate is None else f"{judge.flips:,} ({judge.flip_rate:.1%})",
                "" if judge.mean_order_gap is None else f"{judge.mean_order_gap:.3f}",
                "" if judge.reading is None else judge.reading.text(),
            ]
            for name, judge in report.judges.items()
        ]
        parts.append(_table(header, rows))
    if report.agreements:
        parts.append(
            "Two judges on the same pairs: how often both prefer the same answer or call a tie, and "
            "Cohen's kappa (1: always; 0: as often as by chance)."
        )
        rows = [
            [
                f"{_code(each.first)}, {_code(each.second)}",
                f"{each.comparisons:,}",
                f"{each.share:.1%}",
                "" if each.kappa is None else f"{each.kappa:.2f}",
            ]
            for each in report.agreements
        ]
        parts.append(_table(["judges", "pairs", "agreement", "kappa"], rows))
    if report.scores:
        rows = [
            [
                _code(name),
                f"{score.scores:,}",
                f"{score.unparsed:,}",
                "" if score.reading is None else score.reading.text(),
            ]
            for name, score in report.scores.items()
        ]
        parts.append(_table(["score", "values", "unparsed", "read by"], rows))
    return _section("Quality of the judge", "\n\n".join(parts)) if parts else ""


def _combined(report: ViewReport) -> str:
    parts = []
    for measured in report.combinations:
        made = measured.combination
        unit = "standardised over the run" if made.standardise else "as they are"
        what = {
            "weights": "the weighted sum",
            "minimum": "the lowest",
            "mean_minus_variance": f"the mean less {made.penalty:g} times the variance",
        }[made.how]
        parts.append(f"{_code(made.name)} is {what} of these scores, {unit}.")
        has_weights = made.how == "weights"
        header = ["score", *(["weight"] if has_weights else []), "values", "mean", "std"]
        rows = [
            [
                _code(part),
                *([f"{weight:g}"] if has_weights else []),
                f"{(moments := measured.moments[part]).count:,}",
                "" if moments.mean is None else f"{moments.mean:.4g}",
                "" if moments.std is None else f"{moments.std:.4g}",
            ]
            for part, weight in made.parts.items()
        ]
        parts.append(_table(header, rows))
        flat = [_code(part) for part, moments in measured.moments.items() if moments.std == 0]
        if flat and made.standardise:
            parts.append(
                f"{', '.join(flat)} never varies, so it tells nothing and counts as 0 everywhere."
            )
    return _section("Combined scores", "\n\n".join(parts)) if parts else ""


def _lengths(report: ViewReport) -> str:
    length = report.length
    if length is None:
        return ""
    return _section(
        "Length baseline",
        f"The chosen answer is the longer one in {length.share_longer:.1%} of pairs "
        f"({length.chosen_longer:,} of {length.pairs:,}; {length.same_length:,} of equal length). "
        f"Mean length: chosen {length.mean_words_chosen:.1f} words, rejected "
        f"{length.mean_words_rejected:.1f}. A share far from 50% means that a model can fit the "
        "pairs by length alone.",
    )


def _numbers(report: ViewReport) -> str:
    rows = [
        [
            _code(name),
            f"{spread.count:,}",
            *(f"{x:.4g}" for x in (spread.mean, spread.min, spread.q1)),
            *(f"{x:.4g}" for x in (spread.median, spread.q3, spread.max)),
        ]
        for name, spread in report.spreads.items()
    ]
    header = ["", "count", "mean", "min", "first quartile", "median", "third quartile", "max"]
    lines = [_table(header, rows)] if rows else []
    lines += [
        f"{_code(name)} is true in {share:.1%} of rows." for name, share in report.shares.items()
    ]
    if report.best_of_n is not None:
        lines.append(
            f"Each row's answer is the best of n, on average of {report.best_of_n.mean_n:.1f}. If "
            "the n were drawn independently from one model, this data is at most "
            f"{report.best_of_n.mean_kl:.3f} nats from it (KL, the mean of log n - (n - 1)/n)."
        )
    return _section("Numbers", "\n\n".join(lines)) if lines else ""


def _making(view: View, facts: Mapping[str, Any]) -> str:
    parts = ["\n".join(f"- {line}" for line in _provenance(facts))]
    parts.append(
        "This view of the traces:\n\n"
        + _fenced(yaml.safe_dump(view.model_dump(mode="json"), sort_keys=False), "yaml")
    )
    if facts.get("recipe"):
        parts.append(
            "<details>\n<summary>The recipe</summary>\n\n"
            + _fenced(str(facts["recipe"]), "yaml")
            + "\n\n</details>"
        )
    return _section("How it was made", "\n\n".join(part for part in parts if part))


def _provenance(facts: Mapping[str, Any]) -> Iterator[str]:
    if version := facts.get("factory_version"):
        yield f"factory {_code(version)}"
    if constitution := facts.get("constitution"):
        yield (
            f"constitution {_code(constitution.get('name'))}, "
            f"version {_code(constitution.get('version'))}, "
            f"digest {_code(constitution.get('digest'))}"
        )
    for name, model in (facts.get("models") or {}).items():
        yield (
            f"model {_code(name)}: {_code(model.get('model'))}, "
            f"fingerprint {_code(model.get('fingerprint'))}"
        )
    if (reproducible := facts.get("reproducible")) is not None:
        yield (
            "the engine was seeded for every sampled call (`reproducible: true`)"
            if reproducible
            else "the engine was not seeded: made anew, sampled texts would be others"
        )
    if counts := facts.get("counts"):
        yield f"{counts.get('samples', 0):,} samples, {counts.get('quarantined', 0):,} quarantined"
    if tokens := facts.get("tokens"):
        yield (
            f"{tokens.get('prompt', 0):,} prompt tokens, {tokens.get('output', 0):,} output tokens"
        )


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks within."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _code(text: object) -> str:
    """A name as inline code, safe in a table; characters that would end either become spaces."""
    safe = re.sub(r"[`|\s]", " ", str(text)).strip()
    return f"`{safe}`" if safe else ""
