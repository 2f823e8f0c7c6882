"""Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290), by `trl.DPOTrainer`.

In: a preference view. The loss of a pair is -log sigmoid(beta * D), where D is how much more the
policy than the reference (the model as it was) raises the log-probability of chosen over rejected;
`rewards/margins` is beta * D, so > 0 means that chosen is preferred. Other values of `loss_type` are
TRL's, on the same rows, and ours (`preference_losses` has the formulas):

- `soft_labels`: -p log s(beta D) - (1 - p) log s(-beta D), p the pair's preference (null: 1). It is the
  InfoNCA loss of a list of two, so one override of the loss serves all of ours.
- `infonca`, `nca`, `rrhf` (which needs no reference): a reward view, all answers of a prompt with their
  scores. A prompt is one element of a batch: `per_device_train_batch_size: 2` of 4 answers is 8 sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import trl
from torch import Tensor

from factory.core.errors import RecipeError
from factory.core.yamlfile import nearest
from factory.training.common import endings
from factory.training.common.data import VIEWS
from factory.training.common.plain_words import Advice
from factory.training.common.session import Session
from factory.training.common.trained_rows import count_cut, model_inputs, only, padded
from factory.training.offline import listwise
from factory.training.offline import preference_losses as losses
from factory.training.offline.encoding import LIST_COLUMNS, Encoded, log_means, say_what_is_missing
from factory.training.trainer import Trainer

# TRL looks at the name only when the weights are in memory.
TRL_LOSSES = (
    *("sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair"),
    *("sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft"),
)

# What changes TRL's own losses and has no meaning, or no code, in ours; with TRL's default.
TRL_ONLY = {
    "ld_alpha": None,
    "f_divergence_type": "reverse_kl",
    "use_weighting": False,
    "label_smoothing": 0.0,
    "loss_weights": None,
    "truncation_mode": "keep_start",
}


@dataclass
class DPOConfig(trl.DPOConfig):  # type: ignore[misc]
    """Options of DPO: TRL's, and these. `loss_type` also accepts `listwise.LOSSES`."""

    soft_labels: bool = False
    """The column `preference`, P(chosen is better) in [0, 1], is the target instead of 1."""
    score_temperature: float = 1.0
    """infonca, nca: the targets are softmax(score / this) over a prompt's answers, in the scores'
    units; the papers' alpha. Small: only the best answer counts."""
    rank_weight: float = 1.0
    """rrhf: weight of the ranking loss beside the imitation of the best answer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ", ".join(self.loss_type)
        have = [*TRL_LOSSES, *listwise.LOSSES]
        for name in self.loss_type:
            if name not in have:
                hint = f"{nearest(name, have)} (have: {', '.join(have)})"
                raise ValueError(f"no loss_type '{name}'{hint}")
        ours = [name for name in self.loss_type if name in listwise.LOSSES]
        if ours and len(self.loss_type) > 1:
            raise ValueError(f"loss_type is {names}, but {ours[0]} stands alone")
        if self.soft_labels and self.loss_type != ["sigmoid"]:
            raise ValueError(f"soft_labels is for loss_type sigmoid, not {names}")
        if not self.score_temperature > 0:
            raise ValueError(f"score_temperature is {self.score_temperature}; it must be above 0")
        if not self.rank_weight >= 0:
            raise ValueError(f"rank_weight is {self.rank_weight}; it must be 0 or more")
        for name, wanted in (("score_temperature", ("infonca", "nca")), ("rank_weight", ("rrhf",))):
            if getattr(self, name) != 1.0 and not set(self.loss_type) & set(wanted):
                raise ValueError(f"{name} is for loss_type {' or '.join(wanted)}, not {names}")
        if self.is_ours:
            for name, default in TRL_ONLY.items():
                if getattr(self, name) != default:
                    what = "soft_labels" if self.soft_labels else f"loss_type {names}"
                    raise ValueError(f"{name} does not go with {what}; unset it")
        if not self.needs_reference and self.sync_ref_model:
            raise ValueError("sync_ref_model has no effect: rrhf has no reference model; unset it")

    @property
    def is_listwise(self) -> bool:
        """True if it trains on a reward view."""
        return bool(self.loss_type[0] in listwise.LOSSES)

    @property
    def is_ours(self) -> bool:
        """True if the loss is `AnswersTrainer`'s and not TRL's."""
        return bool(self.soft_labels or self.is_listwise)

    @property
    def needs_reference(self) -> bool:
        return bool(self.loss_type != ["rrhf"])


class PairsTrainer(trl.DPOTrainer):  # type: ignore[misc]
    """The trainer for TRL's own losses, with cut answers trained without an end."""

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, dataset_name: str
    ) -> Any:
        rows = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        ids = {"chosen": "chosen_ids", "rejected": "rejected_ids"}
        return endings.without_ends(rows, processing_class, ids)


