"""Group-relative policy optimisation and its family, by `trl.GRPOTrainer`.

In: a grpo view, and `rewards:` in the config (`factory.training.online.rewards`). For each prompt the model
writes `num_generations` completions; each is scored, and its advantage is its reward relative to the
group's. `preset` names the method (`grpo_presets` has the formulas): grpo, dr-grpo, dapo, gspo, gmpo,
gfpo, lite-ppo, cispo; what the user sets beside it wins. To see them all:

    factory train grpo --presets

Completions are written by transformers in this process; `use_vllm` (TRL's) needs a GPU. A
completion that a reward's scorer could not score has advantage 0, is in no mean, and is counted (by
this process, since it started).

Where `keep` or `resample_tries` is set, `reward` is of what is learned from, and `policy_reward` of all
that was first drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.training.common import options
from factory.training.common.data import open_dataset
from factory.training.common.progress import say
from factory.training.common.session import Session
from factory.training.online import grpo_presets, online
from factory.training.online.rewards import parse_rewards

COLUMNS = online.COLUMNS

# TRL's own, stated because it decides the result. An adapter starts from nothing and needs larger
# steps.
_LEARNING_RATE = 1e-6
_LORA_LEARNING_RATE = 1e-5

_CHECKED = (
    *online.BATCHES,
    "num_generations",
    "loss_type",
    "importance_sampling_level",
    "reward_weights",
)


def check(config: Mapping[str, Any], lora: Mapping[str, Any] | None = None) -> None:
    """Raise `RecipeError` if an option is misspelt or wrong. Imports TRL: seconds."""
    import trl

    from factory.training.online.grpo_trainer import GMPO_IGNORES, GrpoConfig

    given = options.check(GrpoConfig, config)
    defaults = _defaults(given, is_lora=lora is not None)
    parse_rewards(given.get("rewards"))
    options.build_lora(lora)
    fields = set(GrpoConfig.__dataclass_fields__) - set(trl.GRPOConfig.__dataclass_fields__)
    fields |= {*_CHECKED, *(GMPO_IGNORES if given.get("preset") == "gmpo" else ())}
    here = {"use_cpu": True, "bf16": False, "report_to": "none", **defaults}
    options.build(GrpoConfig, here | {n: v for n, v in given.items() if n in fields}, Path())


def _defaults(given: Mapping[str, Any], *, is_lora: bool) -> dict[str, Any]:
    preset = grpo_presets.settings(given.get("preset", grpo_presets.DEFAULT))
    sizes = online.sizes(given, preset.get("num_generations"))
    rate = _LORA_LEARNING_RATE if is_lora else _LEARNING_RATE
    return {"learning_rate": rate, **preset, **sizes}


def train(
    data: Path | str,
    model: Path | str,
    out: Path,
    *,
    lora: Mapping[str, Any] | None = None,
    config: Mapping[str, Any],
    resume: bool = False,
) -> dict[str, Any]:
    """See `factory.training.common.base.Trainer.train`. With `beta` and without an adapter, policy and
    reference are both in memory."""
    grpo_presets.settings(config.get("preset", grpo_presets.DEFAULT))
    parse_rewards(config.get("rewards"))
    opened = open_dataset(data, "grpo", COLUMNS)
    session = Session("grpo", COLUMNS, data, model, out, lora, config, resume, opened=opened)
    if session.record is not None:
        return session.record
    with session.running():
        from factory.training.online.grpo_trainer import GmpoTrainer, GrpoConfig, GrpoTrainer

        given = options.check(GrpoConfig, config)
        session.prepare(GrpoConfig, _defaults(given, is_lora=lora is not None))
        with online.rewards_for(session) as rewards:
            kind = GmpoTrainer if session.args.preset == "gmpo" else GrpoTrainer
            trainer = kind(
                model=str(session.model_dir),
                reward_funcs=rewards.functions(),
                args=session.args,
                train_dataset=online.usable(session, rewards),
                processing_class=session.tokenizer,
                peft_config=session.lora,
                callbacks=[session.progress],
            )
            # Both go on counting while it trains, since the last start or resume.
            more = {"completions_left_out": rewards.left_out, "sampling": trainer.counts}
            with online.counted_by_us():
                record = session.fit(trainer, more=more)
    for reason, count in rewards.left_out.items():
        say(f"{count} completions left out: {reason}")
    return record
