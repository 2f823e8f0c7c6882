"""Group-relative policy optimization and its family, by `trl.GRPOTrainer`.

In: a grpo view, and `rewards:` in the config (`factory.training.online.rewards`). For each prompt the model
writes `num_generations` completions; each is scored, and its advantage is its reward relative to the
group's. `preset` names the method; `grpo_presets` has the formulas. A completion that a reward's scorer
could not score has advantage 0, is in no mean, and is counted (by this process, since it started).

Dynamic sampling (DAPO, Yu et al. 2025, arXiv 2503.14476): a group whose rewards are all equal teaches
nothing. It gives way to completions of another prompt, drawn at random from the dataset, at most
`resample_tries` times a batch (the paper goes on until the batch is full); groups still flat then stay,
with advantage 0, and are counted.

Group filtering (GFPO, Shrivastava et al. 2025, arXiv 2508.09726): of a group only the `keep` best by
`keep_by` have a reward, so mean and standard deviation are theirs and the others' advantage is 0.

With either, `reward` is of what is learned from, and `policy_reward` of all that was first drawn.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import trl
from torch import Tensor

from factory.training.common.session import Session
from factory.training.online import common, grpo_presets
from factory.training.online.common import OnlineTrainer
from factory.training.online.grpo_presets import DEFAULT
from factory.training.online.rewards import parse_rewards
from factory.training.trainer import Trainer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it is experimental
    from trl.experimental.gmpo import GMPOTrainer

KEEP_BY = ("length", "reward_per_token")
GMPO_IGNORES = ("entropy_coef", "delta", "off_policy_mask_threshold", "use_vllm")
"""Options of TRL's loss that its GMPO trainer ignores."""
_SAME = 1e-6
"""Rewards that differ by less than this are equal."""


@dataclass
class GrpoConfig(trl.GRPOConfig):  # type: ignore[misc]
    """Options of GRPO: TRL's, and these."""

    preset: str = DEFAULT
    """A method of `grpo_presets`. Its settings are defaults, which the user's override."""
    rewards: list[Any] | None = None
    """The rewards of a completion; see `factory.training.online.rewards`."""
    max_prompt_length: int | None = None
    """Most tokens of a prompt. Longer ones are left out. None: limited by the model's context."""
    resample_tries: int = 0
    """Most times that groups of equal rewards are drawn again in one batch. 0: never."""
    keep: int | None = None
    """Completions of a group that are learned from, fewer than `num_generations`. None: all."""
    keep_by: str = "length"
    """Completions to keep. `length`: the shortest. `reward_per_token`: those with the highest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        common.refuse_reward_weights(self)
        if self.resample_tries < 0:
            raise ValueError(f"resample_tries is {self.resample_tries}; it is 0 or more")
        if self.keep is not None and not 2 <= self.keep < self.num_generations:
            raise ValueError(
                f"keep is {self.keep}; it is 2 or more, and less than num_generations "
                f"({self.num_generations})"
            )
        if self.keep_by not in KEEP_BY:
            raise ValueError(f"keep_by is '{self.keep_by}', not one of {', '.join(KEEP_BY)}")
        if self.resample_tries and self.world_size > 1:
            raise ValueError(
                f"dynamic sampling (resample_tries: {self.resample_tries}, as of preset dapo) works "
                "in one process only: set resample_tries to 0, or train on one device"
            )
        if self.preset == "gmpo":
            self._refuse_what_gmpo_ignores()

    def _refuse_what_gmpo_ignores(self) -> None:
        shape = (self.loss_type, self.importance_sampling_level)
        if shape != ("grpo", "token"):
            raise ValueError("preset gmpo has a loss of its own; unset loss_type and the like")
        fields = trl.GRPOConfig.__dataclass_fields__
        for name in GMPO_IGNORES:
            if getattr(self, name) != fields[name].default:
                raise ValueError(f"preset gmpo has a loss of its own, without {name}; unset it")


def totals(rewards_NR: Tensor, weights_R: Tensor) -> Tensor:
    """[N]: the weighted sum of each completion's rewards; NaN: it has none."""
    total_N = (rewards_NR * weights_R).nansum(dim=1)
    return total_N.masked_fill(rewards_NR.isnan().all(dim=1), torch.nan)


def flat_groups(total_N: Tensor, size: int) -> list[int]:
    """Groups of `size` completions without two different rewards, which teach nothing."""
    group_PG = total_N.view(-1, size)
    lowest_P = group_PG.nan_to_num(nan=torch.inf).amin(dim=1)
    highest_P = group_PG.nan_to_num(nan=-torch.inf).amax(dim=1)
    return [int(i) for i in (~(highest_P - lowest_P > _SAME)).nonzero().flatten()]


def all_cut_masked(total_N: Tensor, cut_N: Tensor, size: int) -> Tensor:
    """[N]: NaN in groups of `size` completions all of which were cut."""
    all_cut_P = cut_N.view(-1, size).all(dim=1)
    return total_N.masked_fill(all_cut_P.repeat_interleave(size), torch.nan)


def filtered(total_N: Tensor, tokens_N: Tensor, size: int, keep: int, by: str) -> Tensor:
    """[N], bool: the `keep` best of each group of `size`; of equal ones the earlier. A completion
    without a reward is never kept."""
    badness_N = tokens_N.float() if by == "length" else -total_N / tokens_N.clamp(min=1)
    badness_PG = badness_N.masked_fill(total_N.isnan(), torch.inf).view(-1, size)
    best_PK = badness_PG.argsort(dim=1, stable=True)[:, :keep]
    kept_PG = torch.zeros_like(badness_PG, dtype=torch.bool).scatter(1, best_PK, value=True)
    return kept_PG.flatten() & ~total_N.isnan()


