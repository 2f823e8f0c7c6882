"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290), by `trl.DPOTrainer`.

In: a preference view. The loss of a pair is -log sigmoid(beta * D), where D is how much more the
policy than the reference (the model as it was) raises the log-probability of chosen over rejected;
`rewards/margins` is beta * D, so > 0 means that chosen is preferred. `loss_type` chooses another
loss of the family: TRL's names, and three of ours.

- `soft_labels`, ours, with the sigmoid loss: -p log s(beta D) - (1 - p) log s(-beta D), p the pair's
  preference (null: 1). Without it p is not used.
- `infonca`, `nca` and `rrhf`, ours, train on a reward view: all answers of a prompt with their
  scores. Formulas and papers in `preference_losses`; rrhf needs no reference model. A prompt is one
  element of a batch, so `per_device_train_batch_size: 2` of 4 answers each is 8 sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import RecipeError
from factory.training.common import options
from factory.training.common.progress import say
from factory.training.common.session import Session, only
from factory.training.offline import listwise

if TYPE_CHECKING:
    from datasets import Dataset

    from factory.training.offline.listwise import Encoded

COLUMNS: tuple[str, ...] = ("prompt", "chosen", "rejected")

_USED = (*COLUMNS, "chosen_finish_reason", "rejected_finish_reason")

# TRL's own, stated because they decide the result and must not change under a user. `max_length`
# is in tokens, prompt and answer together.
_DEFAULTS = {"beta": 0.1, "learning_rate": 1e-6, "max_length": 1024}
# An adapter starts from nothing and needs larger steps (TRL's advice: ten times).
_LORA_DEFAULTS = _DEFAULTS | {"learning_rate": 1e-5}


def check(config: Mapping[str, Any], lora: Mapping[str, Any] | None = None) -> None:
    """Raise `RecipeError` if an option is misspelt or wrong. Imports TRL: seconds."""
    import trl

    from factory.training.offline.dpo_trainer import TRL_ONLY, DPOConfig

    checked = options.check(DPOConfig, config)
    options.build_lora(lora)
    # What our own checks look at; the rest may be of another machine than this.
    looked_at = set(DPOConfig.__dataclass_fields__) - set(trl.DPOConfig.__dataclass_fields__)
    looked_at |= {"loss_type", "sync_ref_model", *TRL_ONLY}
    here = {"use_cpu": True, "bf16": False, "report_to": "none"}
    options.build(DPOConfig, here | {n: v for n, v in checked.items() if n in looked_at}, Path())


def train(
    data: Path | str,
    model: Path | str,
    out: Path,
    *,
    lora: Mapping[str, Any] | None = None,
    config: Mapping[str, Any],
    resume: bool = False,
) -> dict[str, Any]:
    """See `factory.training.common.base.Trainer.train`. Without adapter, policy and reference are both in
    memory, unless `precompute_ref_log_probs` is set."""
    loss = config.get("loss_type")
    is_listwise = bool(set([loss] if isinstance(loss, str) else loss or ()) & set(listwise.LOSSES))
    columns = ("prompt",) if is_listwise else COLUMNS
    session = Session("dpo", columns, data, model, out, lora, config, resume)
    if session.record is not None:
        return session.record
    with session.running():
        from factory.training.offline.dpo_trainer import (
            AnswersTrainer,
            Collator,
            DPOConfig,
            PairsTrainer,
        )

        session.prepare(DPOConfig, _DEFAULTS if lora is None else _LORA_DEFAULTS)
        common = {
            "model": str(session.model_dir),
            "args": session.args,
            "processing_class": session.tokenizer,
            "peft_config": session.lora,
            "callbacks": [session.progress],
        }
        if not session.args.is_ours:
            trainer = PairsTrainer(train_dataset=only(session.dataset, *_USED), **common)
            answers = ("chosen_ids", "rejected_ids")
            cut = count_cut(trainer.train_dataset, session.args.max_length, answers)
            return session.fit(trainer, rows_cut=cut)
        encoded = _encode(session)
        if session.tokenizer.pad_token is None:
            session.tokenizer.pad_token = session.tokenizer.eos_token
        collator = Collator(session.tokenizer.pad_token_id, session.args.pad_to_multiple_of)
        trainer = AnswersTrainer(train_dataset=encoded.rows, data_collator=collator, **common)
        more = {"answers_left_out": encoded.answers_left_out, "labels_missing": encoded.missing}
        return session.fit(trainer, rows_cut=encoded.rows_cut, more=more)


def _encode(session: Session) -> Encoded:
    """The tokenised dataset. Raises `RecipeError` if nothing of it can be trained on."""
    args, dataset = session.args, session.dataset
    found = f"(the dataset has: {', '.join(dataset.column_names)})"
    if args.is_listwise:
        if not set(listwise.LIST_COLUMNS) <= set(dataset.column_names):
            raise RecipeError(
                f"config.loss_type {args.loss_type[0]} needs a reward view's columns prompt, "
                f"responses, scores {found}"
            )
        encoded = listwise.encode_lists(dataset, session.tokenizer, args.max_length)
    else:
        if "preference" not in dataset.column_names:
            raise RecipeError(f"config.soft_labels needs a column preference {found}")
        encoded = listwise.encode_pairs(dataset, session.tokenizer, args.max_length)
    session.leave_out(encoded.rows_left_out)
    for reason, count in encoded.answers_left_out.items():
        say(f"{count} answers of the other rows left out: {reason}")
    if encoded.missing:
        say(f"{encoded.missing} of {len(dataset)} rows have no preference: 1 is used")
    if len(encoded.rows) == 0:
        why = "; ".join(f"{count}: {reason}" for reason, count in encoded.rows_left_out.items())
        is_long = listwise.too_long(args.max_length) in encoded.rows_left_out
        remedy = "raise config.max_length" if is_long else "look at what made the column scores"
        raise RecipeError(f"none of the {len(dataset)} rows is left ({why}); {remedy}")
    return encoded


def count_cut(tokenized: Dataset, max_length: int | None, answers: tuple[str, ...]) -> int:
    """Rows of which one of the columns `answers` does not fit after `prompt_ids`: TRL drops the end
    of it."""
    from pyarrow import compute

    if max_length is None:
        return 0
    cut = 0
    for batch in tokenized.with_format("arrow").iter(batch_size=1000):
        prompt, *lengths = (
            compute.list_value_length(batch[name]) for name in ("prompt_ids", *answers)
        )
        longest = compute.add(prompt, compute.max_element_wise(*lengths))
        cut += compute.sum(compute.greater(longest, max_length)).as_py() or 0
    return cut
