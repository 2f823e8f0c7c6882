"""Options of PPO, by the names of TRL's former PPO trainer, where it had them. Unknown ones are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory.training.common import options
from factory.training.common.data import Opened, open_view
from factory.training.online.rewards import parse_rewards

_CHOICES = {"kl": ("penalty", "loss"), "value": ("shared", "own")}
_AT_LEAST_1 = (
    "rollout_batch_size",
    "num_ppo_epochs",
    "num_mini_batches",
    "per_device_train_batch_size",
    "max_completion_length",
)
_POSITIVE = (
    "temperature",
    "cliprange",
    "cliprange_value",
    "kl_target",
    "learning_rate",
    "value_head_learning_rate",
    "max_grad_norm",
)
_SHARES = ("gamma", "lam")


@dataclass
class PpoConfig:
    """Options of PPO. A step is one batch of rollouts and the updates on it."""

    output_dir: str
    reward_model: str | None = None
    """Folder of a sequence classifier with one label, as made by `factory train reward`."""
    rewards: list[dict[str, Any]] = field(default_factory=list)
    """Further rewards, added to the reward model's: entries of `factory/training/online/rewards`. At
    least one of the two is needed."""

    max_steps: int = -1
    """Number of steps. -1: as many as `num_train_epochs` over the prompts take."""
    num_train_epochs: float = 1.0
    rollout_batch_size: int = 32
    """Completions per step, one per prompt."""
    num_ppo_epochs: int = 4
    """Passes over one batch of rollouts."""
    num_mini_batches: int = 1
    """Minibatches per pass. Each is one optimizer step."""
    per_device_train_batch_size: int = 8
    """Sequences in one forward pass: changes the memory needed, not the result."""
    max_prompt_length: int | None = 1024
    """Most tokens of a prompt. Rows with longer ones are left out and counted. None: no limit."""
    max_completion_length: int = 128
    """Most tokens of a completion; a longer one is cut."""
    temperature: float = 1.0
    missing_eos_penalty: float | None = None
    """Subtracted from the score of a completion that was cut."""

    kl: str = "penalty"
    """Place of the KL divergence. `penalty`: in each token's reward. `loss`: a term of the loss, by k3."""
    kl_coef: float = 0.05
    """beta, in units of reward per nat."""
    kl_target: float | None = None
    """Target of the adaptive controller, in nats per completion. None: `kl_coef` is constant."""
    gamma: float = 1.0
    lam: float = 0.95
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    """Clipping range of values, in units of reward."""
    vf_coef: float = 0.1
    whiten_rewards: bool = False
    """Scale the tokens' rewards to variance 1 over the batch. Advantages are always whitened."""
    value: str = "shared"
    """The critic. `shared`: a head on the policy's backbone. `own`: its own backbone; see `value_head`."""

    learning_rate: float = 3e-6
    value_head_learning_rate: float = 3e-4
    """Learning rate of the critic's last layer, which starts at zero. A backbone uses `learning_rate`."""
    lr_scheduler_type: str = "linear"
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    """Largest gradient norm, applied separately to the policy, the critic's backbone and its last layer,
    so that large errors of a new critic do not shrink the policy's step."""

    report_to: str | list[str] = "none"
    """Trackers, by transformers' names: tensorboard, wandb, ..."""
    run_name: str | None = None
    """Name of the training in the trackers. None: the folder's name."""

    seed: int = 42
    save_steps: float = 0.25
    """Steps between checkpoints. Below 1: a share of the training. 0: no checkpoints."""
    save_total_limit: int | None = 1
    use_cpu: bool = False
    bf16: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, not {' or '.join(choices)}")
        for name in _AT_LEAST_1:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in _POSITIVE:
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 to 1")
        if self.kl_coef < 0 or self.vf_coef < 0:
            raise ValueError(
                f"kl_coef is {self.kl_coef}, vf_coef {self.vf_coef}; they must be 0 or more"
            )
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_target cannot steer a kl_coef of 0: it is multiplied")
        if self.num_mini_batches > self.rollout_batch_size:
            raise ValueError(
                f"num_mini_batches {self.num_mini_batches} is more than the "
                f"{self.rollout_batch_size} completions of a step (rollout_batch_size)"
            )
        if self.reward_model is None and not self.rewards:
            raise ValueError(
                "nothing is rewarded; give reward_model: FOLDER (of factory train reward), or "
                "rewards: a list, as [{kind: verify}]"
            )

    def reward_entries(self) -> list[dict[str, Any]]:
        """`rewards`, and the reward model as one of them."""
        own = [] if self.reward_model is None else [{"kind": "reward", "model": self.reward_model}]
        return [*own, *self.rewards]


def parsed(config: Mapping[str, Any]) -> PpoConfig:
    """Raises `RecipeError` for an option or a reward that is wrong."""
    args: PpoConfig = options.build(PpoConfig, options.converted(PpoConfig, config), Path())
    parse_rewards(args.reward_entries())
    return args


def open_prompts(kind: str, data: Path | str, config: Mapping[str, Any]) -> Opened:
    """The dataset, after a look at the options."""
    parsed(config)
    return open_view(kind, data, config)
