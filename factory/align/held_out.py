"""Comparison of a trained model with those before it: all answer held-out prompts, and a judge or a
score compares the answers.

In: a recipe's `evaluation`, and the models by name, first to last. It is a run like any other, so it
resumes and is remembered. Out: figures of each model's answers, and the new one's win rate against each.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from factory.align.divergence import log_ratio
from factory.core import own_code, weights
from factory.core.errors import RecipeError
from factory.core.files import whole
from factory.core.records import Sample
from factory.core.words import words
from factory.core.yamlfile import dump
from factory.pipeline import traces as shards
from factory.pipeline.progress import Progress
from factory.pipeline.run import run
from factory.recipe.load import load
from factory.recipe.recipe import EvaluationConfig, Recipe
from factory.stages.filter import is_refusal
from factory.stats.bootstrap import DIFFERENCE, SHARE, Estimate, Range, interval_of, mean_of
from factory.stats.win_rate import Comparison, WinRate, win_rate

FIRST, PREVIOUS, NEW = "first", "previous", "new"
_EXAMPLES = 3


class Answers(msgspec.Struct, frozen=True):
    """One model's answers to the held-out prompts; shares in [0, 1]."""

    prompts: int
    words: Estimate
    """Mean words per answer."""
    refusals: float
    truncated: float
    """Share of answers cut at max_tokens."""
    scores: dict[str, Estimate]
    """Mean of each score of `evaluation.scores`, over the answers that could be scored."""
    unscored: dict[str, int]


class Change(msgspec.Struct, frozen=True):
    """The new model's figures minus the first's, prompt by prompt, so that shared variation cancels.
    Only prompts with both figures count."""

    words: Estimate
    scores: dict[str, Estimate]
    length_ratio: Estimate = Estimate(None)
    """The new model's words divided by the first's, over all answers. None: the first wrote none."""


class Example(msgspec.Struct, frozen=True):
    """A held-out prompt's last message, and two models' answers to it."""

    prompt: str
    first: str
    new: str


class Evaluation(msgspec.Struct, frozen=True):
    """The new model compared with the others."""

    answers: dict[str, Answers]
    """Model (`first`, `new`, and from the second round on `previous`) -> figures of its answers."""
    against: dict[str, WinRate]
    """Other model -> the new model's win rate against it."""
    change: Change
    log_ratio: Estimate | None
    """Log-ratio of the new to the first model on its own answers, in nats per answer. None: it failed."""
    is_kl: bool
    """True: answers are draws of the model's own distribution, so `log_ratio` estimates the KL."""
    left_out: int
    """Number of prompts that failed and are in no figure. evaluation/quarantine.jsonl has the reasons."""
    compared_by: str | None = None
    """The score that decides who wins. None: a judge decides."""
    examples: list[Example] = []
    """The first few prompts with answers."""


class _Remembered(msgspec.Struct):
    """The contents of round-N/evaluation.json."""

    key: list[str]
    """Everything that decides the figures."""
    evaluation: Evaluation


def evaluate(
    recipe: Recipe, models: Mapping[str, str], out: Path, progress: Progress
) -> Evaluation:
    """Compare the models. `models`: `first`, perhaps `previous`, and `new`, by names valid in any folder.

    The figures are kept in OUT.json and reused as long as nothing that decides them changes.
    """
    whole = evaluation_recipe(recipe, models, out)
    manifest = run(whole, out, progress=progress)
    key = [manifest.digest, manifest.source_digest, str(manifest.rows), str(manifest.quarantined)]
    kept = out.with_name(f"{out.name}.json")
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        remembered = msgspec.json.decode(kept.read_bytes(), type=_Remembered)
        if remembered.key == key:
            return remembered.evaluation
    samples = list(shards.read_samples(out))
    assert recipe.evaluation is not None
    scorers = len(recipe.evaluation.scores)
    is_by_score = recipe.evaluation.judge is None
    score = str(getattr(whole.stages[-scorers], "name", "")) if is_by_score else None
    evaluation = Evaluation(
        answers={name: _answers(samples, name, recipe.seed) for name in models},
        against={
            name: win_rate(
                [found for sample in samples for found in _comparisons(sample, name, score)],
                seed=recipe.seed,
            )
            for name in models
            if name != NEW
        },
        change=_change(samples, recipe.seed),
        log_ratio=_log_ratio(recipe, models, samples, progress),
        is_kl=recipe.evaluation.sampling.is_plain,
        left_out=manifest.quarantined,
        compared_by=score,
        examples=[found for s in samples[:_EXAMPLES] if (found := _example(s)) is not None],
    )
    if evaluation.log_ratio is not None:
        shards.write_json(kept, _Remembered(key, evaluation))
    return evaluation