class AnswersCollator:
    """A batch of all the answers of some prompts: rows of `listwise` in, tensors out.

    `input_ids`, `attention_mask` and `completion_mask` (1 on the answer), padded on the right, hold
    the answers prompt by prompt; `scores`, and `ref_logps` where known, one number each; `sizes`
    how many answers each prompt has.
    """

    def __init__(self, pad_token_id: int, pad_to_multiple_of: int | None = None) -> None:
        self._pad_token_id = pad_token_id
        self._multiple = pad_to_multiple_of

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        pairs = [(row["prompt_ids"], answer) for row in rows for answer in row["answer_ids"]]
        masks = [[0] * len(prompt) + [1] * len(answer) for prompt, answer in pairs]
        batch = {
            **model_inputs([p + a for p, a in pairs], self._pad_token_id, self._multiple),
            "completion_mask": padded(masks, 0, self._multiple),
            "sizes": [len(row["answer_ids"]) for row in rows],
        }
        for name in ("scores", "ref_logps"):
            if name in rows[0]:
                batch[name] = torch.tensor([value for row in rows for value in row[name]])
        return batch


class AnswersTrainer(trl.DPOTrainer):  # type: ignore[misc]
    """Takes the rows of `listwise` and a `AnswersCollator`. The logged rewards are beta * log(pi / ref), of
    rrhf the mean log-probability; chosen is a prompt's best answer and rejected its worst."""

    def __init__(self, *, args: DPOConfig, **options: Any) -> None:
        if not args.needs_reference:
            args.precompute_ref_log_probs = True  # then TRL loads no reference model
        super().__init__(args=args, **options)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(self.train_dataset.column_names)

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if not self.args.needs_reference:
            return dataset
        column: list[list[float]] = []
        for start in range(0, len(dataset), batch_size):
            rows = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
            batch = self._prepare_inputs(self.data_collator(rows))
            column += [logps.tolist() for logps in self._ref_logps(batch).split(batch["sizes"])]
        return dataset.add_column("ref_logps", column)

    def _ref_logps(self, inputs: dict[str, Any]) -> Tensor:
        """Log-probability of each answer under the initial model."""
        if "ref_logps" in inputs:
            known: Tensor = inputs["ref_logps"]
            return known
        names = ("input_ids", "attention_mask", "completion_mask")
        sequences = {name: inputs[name] for name in names}
        # In two parts, as if they were chosen and rejected.
        return torch.cat(self.compute_ref_log_probs(self.ref_model or self.model, sequences))

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        """The loss of a batch of `AnswersCollator`: the mean over its prompts."""
        ids, mask = inputs["input_ids"], inputs["completion_mask"]
        more = {"output_router_logits": True} if self.aux_loss_enabled else {}
        outputs = model(
            input_ids=ids,
            attention_mask=inputs["attention_mask"],
            labels=ids.masked_fill(mask == 0, -100),
            use_cache=False,
            fused_lm_head=True,
            **more,
        )
        # From the right: prompt-learning adapters put positions of their own before the prompt's.
        logps_N = outputs.log_probs[:, -(ids.shape[1] - 1) :].sum(1)
        if self.args.needs_reference:
            values_N = self.beta * (logps_N - self._ref_logps(inputs))
        else:
            values_N = logps_N / mask[:, 1:].sum(1).clamp(min=1)
        split = (values_N.split(inputs["sizes"]), inputs["scores"].split(inputs["sizes"]))
        prompts = list(zip(*split, strict=True))
        loss = torch.stack([self._loss(*prompt) for prompt in prompts]).mean()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
            log_means(self, {"aux_loss": outputs.aux_loss})
        best, worst = (torch.stack([values[place] for values, _ in prompts]) for place in (0, -1))
        log_means(
            self,
            {
                "rewards/chosen": best.mean(),
                "rewards/rejected": worst.mean(),
                "rewards/margins": (best - worst).mean(),
                "rewards/accuracies": (best > worst).float().mean(),
            },
        )
        return (loss, outputs) if return_outputs else loss

    def _loss(self, values_K: Tensor, scores_K: Tensor) -> Tensor:
        """`values_K`: of rrhf mean log-probabilities, else rewards."""
        if self.args.soft_labels:
            return losses.contrast(values_K, scores_K)
        if not self.args.needs_reference:
            return losses.rank_and_imitate(values_K, scores_K, self.args.rank_weight)
        targets_K = losses.targets(scores_K, self.args.score_temperature)
        if self.args.loss_type == ["nca"]:
            return losses.noise_contrast(values_K, targets_K)
        return losses.contrast(values_K, targets_K)


