"""Quality-conditioned training data: every answer is kept, and the user's text states its quality.

Asked for the best quality afterward, a model answers like the best answers it saw. Out: rows of prompt
and completion, where a *prefix* (words, not new tokens, and not in the loss) ends the last user message,
after an empty line; in a plain-text prompt it ends the text, followed by a newline.

- `good_bad`: a preference view; chosen after "A good answer:", rejected after "A bad answer:". After
  Chain of Hindsight (Liu et al. 2023, arXiv 2302.02676), which puts both answers into one sequence.
- `quantile`: scored answers; "Quality k of n:", k = ceil(n * share of the scores that are at most
  this one), so that the best are always n and equal scores have one prefix. After Quark (Lu et al.
  2022, arXiv 2205.13635), without its KL penalty and its rounds of fresh samples.
- `score`: answers with whole scores; "Score s of max:".

Scored answers are rows of prompt, completion and `score`, or a reward view's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from factory.core.errors import RecipeError
from factory.training.common.data import VIEWS, Opened, open_dataset
from factory.training.common.endings import REASONS
from factory.training.offline.encoding import (
    NO_SCORE,
    ScoredAnswer,
    answer_text,
    number,
    responses_of,
)

if TYPE_CHECKING:
    from datasets import Dataset


class QualityOptions(Protocol):
    """Those of `sft.SFTConfig` that are read here."""

    quality: str
    good_prefix: str
    bad_prefix: str
    quantiles: int
    max_score: int | None


_SEPARATOR = "\n\n"
_QUANTILE = "Quality {} of {}:"
_SCORE = "Score {} of {}:"


@dataclass(frozen=True)
class Conditioned:
    """The rows to train on, and how to ask the model afterward."""

    answers: Dataset
    """A row for each answer in the data, with a score or without."""
    rows: Dataset
    """prompt, with its prefix, and completion; one for each answer that has a score."""
    left_out: dict[str, int]
    quality: dict[str, Any]
    """The contents of quality.json: `append`, the text to add to the last user message to ask for the
    best; `prefixes`, each with its number of answers and their lowest and highest score."""


def open_rows(kind: str, data: Path | str, config: Mapping[str, Any]) -> Opened:
    """The dataset. Where answers are conditioned, `condition` looks for the columns."""
    is_conditioned = config.get("quality") not in (None, "none")
    return open_dataset(data, kind, ("prompt",) if is_conditioned else VIEWS["sft"])


def condition(dataset: Dataset, args: QualityOptions) -> Conditioned:
    """Add the prefixes. Raises `RecipeError` for a dataset that lacks what `args.quality` needs."""
    if args.quality == "good_bad":
        return _good_bad(dataset, args)
    answers = _scored(dataset, args.quality)
    known = answers.filter(lambda row: row["score"] is not None)
    scores: list[float] = known["score"][:]
    if len(set(scores)) < 2:
        found = f"all {len(scores)} scores are {scores[0]:g}" if scores else "no answer has a score"
        raise RecipeError(f"config.quality {args.quality}: {found}: there is nothing to tell apart")
    prefixes = _quantiles(scores, args) if args.quality == "quantile" else _scores(scores, args)
    best = prefixes[scores.index(max(scores))]
    rows, record = _asked(known, prefixes, best, args.quality, scores)
    return Conditioned(answers, rows, {NO_SCORE: len(answers) - len(known)}, record)


def last_user_asks(prompt: Any, prefix: str, index: int = 0) -> Any:
    """`prompt`, messages or text, with `prefix` as the last thing the user says.

    >>> last_user_asks([{"role": "user", "content": "Why?"}], "A good answer:")
    [{'role': 'user', 'content': 'Why?\\n\\nA good answer:'}]
    """
    if isinstance(prompt, str):
        return f"{prompt}{_appended(prompt, prefix)}"
    places = [place for place, message in enumerate(prompt) if message["role"] == "user"]
    if not places:
        raise RecipeError(f"row {index}: no user message to put '{prefix}' into")
    last = prompt[places[-1]]
    asked = last | {"content": last["content"] + _appended(prompt, prefix)}
    return [*prompt[: places[-1]], asked, *prompt[places[-1] + 1 :]]


def quantiles(scores: Sequence[float], parts: int) -> list[int]:
    """The part of each score, from 1 (worst) to `parts`.

    >>> quantiles([0.1, 0.4, 0.2, 0.3], 2)
    [1, 2, 1, 2]
    """
    ordered = sorted(scores)
    return [-(-parts * bisect_right(ordered, score) // len(scores)) for score in scores]


def _appended(prompt: Any, prefix: str) -> str:
    return f"{_SEPARATOR}{prefix}\n" if isinstance(prompt, str) else f"{_SEPARATOR}{prefix}"


def _good_bad(dataset: Dataset, args: QualityOptions) -> Conditioned:
    _need(dataset, "good_bad", ("prompt", "chosen", "rejected"))

    def answers_of(row: Mapping[str, Any], index: int) -> list[ScoredAnswer]:
        return [(row[side], None, row.get(REASONS[side])) for side in ("chosen", "rejected")]

    answers = _split(dataset, answers_of)
    prefixes = [args.good_prefix, args.bad_prefix] * len(dataset)
    rows, record = _asked(answers, prefixes, args.good_prefix, "good_bad", ())
    return Conditioned(answers, rows, {}, record)


def _scored(dataset: Dataset, quality: str) -> Dataset:
    """A row for each answer: prompt, completion, score, which may be null."""
    has_lists = {"responses", "scores"} <= set(dataset.column_names)
    if not has_lists:
        _need(dataset, quality, ("prompt", "completion", "score"))

    def answers_of(row: Mapping[str, Any], index: int) -> list[ScoredAnswer]:
        if not has_lists:
            score, reason = number(row["score"], "score", index), row.get(REASONS["completion"])
            return [(row["completion"], score, reason)]
        return responses_of(row, index)

    return _split(dataset, answers_of)


def _split(
    dataset: Dataset, answers_of: Callable[[Mapping[str, Any], int], list[ScoredAnswer]]
) -> Dataset:
    """A row for each of a row's answers."""
    import datasets

    def split(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        made: dict[str, list[Any]] = {name: [] for name in features}
        for index, *values in zip(indices, *batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            for answer, score, reason in answers_of(row, index):
                made["prompt"].append(_plain(row["prompt"]))
                made["completion"].append(_completion(row["prompt"], answer, index))
                made["score"].append(score)
                made["finish_reason"].append(reason)
        return made

    text = datasets.Value("string")
    is_text = isinstance(dataset[0]["prompt"], str)
    side = text if is_text else datasets.List({"role": text, "content": text})
    features = {"prompt": side, "completion": side, "score": datasets.Value("float64")}
    features |= {"finish_reason": text}
    answers = dataset.map(
        split,
        batched=True,
        with_indices=True,
        remove_columns=dataset.column_names,
        features=datasets.Features(features),
    )
    says_ends = bool(set(REASONS.values()) & set(dataset.column_names))
    return answers if says_ends else answers.remove_columns("finish_reason")


def _asked(
    answers: Dataset, prefixes: Sequence[str], best: str, quality: str, scores: Sequence[float]
) -> tuple[Dataset, dict[str, Any]]:
    """The answers with their prefixes, and the contents of quality.json."""

    def ask(row: dict[str, Any], index: int) -> dict[str, Any]:
        return {"prompt": last_user_asks(row["prompt"], prefixes[index], index)}

    asked = answers.remove_columns("score")
    rows = asked.map(ask, with_indices=True, features=asked.features)
    said: dict[str, dict[str, Any]] = {p: {"answers": n} for p, n in Counter(prefixes).items()}
    for prefix, score in zip(prefixes, scores, strict=False):
        low, high = said[prefix].get("scores", (score, score))
        said[prefix]["scores"] = (min(low, score), max(high, score))
    prompt = answers[0]["prompt"]
    record = {
        "quality": quality,
        "best": best,
        "append": _appended(prompt, best),
        "to": "the prompt" if isinstance(prompt, str) else "the last user message",
        "prefixes": dict(sorted(said.items())),
    }
    return rows, record


def _quantiles(scores: Sequence[float], args: QualityOptions) -> list[str]:
    return [_QUANTILE.format(part, args.quantiles) for part in quantiles(scores, args.quantiles)]


def _scores(scores: Sequence[float], args: QualityOptions) -> list[str]:
    highest = max(scores) if args.max_score is None else args.max_score
    for score in scores:
        if not score.is_integer():
            raise RecipeError(
                f"config.quality score needs whole scores, found {score:g}; use quality: quantile"
            )
        if score > highest:
            raise RecipeError(f"config.max_score is {highest:g}, but there is a score {score:g}")
    return [_SCORE.format(int(score), int(highest)) for score in scores]


def _need(dataset: Dataset, quality: str, columns: Sequence[str]) -> None:
    if set(columns) <= set(dataset.column_names):
        return
    other = "" if quality == "good_bad" else ", or a reward view's prompt, responses, scores"
    raise RecipeError(
        f"config.quality {quality} needs columns {', '.join(columns)}{other} "
        f"(the dataset has: {', '.join(dataset.column_names)})"
    )


def _plain(prompt: Any) -> Any:
    """Messages without what no template reads, so that all rows have one type."""
    if isinstance(prompt, str):
        return prompt
    return [{"role": message["role"], "content": message["content"]} for message in prompt]


def _completion(prompt: Any, answer: Any, index: int) -> Any:
    if isinstance(prompt, str):
        return answer_text(answer, index)
    if isinstance(answer, str):
        return [{"role": "assistant", "content": answer}]
    return _plain(answer)