def _log_ratio(
    recipe: Recipe, models: Mapping[str, str], samples: list[Sample], progress: Progress
) -> Estimate | None:
    assert recipe.evaluation is not None
    config = recipe.models[recipe.evaluation.model]
    answers = [(s, c) for s in samples for c in s.candidates if c.model == NEW]
    try:
        with progress.doing(f"measuring how far {len(answers)} answers are from the first model's"):
            return log_ratio(
                weights.resolve(models[FIRST]),
                weights.resolve(models[NEW]),
                [sample.conversation(candidate) for sample, candidate in answers],
                [candidate.finish_reason == "length" for _, candidate in answers],
                config.chat_template_kwargs,
                trust_remote_code=getattr(config, "trust_remote_code", False),
                seed=recipe.seed,
            )
    except Exception as error:  # a model's own code may raise anything
        # Only one figure of several: hours of training must not be lost for it.
        progress.note(f"no log-ratio to the first model: {type(error).__name__}: {error}")
        return None


def evaluation_recipe(recipe: Recipe, models: Mapping[str, str], out: Path) -> Recipe:
    """The evaluation's recipe, written beside `out` and checked like any recipe."""
    evaluation = recipe.evaluation
    if evaluation is None:
        raise RecipeError(f"{recipe.path} evaluation: there is none")
    written = out.with_name(f"{out.name}.yaml")
    written.parent.mkdir(parents=True, exist_ok=True)
    kinds = [stage.kind for stage in evaluation.scores]
    own_code.copy_along(kinds, recipe.folder, written.parent)
    with whole(written) as half:
        half.write_text(dump(_data(recipe, evaluation, models)), encoding="utf-8")
    return load(written)


def _data(
    recipe: Recipe, evaluation: EvaluationConfig, models: Mapping[str, str]
) -> dict[str, Any]:
    source = evaluation.source.model_dump(mode="json", exclude_defaults=True)
    if (recipe.folder / source["path"]).exists():
        source["path"] = str((recipe.folder / source["path"]).resolve())

    def of(name: str) -> dict[str, Any]:
        config = recipe.models[name]
        dumped = config.model_dump(mode="json", exclude_defaults=True)
        dumped.pop("memory_fraction", None)  # other engines than the recipe's: equal shares
        return {"engine": config.engine, **dumped, "model": recipe.absolute_model(name)}

    generate = {"kind": "generate", "sampling": evaluation.sampling.changed}
    judge = {"kind": "judge", "pairs": "all_pairs", "principles": evaluation.principles}
    kept = {name: of(name) for name in recipe.models if name not in models}
    data: dict[str, Any] = {
        "name": f"{recipe.name}-evaluation",
        "seed": recipe.seed,
        "max_failure_rate": recipe.max_failure_rate,
        "part_size": recipe.part_size,
        "source": source,
        "models": kept | {name: {**of(evaluation.model), "model": m} for name, m in models.items()},
        "stages": [
            *({**generate, "model": name} for name in models),
            *([{**judge, "model": evaluation.judge}] if evaluation.judge else []),
            *(
                stage.model_dump(mode="json", exclude_unset=True, by_alias=False)
                for stage in evaluation.scores
            ),
        ],
    }
    if recipe.constitution and recipe.constitution.path:
        data["constitution"] = str(recipe.constitution.path.resolve())
    return data