class Dpo(Trainer):
    """Direct preference optimization. Without adapter, policy and reference are both in memory, unless
    `precompute_ref_log_probs` is set."""

    kind = "dpo"
    config_class = DPOConfig
    # TRL's own, stated because they decide the result and must not change under a user. `max_length`
    # is in tokens, prompt and answer together.
    defaults = {"beta": 0.1, "learning_rate": 1e-6, "max_length": 1024}
    lora_defaults = {"learning_rate": 1e-5}  # TRL's advice: ten times
    checked = frozenset({"loss_type", "sync_ref_model", *TRL_ONLY})
    advice = Advice(
        less_memory="set precompute_ref_log_probs: true (no reference model in memory); "
    )

    def fit(self, session: Session, config: Mapping[str, Any]) -> dict[str, Any]:
        args = session.args
        if not args.is_ours:
            reasons = ("chosen_finish_reason", "rejected_finish_reason")
            used = (*VIEWS["preference"], *reasons)
            trainer = PairsTrainer(train_dataset=only(session.dataset, *used), **session.usual)
            answers = ("chosen_ids", "rejected_ids")
            cut = count_cut(trainer.train_dataset, args.max_length, answers)
            return session.fit(trainer, rows_cut=cut)
        encoded = _encode(session)
        if session.tokenizer.pad_token is None:
            session.tokenizer.pad_token = session.tokenizer.eos_token
        collator = AnswersCollator(session.tokenizer.pad_token_id, args.pad_to_multiple_of)
        trainer = AnswersTrainer(
            train_dataset=encoded.rows, data_collator=collator, **session.usual
        )
        more = {"answers_left_out": encoded.answers_left_out, "labels_missing": encoded.missing}
        return session.fit(trainer, rows_cut=encoded.rows_cut, more=more)


def _encode(session: Session) -> Encoded:
    """The tokenized dataset. Raises `RecipeError` if nothing of it can be trained on."""
    args, dataset = session.args, session.dataset
    found = f"(the dataset has: {', '.join(dataset.column_names)})"
    if args.is_listwise:
        if not set(LIST_COLUMNS) <= set(dataset.column_names):
            raise RecipeError(
                f"config.loss_type {args.loss_type[0]} needs a reward view's columns prompt, "
                f"responses, scores {found}"
            )
        encoded = listwise.encode_lists(dataset, session.tokenizer, args.max_length)
    else:
        if "preference" not in dataset.column_names:
            raise RecipeError(f"config.soft_labels needs a column preference {found}")
        encoded = listwise.encode_pairs(dataset, session.tokenizer, args.max_length)
    say_what_is_missing(session, encoded, "preference")
    if len(encoded.rows) == 0:
        why = "; ".join(f"{count}: {reason}" for reason, count in encoded.rows_left_out.items())
        is_long = listwise.too_long(args.max_length) in encoded.rows_left_out
        remedy = "raise config.max_length" if is_long else "look at what made the column scores"
        raise RecipeError(f"none of the {len(dataset)} rows is left ({why}); {remedy}")
    return encoded
