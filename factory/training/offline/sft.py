"""Supervised fine-tuning, by `trl.SFTTrainer`: the negative log-likelihood of answers.

In: an sft view. The loss is the mean over the tokens of answers only. With `quality`, every answer, then
a row of the records, is trained on under a text that says how good it is; see `offline.quality`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trl

from factory.training.common import endings
from factory.training.common.session import Session
from factory.training.common.trained_rows import only
from factory.training.offline import quality
from factory.training.trainer import Trainer

_USED = ("prompt", "completion", "finish_reason")

QUALITIES = ("none", "good_bad", "quantile", "score")
_IGNORED = -100


@dataclass
class SFTConfig(trl.SFTConfig):  # type: ignore[misc]
    """Options of SFT: TRL's, and these."""

    quality: str = "none"
    """The statement about the answer's quality in the user's text: one of `quality.QUALITIES`."""
    good_prefix: str = "A good answer:"
    """good_bad: the user's text before a chosen answer, and later the text to ask with."""
    bad_prefix: str = "A bad answer:"
    """good_bad: the same before a rejected answer."""
    quantiles: int = 5
    """quantile: number of parts of equal size that the scores are divided into."""
    max_score: int | None = None
    """score: the M in "Score 4 of M:". None: the largest score in the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chat_template_path is not None:
            raise ValueError(
                "chat_template_path has no effect; change the tokenizer of the base model"
            )
        if self.dataset_text_field != "text" or self.dataset_kwargs:
            raise ValueError(
                "dataset_text_field and dataset_kwargs are for other data than prompt and "
                "completion; unset them"
            )
        if self.quality is None:
            self.quality = "none"
        if self.quality not in QUALITIES:
            raise ValueError(f"quality is '{self.quality}', not one of {', '.join(QUALITIES)}")
        if self.quality != "none" and self.completion_only_loss is False:
            raise ValueError(
                "completion_only_loss: false would teach the model to write quality prefixes; unset it"
            )
        if self.quality == "good_bad" and self.good_prefix == self.bad_prefix:
            raise ValueError(f"good_prefix and bad_prefix are both '{self.good_prefix}'")
        if self.quantiles < 2:
            raise ValueError(f"quantiles is {self.quantiles}; it must be 2 or more")
        for name, wanted in (("quantiles", "quantile"), ("max_score", "score")):
            default = SFTConfig.__dataclass_fields__[name].default
            if getattr(self, name) != default and self.quality != wanted:
                raise ValueError(f"{name} is for quality {wanted}, not {self.quality}")


class SFTTrainer(trl.SFTTrainer):  # type: ignore[misc]
    """`rows_left_out`: rows of which no token of the answer fits into max_length; `rows_cut`: others
    that do not fit whole. Both 0 where packing splits rows over sequences."""

    rows_left_out = 0
    rows_cut = 0

    def _prepare_dataset(
        self,
        dataset: Any,
        processing_class: Any,
        args: SFTConfig,
        packing: bool,
        formatting_func: Any,
        dataset_name: str,
    ) -> Any:
        """TRL's, first without a limit and then with it: it does again only what is still to do."""
        unlimited = copy.copy(args)
        unlimited.max_length, unlimited.shuffle_dataset = None, False
        whole = super()._prepare_dataset(
            dataset, processing_class, unlimited, False, formatting_func, dataset_name
        )
        whole = endings.labels_without_ends(whole, processing_class)
        splits = packing and args.packing_strategy != "bfd"
        if args.max_length is not None and not splits:
            self._count(whole, args)
        return super()._prepare_dataset(whole, processing_class, args, packing, None, dataset_name)

    def _count(self, whole: Any, args: SFTConfig) -> None:
        length = args.max_length
        kept = slice(-length, None) if args.truncation_mode == "keep_end" else slice(length)
        for batch in whole.select_columns(["labels"]).iter(batch_size=1000):
            for labels in batch["labels"]:
                if all(label == _IGNORED for label in labels[kept]):
                    self.rows_left_out += 1
                elif len(labels) > length:
                    self.rows_cut += 1


class Sft(Trainer):
    """Supervised fine-tuning."""

    kind = "sft"
    config_class = SFTConfig
    # `max_length` is in tokens, prompt and answer together. The learning rate is TRL's.
    defaults = {"learning_rate": 2e-5, "max_length": 1024, "completion_only_loss": True}
    lora_defaults = {"learning_rate": 2e-4}  # TRL's advice: ten times
    checked = frozenset(
        {"chat_template_path", "completion_only_loss", "dataset_text_field", "dataset_kwargs"}
    )

    def fit(self, session: Session, config: Mapping[str, Any]) -> dict[str, Any]:
        rows, left_out, more = session.dataset, {}, {}
        if session.args.quality != "none":
            conditioned = quality.condition(session.dataset, session.args)
            more = {"quality": conditioned.quality, "source_rows": len(session.dataset)}
            rows, left_out = conditioned.rows, conditioned.left_out
            session.dataset = conditioned.answers  # what the records count
        trainer = SFTTrainer(train_dataset=only(rows, *_USED), **session.usual)
        too_long = f"the prompt alone fills {session.args.max_length} tokens"
        session.leave_out(left_out | {too_long: trainer.rows_left_out})
        if session.args.packing:  # then a row of the records is a packed sequence
            more |= {"packed_rows": len(rows) - trainer.rows_left_out}
            session.dataset = trainer.train_dataset
        return session.fit(trainer, rows_cut=trainer.rows_cut, more=more)
