"""Reward models, which score an answer, trained on preferences or scores.

In: a preference view (without a prompt column, chosen and rejected are whole conversations), or a reward
view. Out: a sequence classifier with one label, whose raw output at the last token of a conversation is
the reward; higher is better. Its head starts at random, with mean 0 and the model's `initializer_range`.

`reward_losses` has the formulas of `loss_type`. `pairwise` alone is `trl.RewardTrainer`'s own; with soft
labels or an LM regularizer, and the others, are our subclass of that. A list is one element of a batch:
`per_device_train_batch_size: 2` of 9 answers is 18 sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trl

from factory.core.errors import RecipeError
from factory.training.common.options import train_in_float32
from factory.training.common.session import Session
from factory.training.offline import reward_rows
from factory.training.offline.encoding import (
    LIST_COLUMNS,
    PAIR_COLUMNS,
    Encoded,
    say_what_is_missing,
)
from factory.training.offline.reward_trainer import (
    FIXED,
    RewardCollator,
    RewardConfig,
    RewardTrainer,
)
from factory.training.trainer import Trainer

# What some models do to the logits after the LM head; a regularizer that did not would be wrong.
_BENT_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class Reward(Trainer):
    """A reward model."""

    kind = "reward"
    config_class = RewardConfig
    # `max_length` is in tokens, prompt and answer together. TRL's learning rate, 1e-4, is an
    # adapter's; InstructGPT trained all weights with 9e-6.
    defaults = {"learning_rate": 1e-5, "max_length": 1024}
    lora_defaults = {"learning_rate": 1e-4}
    checked = frozenset({"center_rewards_coefficient", *FIXED})
    lora_task = "SEQ_CLS"
    loaded_as = "AutoModelForSequenceClassification"

    def fit(self, session: Session, config: Mapping[str, Any]) -> dict[str, Any]:
        session.args.loss_type = _loss_type(session.args, session.dataset.column_names)
        if session.tokenizer.pad_token is None:  # conversation_ids must know it
            session.tokenizer.pad_token = session.tokenizer.eos_token
        encoded = _encode(session)
        rows, scale = _standardized(encoded.rows, session.args)
        more = {
            "loss_type": session.args.loss_type,
            "answers_left_out": encoded.answers_left_out,
            "labels_missing": encoded.missing,
            **scale,
        }
        return session.fit(_trainer(session, rows), more=more)


def _loss_type(args: RewardConfig, columns: list[str]) -> str:
    """The loss to use. Raises `RecipeError` if the dataset has not what the options ask for."""
    has_pairs = set(PAIR_COLUMNS) <= set(columns)
    has_lists = set(LIST_COLUMNS) <= set(columns)
    loss = args.loss_type or ("pairwise" if has_pairs else "listwise")
    found = f"(the dataset has: {', '.join(columns)})"
    if loss == "pairwise" and not has_pairs:
        raise RecipeError(
            f"config.loss_type pairwise needs columns chosen and rejected {found}; listwise is the "
            "pairwise loss over all pairs of a prompt's responses"
        )
    if loss != "pairwise" and not has_lists:
        raise RecipeError(
            f"config.loss_type {loss} needs columns prompt, responses, scores {found}"
        )
    for option, column in (("soft_labels", "preference"), ("use_margin", "margin")):
        if getattr(args, option) and (loss != "pairwise" or column not in columns):
            raise RecipeError(
                f"config.{option} needs the pairwise loss, here {loss}, and a column {column} {found}"
            )
    return loss


def _encode(session: Session) -> Encoded:
    """The tokenized dataset. Raises `RecipeError` if nothing of it can be trained on."""
    args, dataset, tokenizer = session.args, session.dataset, session.tokenizer
    finds_answer = args.lm_weight > 0
    weigh = "preference" if args.soft_labels else "margin" if args.use_margin else None
    if args.loss_type == "pairwise":
        encoded = reward_rows.encode_pairs(
            dataset, tokenizer, args.max_length, weigh=weigh, finds_answer=finds_answer
        )
    else:
        needs_pair = args.loss_type == "listwise"
        encoded = reward_rows.encode_lists(
            dataset, tokenizer, args.max_length, needs_pair=needs_pair, finds_answer=finds_answer
        )
    say_what_is_missing(session, encoded, weigh)
    if len(encoded.rows) == 0:
        why = "; ".join(f"{count} {reason}" for reason, count in encoded.rows_left_out.items())
        remedy = ""
        if args.max_length is not None and encoded.longest > args.max_length:
            remedy = f"; raise config.max_length to {encoded.longest} to take all of them"
        raise RecipeError(f"none of the {len(dataset)} rows is left: {why}{remedy}")
    return encoded


def _standardized(rows: Any, args: RewardConfig) -> tuple[Any, dict[str, float]]:
    """Pointwise targets with mean 0 and standard deviation 1, and what they had: a score is
    reward * score_std + score_mean."""
    import numpy as np

    if args.loss_type != "pointwise" or not args.standardize_scores:
        return rows, {}
    scores = np.concatenate([np.asarray(row) for row in rows["scores"]])
    mean, std = float(scores.mean()), float(scores.std())
    if std == 0:
        raise RecipeError(
            f"all {len(scores)} scores are {mean}: there is nothing to learn; "
            "look at what made the column 'scores'"
        )

    def standardize(row: dict[str, Any]) -> dict[str, Any]:
        return {"scores": [(score - mean) / std for score in row["scores"]]}

    return rows.map(standardize, features=rows.features), {"score_mean": mean, "score_std": std}


def _trainer(session: Session, rows: Any) -> Any:
    args = session.args
    if args.loss_type == "pairwise" and not args.soft_labels and args.lm_weight == 0:
        # A column `margin` goes into TRL's loss by its mere presence.
        columns = ["chosen_ids", "rejected_ids", *(["margin"] if args.use_margin else [])]
        trainer = trl.RewardTrainer(train_dataset=rows.select_columns(columns), **session.usual)
    else:
        head = _lm_head(session) if args.lm_weight > 0 else None
        collator = RewardCollator(session.tokenizer.pad_token_id, args.pad_to_multiple_of)
        trainer = RewardTrainer(train_dataset=rows, data_collator=collator, **session.usual)
        if head is not None:
            trainer.lm_head = head.to(trainer.accelerator.device)
    if session.lora is not None and (args.bf16 or args.fp16):
        train_in_float32(trainer.model)  # peft leaves the head in the base's half precision
    return trainer


def _lm_head(session: Session) -> Any:
    """The base model's output matrix, [V, hidden]; None if it is the input embeddings."""
    from transformers import AutoModelForCausalLM

    config = session.model_config.get_text_config()
    if bent := [name for name in _BENT_LOGITS if getattr(config, name, None) not in (None, 1.0)]:
        raise RecipeError(
            f"config.lm_weight does not work with {config.model_type} models, which change their "
            f"logits after the head ({', '.join(bent)}); set it to 0"
        )
    if config.tie_word_embeddings:
        return None
    causal, info = AutoModelForCausalLM.from_pretrained(
        session.model_dir, output_loading_info=True, **session.model_options
    )
    head = causal.get_output_embeddings()
    name = next(name for name, module in causal.named_modules() if module is head)
    if f"{name}.weight" in info["missing_keys"]:
        raise RecipeError(
            "config.lm_weight needs a base model with a language-model head, which this one lacks; "
            "start from a causal language model, or set it to 0"
        )
    return head.weight.detach()
