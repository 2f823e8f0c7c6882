"""The trainer of process reward models: token classification at the ends of steps.

Imported only inside functions, since it needs torch and transformers at once: checkpoints pickle
the config, so its class must be a module's own.

The loss is weight[class] * cross-entropy, summed over the labelled steps of an optimizer step and
divided by their number (not by the sum of their weights: then a batch of one class would not feel
its weight).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from factory.training.offline.process_data import CLASSES, IGNORED, Layout


@dataclasses.dataclass
class PrmConfig(TrainingArguments):  # type: ignore[misc]
    """transformers' options, and how steps are laid out and weighed."""

    num_labels: int = 2
    """2: wrong, right (a rating of 0 counts as right). 3: wrong, neutral, right."""
    class_weights: str | list[float] | None = None
    """Of the loss, by class. None: 1 for all. balanced: steps / (classes * steps of the class), 1
    on average over the steps."""
    separator: str = "\n"
    """Follows each step; without a tag, its last token is where the step is read."""
    tag: str = ""
    """A single token of the model after each step, as `<extra_0>`, at which the step is read."""
    max_length: int | None = 1024
    """Tokens of prompt and labelled steps. A longer row is left out and counted, never cut. None:
    no limit."""
    truncate_after_first_error: bool = True
    """Labels after the first wrong step count as unknown: whether a step is right can hardly be
    said where what it builds on is wrong (Zhang et al. 2025, arXiv 2501.07301)."""

    def __post_init__(self) -> None:
        if reason := problem(dataclasses.asdict(self)):
            raise ValueError(reason)
        super().__post_init__()

    def layout(self) -> Layout:
        return Layout(
            self.num_labels,
            self.separator,
            self.tag,
            self.max_length,
            self.truncate_after_first_error,
        )


def problem(config: Mapping[str, Any]) -> str | None:
    """What is wrong with the options that are not transformers', where given; None: nothing."""
    labels = config.get("num_labels", 2)
    if labels not in CLASSES:
        return f"num_labels: expected 2 or 3, found {labels!r}"
    weights = config.get("class_weights")
    if isinstance(weights, list):
        are_numbers = all(isinstance(w, int | float) and 0 <= w < float("inf") for w in weights)
        if len(weights) != labels or not are_numbers or not any(weights):
            return (
                f"class_weights: expected {labels} numbers >= 0, not all 0 ({_names(labels)}), "
                f"found {weights!r}"
            )
    elif weights not in (None, "balanced"):
        return f"class_weights: expected balanced, a list or nothing, found {weights!r}"
    for name in ("separator", "tag"):
        if not isinstance(config.get(name, ""), str):
            return f"{name}: expected text, found {config[name]!r}"
    if not config.get("tag", "") and not config.get("separator", "\n"):
        return "tag and separator are both empty: a step must be read at one of them"
    return None


_NONE_OF = {
    "wrong": ": the problems are too easy for the model that solved them; use harder ones",
    "right": ": no solution came to its reference answer, so the problems are too hard for the model "
    "that solved them, or its answers were cut; use easier ones, or a stronger model",
}


def weights_of(choice: str | list[float] | None, counts: Sequence[int]) -> list[float]:
    """The weight of each class. `counts`: labelled steps of each.

    Raises `ValueError` if weights are to be balanced and a class has no step.

    >>> weights_of("balanced", [1, 3])
    [2.0, 0.6666666666666666]
    """
    if choice is None:
        return [1.0] * len(counts)
    if isinstance(choice, list):
        return [float(weight) for weight in choice]
    if not all(counts):
        name = CLASSES[len(counts)][list(counts).index(0)]
        why = _NONE_OF.get(name, "")
        raise ValueError(f"class_weights: balanced, but no step is labelled {name}{why}")
    return [sum(counts) / (len(counts) * count) for count in counts]


class StepLoss:
    """The loss, for `Trainer(compute_loss_func=...)`, and a count of what was predicted."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = torch.tensor(weights, dtype=torch.float32)
        self.confusion = torch.zeros(len(weights), len(weights), dtype=torch.long)
        """Labelled steps since it was last cleared: [true class, predicted class]."""

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """`labels`: [batch, tokens]. `num_items_in_batch`: labelled steps of the whole optimizer
        step, where the trainer knows; else these are all."""
        known = labels != IGNORED
        logits, classes = outputs.logits[known].float(), labels[known]
        self._weights = self._weights.to(logits.device)
        losses = torch.nn.functional.cross_entropy(logits, classes, reduction="none")
        total = (losses * self._weights[classes]).sum()
        with torch.no_grad():
            size = len(self._weights)
            cells = torch.bincount(classes * size + logits.argmax(-1), minlength=size * size)
            self.confusion = self.confusion.to(cells.device) + cells.view(size, size)
        return total / (known.sum() if num_items_in_batch is None else num_items_in_batch)


class StepTrainer(Trainer):  # type: ignore[misc]
    """transformers' trainer, with the accuracies since the last log beside the loss."""

    def __init__(self, *, loss: StepLoss, **options: Any) -> None:
        super().__init__(compute_loss_func=loss, data_collator=self._pad, **options)
        self._loss = loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= accuracies(self.accelerator.reduce(self._loss.confusion).tolist())
            self._loss.confusion.zero_()
        super().log(logs, start_time)

    def _pad(self, rows: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Padded on the right, where a causal model sees it from no step."""
        padding = self.processing_class.pad_token_id
        longest = max(len(row["input_ids"]) for row in rows)

        def padded(lists: Iterable[list[int]], value: int) -> torch.Tensor:
            return torch.tensor([[*ids, *[value] * (longest - len(ids))] for ids in lists])

        return {
            "input_ids": padded(
                (row["input_ids"] for row in rows), 0 if padding is None else padding
            ),
            "attention_mask": padded(([1] * len(row["input_ids"]) for row in rows), 0),
            "labels": padded((row["labels"] for row in rows), IGNORED),
        }


def accuracies(confusion: Sequence[Sequence[int]]) -> dict[str, float]:
    """Share of steps classed right, and the mean over classes (those there are) of that share: the
    second is 0.5 for a model that calls every step right, of two classes. Empty without steps.

    >>> accuracies([[1, 3], [0, 6]])
    {'accuracy': 0.7, 'balanced_accuracy': 0.625}
    """
    total = sum(map(sum, confusion))
    if not total:
        return {}
    shares = [row[place] / sum(row) for place, row in enumerate(confusion) if sum(row)]
    right = sum(row[place] for place, row in enumerate(confusion))
    return {"accuracy": right / total, "balanced_accuracy": sum(shares) / len(shares)}


def _names(labels: int) -> str:
    return ", ".join(CLASSES[labels])
