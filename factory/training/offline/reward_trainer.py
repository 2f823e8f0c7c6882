"""TRL's reward trainer with what it lacks: lists of answers, scores, soft labels, the LM regularizer.

The classes stand at module level because checkpoints pickle the config.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import trl
from torch import Tensor
from torch.nn.functional import linear

from factory.training.common.trained_rows import model_inputs
from factory.training.offline import reward_losses as losses
from factory.training.offline.encoding import log_means

LOSSES = ("pairwise", "listwise", "pointwise")
LM_LOSSES = {"imitation": losses.imitation, "grm": losses.grm}

# TRL's options that change what the model reads. It must be what the engines show it.
FIXED = ("chat_template_path", "eos_token", "pad_token")


@dataclass
class RewardConfig(trl.RewardConfig):  # type: ignore[misc]
    """Options of reward training: TRL's, and these."""

    loss_type: str | None = None
    """One of `LOSSES`. None: pairwise for chosen and rejected, listwise for responses and scores."""
    soft_labels: bool = False
    """The column `preference`, P(chosen is better) in [0, 1], is the target instead of 1."""
    use_margin: bool = False
    """Use the column `margin`, in units of reward, as the lead that chosen must have."""
    lm_weight: float = 0.0
    """Share, in [0, 1), of the language-modeling loss on the best answer."""
    lm_loss: str = "imitation"
    """That loss, one of `LM_LOSSES`: `imitation` is the mean over the answer's tokens, in nats; `grm`
    what GRM's authors train with, of the sum (they use it with lm_weight 0.01)."""
    standardize_scores: bool = True
    """Pointwise: scale the targets to mean 0 and standard deviation 1; training.json has the originals."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in FIXED:
            if getattr(self, name) is not None:
                raise ValueError(f"{name} has no effect; change the tokenizer of the base model")
        if self.loss_type is not None and self.loss_type not in LOSSES:
            raise ValueError(f"loss_type is '{self.loss_type}', not one of {', '.join(LOSSES)}")
        if not 0 <= self.lm_weight < 1:
            raise ValueError(f"lm_weight is {self.lm_weight}; it is a share, 0 to below 1")
        if self.lm_loss not in LM_LOSSES:
            raise ValueError(f"lm_loss is '{self.lm_loss}', not one of {', '.join(LM_LOSSES)}")
        if self.lm_loss != "imitation" and not self.lm_weight:
            raise ValueError(f"lm_loss is {self.lm_loss}, but lm_weight is 0; GRM's is 0.01")
        if self.soft_labels and self.use_margin:
            raise ValueError(
                "soft_labels and use_margin both say how much better chosen is; set one of them"
            )
        for name in ("soft_labels", "use_margin"):
            if getattr(self, name) and self.loss_type in ("listwise", "pointwise"):
                raise ValueError(f"{name} is for the pairwise loss, not the {self.loss_type} one")
        if self.center_rewards_coefficient is not None and self.loss_type == "pointwise":
            raise ValueError(
                "center_rewards_coefficient moves rewards to mean 0, but the pointwise loss "
                "already says what they should be; unset it"
            )


class RewardCollator:
    """A batch of all the answers of some prompts: rows of `reward_rows`'s `Encoded` in, tensors out.

    `input_ids` and `attention_mask`, padded on the right, hold the answers prompt by prompt;
    `sizes` how many each prompt has, `best` the rows of `input_ids` that are the best answers,
    `answer_start` where those begin.
    """

    def __init__(self, pad_token_id: int, pad_to_multiple_of: int | None = None) -> None:
        self._pad_token_id = pad_token_id
        self._multiple = pad_to_multiple_of

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        groups = [row.get("ids") or [row["chosen_ids"], row["rejected_ids"]] for row in rows]
        ids_N = [ids for group in groups for ids in group]
        sizes = [len(group) for group in groups]
        firsts = [sum(sizes[:i]) for i in range(len(sizes))]
        batch = {
            **model_inputs(ids_N, self._pad_token_id, self._multiple),
            "sizes": sizes,
            "best": torch.tensor(
                [f + row.get("best", 0) for f, row in zip(firsts, rows, strict=True)]
            ),
            "answer_start": torch.tensor([row["answer_start"] for row in rows]),
        }
        if "scores" in rows[0]:
            batch["scores"] = torch.tensor([score for row in rows for score in row["scores"]])
        else:
            for name in ("preference", "margin"):
                batch[name] = torch.tensor([row[name] for row in rows])
        return batch


class RewardTrainer(trl.RewardTrainer):  # type: ignore[misc]
    """`args.loss_type` must be set; with `args.lm_weight`, so must `lm_head`."""

    lm_head: Tensor | None = None
    """[V, hidden], the base model's, frozen. None: the model's own input embeddings."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # TRL's would filter by columns that lists do not have

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(self.train_dataset.column_names)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a batch of `RewardCollator`."""
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            output_hidden_states=self.args.lm_weight > 0,
            use_cache=False,
        )
        rewards_N = outputs.logits.squeeze(-1).float()
        pairs, loss = self._ranking(rewards_N, inputs)
        winners, losers = (torch.cat(side) for side in zip(*pairs, strict=True))
        if self.args.center_rewards_coefficient is not None:
            center = ((winners + losers) ** 2).mean()
            loss = loss + self.args.center_rewards_coefficient * center
        noted = {
            "mean_reward": rewards_N.mean(),
            "min_reward": rewards_N.min(),
            "max_reward": rewards_N.max(),
        }
        if self.args.lm_weight > 0:
            language = self._imitation(model, outputs.hidden_states[-1], inputs)
            loss = losses.regularized(loss, language, self.args.lm_weight)
            noted["lm_loss"] = language
        # Of the pointwise loss there may be no pair; but all processes must gather alike.
        if len(winners) or self.accelerator.num_processes > 1:
            noted["accuracy"] = (winners > losers).float().mean()
            noted["margin"] = (winners - losers).mean()
        log_means(self, noted)
        return (loss, outputs) if return_outputs else loss

    def _ranking(
        self, rewards_N: Tensor, inputs: dict[str, Any]
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """The pairs (winners, losers) of each prompt, and the loss."""
        if self.args.loss_type == "pairwise":
            chosen_B, rejected_B = rewards_N[0::2], rewards_N[1::2]
            loss = losses.pairwise(
                chosen_B,
                rejected_B,
                p_B=inputs["preference"] if self.args.soft_labels else None,
                margin_B=inputs["margin"] if self.args.use_margin else None,
            )
            return [(chosen_B, rejected_B)], loss
        split = (rewards_N.split(inputs["sizes"]), inputs["scores"].split(inputs["sizes"]))
        pairs = [losses.strict_pairs(*prompt) for prompt in zip(*split, strict=True)]
        if self.args.loss_type == "listwise":
            return pairs, losses.listwise(pairs)
        return pairs, losses.pointwise(rewards_N, inputs["scores"])

    def _imitation(self, model: Any, hidden_NT: Tensor, inputs: dict[str, Any]) -> Tensor:
        """The best answers' tokens, each predicted from the one before it."""
        best, start = inputs["best"], inputs["answer_start"].clamp(min=1)
        ids = inputs["input_ids"][best]
        place = torch.arange(ids.shape[1], device=ids.device)
        is_answer = (place >= start[:, None]) & inputs["attention_mask"][best].bool()
        before = hidden_NT[best][:, :-1][is_answer[:, 1:]]
        head = self.lm_head
        if head is None:
            head = self.accelerator.unwrap_model(model).get_input_embeddings().weight
        logits_TV = linear(before, head.to(before.device))
        loss = LM_LOSSES[self.args.lm_loss]
        return loss(logits_TV, ids[is_answer], is_answer.nonzero()[:, 0])