class GrpoTrainer(OnlineTrainer, trl.GRPOTrainer):  # type: ignore[misc]
    """The two, over what TRL's GRPO trainers generate and score."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.counts: Counter[str] = Counter()
        """Of groups: drawn, redrawn, and left flat; of completions: filtered out."""
        self._rows: list[dict[str, Any]] = []
        self._scored_NR: Tensor | None = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        self._rows = inputs
        self._scored_NR = None
        return super()._generate_and_score_completions(inputs)

    def _generate(self, prompts: list[Any]) -> Any:
        made = super()._generate(prompts)
        if not (self.model.training and self.args.resample_tries):
            return made
        size, rows = self.num_generations, self._rows
        prompt_ids, completion_ids, _, completions, logprobs, *_ = made
        rewards_NR = super()._calculate_rewards(rows, prompts, completions, completion_ids)
        self._note_policy_reward(rewards_NR)
        flat = self._flat(rewards_NR, completion_ids)
        redrawn = 0
        for _ in range(self.args.resample_tries):
            if not flat:
                break
            redrawn += len(flat)
            places = [group * size + i for group in flat for i in range(size)]
            for group in flat:
                row = self.train_dataset[int(torch.randint(len(self.train_dataset), (1,)))]
                for i in range(group * size, (group + 1) * size):
                    # In place: TRL goes on with the same two lists.
                    rows[i], prompts[i] = row, row["prompt"]
            again = super()._generate([prompts[i] for i in places])
            lists = [prompt_ids, completion_ids, completions]
            news = [again[0], again[1], again[3]]
            if logprobs is not None:
                lists, news = [*lists, logprobs], [*news, again[4]]
            for old, new in zip(lists, news, strict=True):
                for i, value in zip(places, new, strict=True):
                    old[i] = value
            rewards_NR[places] = super()._calculate_rewards(
                [rows[i] for i in places], [prompts[i] for i in places], again[3], again[1]
            )
            flat = self._flat(rewards_NR, completion_ids)
        self.counts.update(
            groups=len(prompts) // size, groups_redrawn=redrawn, groups_left_flat=len(flat)
        )
        self._metrics["train"]["redrawn_groups"].append(redrawn)
        self._scored_NR = rewards_NR
        return made

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> Tensor:
        rewards_NR = self._scored_NR
        if rewards_NR is None:
            rewards_NR = super()._calculate_rewards(
                inputs, prompts, completions, completion_ids_list
            )
            if self.args.keep is not None and self.model.training:
                self._note_policy_reward(rewards_NR)
        if self.args.keep is None or not self.model.training:
            return rewards_NR
        lengths = [len(ids) for ids in completion_ids_list]
        tokens_N = self.accelerator.gather(torch.tensor(lengths, device=rewards_NR.device))
        kept_N = filtered(
            self._totals(rewards_NR),
            tokens_N,
            self.num_generations,
            self.args.keep,
            self.args.keep_by,
        )
        scored_N = ~rewards_NR.isnan().all(dim=1)
        self.counts["completions_filtered"] += int((scored_N & ~kept_N).sum())
        return rewards_NR.masked_fill(~kept_N[:, None], torch.nan)

    def _totals(self, rewards_NR: Tensor) -> Tensor:
        return totals(rewards_NR, self.reward_weights.to(rewards_NR.device))

    def _flat(self, rewards_NR: Tensor, completion_ids: list[list[int]]) -> list[int]:
        total_N, size = self._totals(rewards_NR), self.num_generations
        if self.args.mask_truncated_completions:  # a group of those alone teaches nothing either
            cut_N = torch.tensor([ids[-1] not in self.eos_token_ids for ids in completion_ids])
            total_N = all_cut_masked(total_N, cut_N.to(total_N.device), size)
        return flat_groups(total_N, size)

    def _note_policy_reward(self, rewards_NR: Tensor) -> None:
        mean = self._totals(rewards_NR).nanmean()
        self._metrics["train"]["policy_reward"].append(float(mean))


class GmpoTrainer(GrpoTrainer, GMPOTrainer):  # type: ignore[misc]
    """The same over TRL's GMPO trainer, which differs in the loss alone."""


class Grpo(Trainer):
    """Group-relative policy optimization. With `beta` and no adapter, the reference is in memory too."""

    kind = "grpo"
    config_class = GrpoConfig
    # TRL's own, stated because it decides the result.
    defaults = {"learning_rate": 1e-6}
    lora_defaults = {"learning_rate": 1e-5}
    checked = common.CHECKED | {"loss_type", "importance_sampling_level", *GMPO_IGNORES}
    advice = common.ADVICE

    def defaults_for(self, given: Mapping[str, Any], *, is_lora: bool) -> dict[str, Any]:
        preset = grpo_presets.settings(given.get("preset", DEFAULT))
        sizes = common.sizes(given, preset.get("num_generations"))
        return {**super().defaults_for(given, is_lora=is_lora), **preset, **sizes}

    def check_given(self, given: Mapping[str, Any], lora: Mapping[str, Any] | None) -> None:
        parse_rewards(given.get("rewards"))

    def fit(self, session: Session, config: Mapping[str, Any]) -> dict[str, Any]:
        loop = GmpoTrainer if session.args.preset == "gmpo" else GrpoTrainer
        return common.fit(session, loop, sampling="counts")
