"""TRL's supervised trainer, with options for quality prefixes and a count of what truncation takes.

Imports TRL at the top, so it is itself imported inside functions only. The classes stand at module
level because checkpoints pickle the config.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import trl

from factory.training.common import endings

QUALITIES = ("none", "good_bad", "quantile", "score")
_IGNORED = -100


@dataclass
class SFTConfig(trl.SFTConfig):  # type: ignore[misc]
    """TRL's options and these."""

    quality: str = "none"
    """One of `quality.QUALITIES`: what the user's text says about the answer."""
    good_prefix: str = "A good answer:"
    """good_bad: the user's text before a chosen answer, and what to ask with afterwards."""
    bad_prefix: str = "A bad answer:"
    """good_bad: the same before a rejected answer."""
    quantiles: int = 5
    """quantile: how many parts of equal size the scores are cut into."""
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