def _answers(samples: list[Sample], model: str, seed: int) -> Answers:
    found = [c for s in samples for c in s.candidates if c.model == model]
    values = _words(samples, model)
    scores, unscored = _scores(samples, model)
    return Answers(
        prompts=len(values),
        words=_mean(values, seed),
        refusals=_share([is_refusal(c.text) for c in found]),
        truncated=_share([c.finish_reason == "length" for c in found]),
        scores={
            name: _mean(of, seed, SHARE if _are_claims(of) else None) for name, of in scores.items()
        },
        unscored=unscored,
    )


def _change(samples: list[Sample], seed: int) -> Change:
    def less(new: Mapping[str, float], first: Mapping[str, float]) -> Estimate:
        are_claims = _are_claims(new) and _are_claims(first)
        differences = {id: new[id] - first[id] for id in new if id in first}
        return _mean(differences, seed, DIFFERENCE if are_claims else None)

    (first, _), (new, _) = _scores(samples, FIRST), _scores(samples, NEW)
    lengths = _words(samples, NEW), _words(samples, FIRST)
    return Change(
        words=less(*lengths),
        scores={name: less(values, first.get(name, {})) for name, values in new.items()},
        length_ratio=_length_ratio(*lengths, seed),
    )


def _length_ratio(new: Mapping[str, float], first: Mapping[str, float], seed: int) -> Estimate:
    both = [id for id in new if id in first]
    above, below = (np.array([of[id] for id in both]) for of in (new, first))

    def ratio(weights: Any) -> float | None:
        total = float(weights @ below)
        return float(weights @ above) / total if total else None

    return interval_of(both, ratio, seed=seed)


def _mean(values: Mapping[str, float], seed: int, range_of_values: Range | None = None) -> Estimate:
    return mean_of([*values], [*values.values()], range_of_values=range_of_values, seed=seed)


def _are_claims(values: Mapping[str, float]) -> bool:
    """True if each value is 1 or 0 (right or wrong), so that the mean is a share."""
    return {*values.values()} <= {0.0, 1.0}


def _words(samples: list[Sample], model: str) -> dict[str, float]:
    """Prompt -> number of words in a model's answer."""
    return {s.id: float(words(c.text)) for s in samples for c in s.candidates if c.model == model}


def _scores(
    samples: list[Sample], model: str
) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """For one model: score -> prompt -> value, and score -> number of answers that have none."""
    known: dict[str, dict[str, float]] = {}
    unscored: Counter[str] = Counter()
    for sample in samples:
        for score in sample.scores:
            if sample.candidates[score.candidate].model != model:
                continue
            values = known.setdefault(score.name, {})
            if score.value is None:
                unscored[score.name] += 1
            else:
                values[sample.id] = score.value
    return known, dict(unscored)


def _share(claims: list[bool]) -> float:
    return sum(claims) / len(claims) if claims else 0.0


def _example(sample: Sample) -> Example | None:
    texts = {c.model: c.text for c in sample.candidates}
    if FIRST not in texts or NEW not in texts:
        return None
    return Example(sample.prompt[-1]["content"], texts[FIRST], texts[NEW])


def _comparisons(sample: Sample, other: str, score: str | None) -> list[Comparison]:
    """Comparisons of the new model's answer with the other's: the judge's, or the one by this score."""
    by_model = {c.model: c for c in sample.candidates}
    if other not in by_model or NEW not in by_model:
        return []
    old, new = by_model[other], by_model[NEW]
    found: list[tuple[float | None, bool | None]] = []  # P(new is better), whether orders agree
    if score is not None:
        values = {s.candidate: s.value for s in sample.scores if s.name == score}
        found.append((_p_by_score(values.get(new.index), values.get(old.index)), None))
    else:
        for verdict in sample.verdicts:
            if {verdict.a, verdict.b} == {old.index, new.index}:
                p = verdict.p if verdict.p is None or verdict.a == new.index else 1 - verdict.p
                found.append((p, verdict.is_consistent if verdict.readings else None))
    lengths = words(new.text), words(old.text)
    return [Comparison(sample.id, p, agrees, *lengths) for p, agrees in found]


def _p_by_score(new: float | None, old: float | None) -> float | None:
    """P(new is better) by score: 1, 0, or 0.5 for equal scores. None: a score is missing."""
    if new is None or old is None:
        return None
    return 0.5 if new == old else float(new > old)
