"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740), by `trl.RLOOTrainer`.

In: a grpo view, and `rewards:` in the config, as `factory train grpo` has them. For each prompt the
model writes `num_generations` completions. The reward of one is R_i = r_i - beta * KL_i, with KL_i
the sum over its tokens of log pi_old - log ref; its advantage A_i is R_i less the mean R of the
others; the loss is -min(w_i A_i, clip(w_i, 1 - epsilon, 1 + epsilon) A_i), w_i the ratio of the whole
completion's probabilities, which is 1 where a batch makes one update: the paper's REINFORCE.

A completion that a reward's scorer could not score is left out, of the others' mean too, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.training.common import options
from factory.training.common.data import open_dataset
from factory.training.common.progress import say
from factory.training.common.session import Session
from factory.training.online import online
from factory.training.online.rewards import parse_rewards

COLUMNS = online.COLUMNS

# TRL's own, stated because they decide the result.
_DEFAULTS = {"beta": 0.05, "epsilon": 0.2, "learning_rate": 1e-6}
# An adapter starts from nothing and needs larger steps.
_LORA_DEFAULTS = _DEFAULTS | {"learning_rate": 1e-5}

_CHECKED = (*online.BATCHES, "num_generations", "reward_weights", "rewards", "max_prompt_length")


def check(config: Mapping[str, Any], lora: Mapping[str, Any] | None = None) -> None:
    """Raise `RecipeError` if an option is misspelt or wrong. Imports TRL: seconds."""
    from factory.training.online.rloo_trainer import RlooConfig

    given = options.check(RlooConfig, config)
    parse_rewards(given.get("rewards"))
    options.build_lora(lora)
    here = {"use_cpu": True, "bf16": False, "report_to": "none", **online.sizes(given)}
    options.build(RlooConfig, here | {n: v for n, v in given.items() if n in _CHECKED}, Path())


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
    parse_rewards(config.get("rewards"))
    opened = open_dataset(data, "rloo", COLUMNS)
    session = Session("rloo", COLUMNS, data, model, out, lora, config, resume, opened=opened)
    if session.record is not None:
        return session.record
    with session.running():
        from factory.training.online.rloo_trainer import RlooConfig, RlooTrainer

        given = options.check(RlooConfig, config)
        defaults = _DEFAULTS if lora is None else _LORA_DEFAULTS
        session.prepare(RlooConfig, defaults | online.sizes(given))
        with online.rewards_for(session) as rewards:
            trainer = RlooTrainer(
                model=str(session.model_dir),
                reward_funcs=rewards.functions(),
                args=session.args,
                train_dataset=online.usable(session, rewards),
                processing_class=session.tokenizer,
                peft_config=session.lora,
                callbacks=[session.progress],
            )
            # It goes on counting while it trains, since the last start or resume.
            more = {"completions_left_out": rewards.left_out}
            with online.counted_by_us():
                record = session.fit(trainer, more=more)
    for reason, count in rewards.left_out.items():
        say(f"{count} completions left out: {reason}")
    return record
