"""Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv 2402.01306), by `trl.KTOTrainer`.

In: a kto view: answers, each labeled good or bad; no pairs needed. With r = log pi/ref of an answer
and z the batch's estimate of KL(pi || ref), at least 0, the loss is

    desirable_weight * (1 - s(beta (r - z)))      of a good answer,
    undesirable_weight * (1 - s(beta (z - r)))    of a bad one.

The paper wants (desirable_weight * good) / (undesirable_weight * bad) in [1, 4/3]: outside, and if
neither weight is set, the rarer label's is raised to the middle of that. TRL estimates z from an answer
beside its neighbor's prompt, in a kto view often its own, so rows are shuffled once, by `seed`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import trl

from factory.core.errors import RecipeError
from factory.training.common import endings
from factory.training.common.data import VIEWS
from factory.training.common.plain_words import Advice
from factory.training.common.progress import say
from factory.training.common.session import Session
from factory.training.common.trained_rows import count_cut, only
from factory.training.trainer import Trainer

_LOW, _HIGH = 1.0, 4 / 3
_WEIGHTS = ("desirable_weight", "undesirable_weight")


class KTOTrainer(trl.KTOTrainer):  # type: ignore[misc]
    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, dataset_name: str
    ) -> Any:
        rows = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        ids = {"completion": "completion_ids"}
        trimmed = endings.without_ends(rows, processing_class, ids)
        if trimmed is rows or "KL_completion_ids" not in rows.column_names:
            return trimmed

        def rotate(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            """Pair each prompt with its neighbor's answer within a batch, as TRL does."""
            own = batch["completion_ids"]
            return {"KL_completion_ids": [own[-1], *own[:-1]]}

        return trimmed.map(rotate, batched=True, batch_size=args.per_device_train_batch_size)


class Kto(Trainer):
    """Kahneman-Tversky optimization. Without adapter, policy and reference are both in memory, unless
    `precompute_ref_log_probs` is set."""

    kind = "kto"
    config_class = trl.KTOConfig
    # TRL's own, stated because they decide the result and must not change under a user. `max_length`
    # is in tokens, prompt and answer together. The KL estimate is a mean over the batch, so that it is
    # no machine's default.
    defaults = {
        "beta": 0.1,
        "learning_rate": 1e-6,
        "max_length": 1024,
        "per_device_train_batch_size": 4,
    }
    lora_defaults = {"learning_rate": 1e-5}  # TRL's advice: ten times
    advice = Advice(
        accumulate=" and double gradient_accumulation_steps (4 at least: its KL estimate is over a batch)"
    )

    def fit(self, session: Session, config: Mapping[str, Any]) -> dict[str, Any]:
        args = session.args
        labels = _labels(session.dataset["label"][:])
        places = [i for i, label in enumerate(labels) if label is not None]
        counts = Counter(label for label in labels if label is not None)
        good, bad = counts[True], counts[False]
        if not any(name in config for name in _WEIGHTS):
            args.desirable_weight, args.undesirable_weight = balanced(good, bad)
        say(_balance(good, bad, args.desirable_weight, args.undesirable_weight))
        rows = only(session.dataset, *VIEWS["kto"], "finish_reason").select(places)
        rows = rows.shuffle(seed=args.seed)
        trainer = KTOTrainer(train_dataset=rows, **session.usual)
        too_long = f"the prompt alone fills {args.max_length} tokens"
        long = len(rows) - len(trainer.train_dataset)
        session.leave_out({"no label": len(labels) - len(places), too_long: long})
        cut = count_cut(trainer.train_dataset, args.max_length, ("completion_ids",))
        more = {"labels": {"good": good, "bad": bad}, **{n: getattr(args, n) for n in _WEIGHTS}}
        return session.fit(trainer, rows_cut=cut, more=more)


def balanced(good: int, bad: int) -> tuple[float, float]:
    """The weights of good and bad answers, 1 for both where that will do.

    >>> balanced(7, 6), balanced(21, 9), balanced(7, 12)
    ((1.0, 1.0), (1.0, 2.0), (2.0, 1.0))
    """
    middle = (_LOW + _HIGH) / 2
    if not good or not bad or _LOW <= good / bad <= _HIGH:
        return 1.0, 1.0
    if good < bad:
        return round(middle * bad / good, 4), 1.0
    return 1.0, round(good / (middle * bad), 4)


def _balance(good: int, bad: int, good_weight: float, bad_weight: float) -> str:
    """The line about labels and weights that is printed at the start."""
    line = f"{good} good and {bad} bad answers, weights {good_weight:g} and {bad_weight:g}"
    if not good or not bad:
        return f"{line}: with one label only, there is nothing to tell apart"
    ratio = good * good_weight / (bad * bad_weight) if bad_weight else float("inf")
    if not _LOW - 1e-3 <= ratio <= _HIGH + 1e-3:
        line += (
            f": weighed, good to bad is {ratio:.2f}, outside the 1 to 1.33 that KTO wants; "
            "change desirable_weight or undesirable_weight, or unset both"
        )
    return line


def _labels(given: list[Any]) -> list[bool | None]:
    if all(label is None for label in given):
        raise RecipeError(f"none of the {len(given)} rows has a label")
    return [None if label is None else bool(label) for label in given]
