"""The group-relative methods by name: what each sets, and the formula that the settings make.

G completions of one prompt have rewards r_i; A_i is the advantage of each, w_it = pi / pi_old the
ratio of a token's probability to the one it was drawn with, |o_i| the tokens of a completion. The
standard deviation is the sample's (over G - 1), as in TRL, and 1e-4 is added to it. Losses are minus
what is given here. What a user sets wins over the preset, and a preset over TRL's own defaults, which
are of no paper (`loss_type="dapo"`, `beta=0`, the KL term weighted by w).

The ratios differ from 1, and clipping acts at all, only where one batch of completions makes several
updates: `num_iterations` above 1, or `steps_per_generation` above `gradient_accumulation_steps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from factory.core.errors import RecipeError
from factory.core.yamlfile import nearest


class Preset(NamedTuple):
    """One method."""

    paper: str
    formula: str
    settings: Mapping[str, Any]
    note: str = ""
    """Differences between the settings and the paper's method."""


# What the settings below start from: on each of these some preset, or TRL's default, differs.
_COMMON: dict[str, Any] = {
    "loss_type": "grpo",
    "importance_sampling_level": "token",
    "scale_rewards": "group",
    "beta": 0.0,
    "epsilon": 0.2,
    "epsilon_high": None,
    "mask_truncated_completions": False,
    "use_bias_correction_kl": False,
    "resample_tries": 0,
    "keep": None,
}

_CLIPPED = "min(w_it A_i, clip(w_it, 1 - epsilon, 1 + epsilon) A_i)"
_SCALED = "A_i = (r_i - mean r) / std r"

PRESETS: dict[str, Preset] = {
    "grpo": Preset(
        "Shao et al. 2024, arXiv 2402.03300",
        f"mean over i of (1/|o_i|) sum over t of {_CLIPPED} - beta KL_it; {_SCALED}; "
        "KL_it = ref/pi - log(ref/pi) - 1",
        _COMMON | {"beta": 0.04},
    ),
    "dr-grpo": Preset(
        "Liu et al. 2025, arXiv 2503.20783",
        f"mean over i of (1/max_completion_length) sum over t of {_CLIPPED}; A_i = r_i - mean r",
        _COMMON | {"loss_type": "dr_grpo", "scale_rewards": "none"},
    ),
    "dapo": Preset(
        "Yu et al. 2025, arXiv 2503.14476",
        "sum over i, t of min(w_it A_i, clip(w_it, 1 - epsilon, 1 + epsilon_high) A_i) / sum over i "
        f"of |o_i|; {_SCALED}; cut completions teach nothing; a group of equal rewards gives way to "
        "another prompt's",
        _COMMON
        | {
            "loss_type": "dapo",
            "epsilon_high": 0.28,
            "mask_truncated_completions": True,
            "resample_tries": 3,
        },
        "its soft overlong punishment is a reward: {kind: overlong, maximum: .., cache: ..}",
    ),
    "gspo": Preset(
        "Zheng et al. 2025, arXiv 2507.18071",
        "mean over i of min(s_i A_i, clip(s_i, 1 - epsilon, 1 + epsilon_high) A_i); "
        f"s_i = exp(mean over t of log w_it); {_SCALED}",
        _COMMON | {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        "made for several updates a batch: its paper has steps_per_generation: 4",
    ),
    "gmpo": Preset(
        "Zhao et al. 2025, arXiv 2507.20673",
        "mean over i of A_i exp(mean over t of log w_it, cut to [-epsilon, epsilon] on the side that "
        f"A_i pushes to); {_SCALED}",
        _COMMON | {"epsilon": 0.4},
        "epsilon is in log space; by trl.experimental.gmpo",
    ),
    "gfpo": Preset(
        "Shrivastava et al. 2025, arXiv 2508.09726",
        "of G completions the `keep` best by `keep_by` make the group: A_i = (r_i - mean r) / std r "
        "over them, 0 for the others; sum over i, t of "
        f"{_CLIPPED} / sum over i of |o_i|, all G of them",
        _COMMON | {"loss_type": "dapo", "num_generations": 8, "keep": 4, "keep_by": "length"},
        "its paper keeps 8 of 16 or 24, and adds small KL and entropy terms: beta, entropy_coef",
    ),
    "lite-ppo": Preset(
        "Liu et al. 2025, arXiv 2508.08221",
        f"sum over i, t of {_CLIPPED} / sum over i of |o_i|; A_i = (r_i - mean of its group) / std "
        "of the batch",
        _COMMON | {"loss_type": "dapo", "scale_rewards": "batch", "gradient_accumulation_steps": 4},
        "a batch must hold the groups of several prompts, or its std is the group's",
    ),
    "cispo": Preset(
        "MiniMax 2025, arXiv 2506.13585",
        "sum over i, t of stop-gradient(min(w_it, epsilon_high)) A_i log pi_it / sum over i of "
        f"|o_i|; {_SCALED}",
        _COMMON | {"loss_type": "cispo", "epsilon_high": 5.0},
        "epsilon_high is the bound itself, as in TRL; 5 is ScaleRL's (arXiv 2510.13786)",
    ),
}
DEFAULT = "grpo"


def settings(name: Any) -> dict[str, Any]:
    """The settings of a preset. Raises `RecipeError` that describes all presets if `name` is unknown."""
    if name not in PRESETS:
        near = nearest(str(name), PRESETS)
        raise RecipeError(f"config.preset: no preset '{name}'{near}. The presets:\n\n{describe()}")
    return dict(PRESETS[name].settings)


def describe() -> str:
    """The presets for a person: name, paper, formula, settings."""
    return "\n\n".join(_described(name, preset) for name, preset in PRESETS.items())


def _described(name: str, preset: Preset) -> str:
    differ = {k: v for k, v in preset.settings.items() if k not in _COMMON or v != _COMMON[k]}
    shown = preset.settings if name == DEFAULT else differ
    lines = [f"{name}  ({preset.paper})", f"  maximizes {preset.formula}"]
    start = "sets" if name == DEFAULT else f"as {DEFAULT} with beta=0.0 and"
    lines.append(f"  {start} " + ", ".join(f"{k}={v}" for k, v in shown.items()))
    if preset.note:
        lines.append(f"  {preset.note}")
    return "\n".join(lines)
