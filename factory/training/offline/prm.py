"""Process reward models: P(right) of each step of a solution (Lightman et al. 2023, arXiv 2305.20050),
by token classification on `transformers.Trainer`.

In: a process view, or PRM800K's JSON lines. Out: a model that `AutoModelForTokenClassification` and
vLLM's pooling runner load. A step is read where the engines read it: serve the model with the
`separator` and `tag` of its training.json.

The loss is weight[class] * cross-entropy, summed over the labeled steps of an optimizer step and divided
by their number (not the sum of their weights: a batch of one class would not feel its weight).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers

from factory.core.errors import RecipeError
from factory.training.common.options import train_in_float32
from factory.training.common.plain_words import Advice
from factory.training.common.progress import say
from factory.training.common.session import Session
from factory.training.common.trained_rows import model_inputs, padded
from factory.training.offline import process_data
from factory.training.offline.process_data import CLASSES, IGNORED, Layout
from factory.training.trainer import Trainer


@dataclasses.dataclass
class PrmConfig(transformers.TrainingArguments):  # type: ignore[misc]
    """Options of PRM training: transformers', and the layout and weights of steps."""

    num_labels: int = 2
    """2: wrong, right (a rating of 0 counts as right). 3: wrong, neutral, right."""
    class_weights: str | list[float] | None = None
    """Weights of the loss, by class. None: 1 for all. balanced: steps / (classes * steps of the class),
    1 on average over the steps."""
    separator: str = "\n"
    """Text after each step. Without a tag, the step is read at its last token."""
    tag: str = ""
    """A single token after each step, such as `<extra_0>`, at which the step is read."""
    max_length: int | None = 1024
    """Tokens of prompt and labeled steps. A longer row is left out and counted, never cut. None:
    no limit."""
    truncate_after_first_error: bool = True
    """Labels after the first wrong step count as unknown: whether a step is right can hardly be
    said where what it builds on is wrong (Zhang et al. 2025, arXiv 2501.07301)."""

    def __post_init__(self) -> None:
        if reason := problem(dataclasses.asdict(self)):
            raise ValueError(reason)
        super().__post_init__()

    def layout(self) -> Layout:
        return Layout(*(getattr(self, name) for name in Layout._fields))


def problem(config: Mapping[str, Any]) -> str | None:
    """The error in the given options that are not transformers'. None: no error."""
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
    """The weight of each class. `counts`: labeled steps of each.

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
        raise ValueError(f"class_weights: balanced, but no step is labeled {name}{why}")
    return [sum(counts) / (len(counts) * count) for count in counts]


class StepLoss:
    """The loss, for `Trainer(compute_loss_func=...)`, and a count of what was predicted."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = torch.tensor(weights, dtype=torch.float32)
        self.confusion = torch.zeros(len(weights), len(weights), dtype=torch.long)
        """Labeled steps since it was last cleared: [true class, predicted class]."""

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """`labels`: [batch, tokens]. `num_items_in_batch`: labeled steps of the whole optimizer
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


class StepTrainer(transformers.Trainer):  # type: ignore[misc]
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
        ids = [row["input_ids"] for row in rows]
        labels = padded([row["labels"] for row in rows], IGNORED)
        return {**model_inputs(ids, self.processing_class.pad_token_id), "labels": labels}


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


class Prm(Trainer):
    """A process reward model. A causal model gets a new head, drawn from the seed; a process reward
    model of as many classes keeps its own."""

    kind = "prm"
    config_class = PrmConfig
    # The head is new, and a step's label is one token's: larger steps than preferences take. Rows are
    # not grouped by length, which would save padding: a solution ends at its first error, so short
    # rows hold most of the wrong steps, and a batch would be of one class.
    defaults = {"learning_rate": 1e-5}
    lora_defaults = {"learning_rate": 1e-4}
    lora_task = "TOKEN_CLS"
    loaded_as = "AutoModelForTokenClassification"
    advice = Advice(library="transformers")

    def check_given(self, given: Mapping[str, Any], lora: Mapping[str, Any] | None) -> None:
        if reason := problem(given):
            raise RecipeError(f"config.{reason}")

    def fit(self, session: Session, config: Mapping[str, Any]) -> dict[str, Any]:
        args = session.args
        encoded = process_data.encode(session.dataset, session.tokenizer, args.layout())
        session.leave_out(encoded.left_out)
        names = CLASSES[args.num_labels]
        by_class = dict(zip(names, encoded.counts, strict=True))
        if sum(count > 0 for count in encoded.counts) == 1:
            say(f"every labeled step is of one class, nothing can be told apart: {by_class}")
        weights = weights_of(args.class_weights, encoded.counts)
        steps = {
            "separator": args.separator,
            "tag": args.tag,
            "classes": list(names),
            "labelled": by_class,
            "class_weights": weights,
        }
        counts = ", ".join(f"{count} {name}" for name, count in by_class.items())
        say(f"steps: {counts}; separator {args.separator!r}, tag {args.tag!r}")
        trainer = StepTrainer(
            loss=StepLoss(weights),
            model=_load(session, names),
            args=args,
            train_dataset=encoded.dataset,
            processing_class=session.tokenizer,
            callbacks=[session.progress],
        )
        more = {"steps_as": steps, "prm800k_left_out": session.opened.prm800k}
        return session.fit(trainer, more=more)


def _load(session: Session, names: tuple[str, ...]) -> Any:
    """The model with a head of one output a class, and an adapter if the session has one."""
    from transformers import AutoModelForTokenClassification, set_seed

    has = session.model_config
    is_scoring = any("TokenClassification" in name for name in has.architectures or ())
    if is_scoring and has.num_labels != len(names):
        raise RecipeError(
            f"config.num_labels: {len(names)}, but the model already classifies steps, into "
            f"{has.num_labels}; set it to that, or start from a causal model"
        )
    set_seed(session.args.seed)  # the new head's weights
    model = AutoModelForTokenClassification.from_pretrained(
        session.model_dir,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: place for place, name in enumerate(names)},
        **session.model_options,
    )
    if session.lora is None:
        return model
    from peft import get_peft_model

    model = get_peft_model(model, session.lora)
    if session.args.bf16 or session.args.fp16:
        train_in_float32(model)
    return model
