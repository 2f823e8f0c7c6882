"""Proximal policy optimization (Schulman et al. 2017, arXiv 1707.06347), as for language models by
Ziegler et al. (2019, 1909.08593) and InstructGPT (2203.02155). Our own code: TRL no longer has PPO.

In: a grpo view, or any dataset with a column `prompt`. Out: the policy alone, as `AutoModelForCausalLM`
loads it, and its critic in `value_head/`.

A step: a completion of each of `rollout_batch_size` prompts is drawn, scored at its last token, and
less beta (log pi - log ref) at every token; advantages by GAE, whitened over the batch; then
`num_ppo_epochs` passes with clipped losses for policy and critic.

It departs from InstructGPT in that pretraining gradients are not mixed in, the critic by default is
a head on the policy, and losses are means over the tokens of a minibatch. `kl: loss` makes the KL a
term of the loss, by Schulman's k3 estimator.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from factory.core import weights
from factory.core.errors import RecipeError
from factory.core.records import Message
from factory.engines.render import prompt_ids
from factory.training.common.options import train_in_float32
from factory.training.common.plain_words import Advice
from factory.training.common.progress import say
from factory.training.common.session import Session
from factory.training.common.tokenizer import load_tokenizer
from factory.training.common.trained_rows import beyond_embeddings
from factory.training.online import common
from factory.training.online.rewards import Rewards
from factory.training.ppo import value_head
from factory.training.ppo.config import PpoConfig, parsed
from factory.training.ppo.experience import Experience, Prompt
from factory.training.ppo.trainer import PpoTrainer
from factory.training.ppo.value_head import ValueHead
from factory.training.trainer import Trainer


class Ppo(Trainer):
    """Proximal policy optimization. In memory: the policy, its optimizer, the reference (none with an
    adapter), the scoring models, and with `value: own` the critic with its own."""

    kind = "ppo"
    config_class = PpoConfig
    # The learning rate is small: each step uses its rollouts several times. The batch is the memory's
    # alone, and passes over a few sequences each are slow on CPUs too.
    defaults = {"learning_rate": 3e-6, "per_device_train_batch_size": 8}
    lora_defaults = {"learning_rate": 3e-5}
    advice = Advice(
        library="transformers",
        length="max_completion_length",
        accumulate=" (the same training)",
        less_memory="use value: shared; lower rollout_batch_size; ",
    )

    def check_given(self, given: Mapping[str, Any], lora: Mapping[str, Any] | None) -> None:
        _check_critic(parsed(given), lora)

    def fit(self, session: Session, config: Mapping[str, Any]) -> dict[str, Any]:
        args = session.args
        _check_critic(args, session.lora)
        device = "cpu" if args.use_cpu else None
        with common.rewards_for(session, args.reward_entries(), device, {}) as rewards:
            prompts = _prompts(session, rewards)
            policy, reference = _policy(session)
            critic = _critic(session, policy)
            experience = Experience(
                args, policy, reference, critic, prompts, session.tokenizer, rewards
            )
            session.beside["value_head"] = critic.save
            trainer = PpoTrainer(experience, [session.progress])
            more = {"completions_left_out": experience.left_out, "value": args.value}
            return session.fit(trainer, more=more)


def _check_critic(args: PpoConfig, lora: Any) -> None:
    if args.value == "own" and lora is not None:
        raise RecipeError(
            "config.value: own trains all weights of a second model, which an adapter is meant to "
            "avoid; use value: shared, or no lora"
        )


def _prompts(session: Session, rewards: Rewards) -> list[Prompt]:
    """The tokenized prompts. Raises `RecipeError` if none is left."""
    limit = _longest_prompt(session)
    found = common.usable(
        session, rewards, limit, lambda prompt: prompt_ids(session.tokenizer, _messages(prompt), {})
    )
    if found.ids:
        rows = ((session.dataset[place], ids) for place, ids in found.ids.items())
        return [Prompt(_messages(row["prompt"]), ids, row.get("reference")) for row, ids in rows]
    too_long, without, unknown = found.left_out.values()
    if unknown:
        beyond = beyond_embeddings(session.vocabulary or 0)
        raise RecipeError(f"none of the {unknown} prompts is left: {beyond}")
    if too_long:
        raise RecipeError(
            f"none of the {too_long} prompts has at most {limit} tokens, the least of "
            "config.max_prompt_length and the model's context less max_completion_length; the "
            f"longest has {found.longest}"
        )
    raise RecipeError(
        f"none of the {without} rows has a reference answer in the column 'reference', which a "
        "reward checks against"
    )


def _messages(prompt: Any) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _longest_prompt(session: Session) -> int:
    """Tokens that may go before a completion."""
    args: PpoConfig = session.args
    context = common.context_of(session) or sys.maxsize
    completion = args.max_completion_length
    if completion >= context:
        raise RecipeError(
            f"config.max_completion_length {completion} leaves no place for a prompt in the "
            f"model's context of {context} tokens"
        )
    return min(args.max_prompt_length or sys.maxsize, context - completion)


def _policy(session: Session) -> tuple[Any, Any]:
    """The policy, and the reference: the same weights, frozen; None for an adapter's."""
    from transformers import AutoModelForCausalLM, set_seed

    policy = AutoModelForCausalLM.from_pretrained(session.model_dir, **session.model_options)
    reference = None
    if session.lora is None:
        reference = AutoModelForCausalLM.from_pretrained(session.model_dir, **session.model_options)
    else:
        from peft import get_peft_model

        set_seed(session.args.seed)  # the adapter's weights
        policy = get_peft_model(policy, session.lora)
        train_in_float32(policy)
    _save_memory(policy, session.args)
    return policy, reference


def _critic(session: Session, policy: Any) -> ValueHead:
    args = session.args
    if args.value == "shared":
        return value_head.shared(policy)
    folder, is_scorer = session.model_dir, False
    if args.reward_model is not None:
        scorer = weights.resolve(args.reward_model)
        trust = session.model_options["trust_remote_code"]
        theirs = load_tokenizer(scorer, trust_remote_code=trust)
        if theirs.get_vocab() == session.tokenizer.get_vocab():
            folder, is_scorer = scorer, True
        else:
            say("the reward model has another vocabulary: the critic starts from the policy")
    critic = value_head.own(folder, session.model_options, is_scorer=is_scorer)
    _save_memory(critic.backbone, args)
    return critic


def _save_memory(model: Any, args: PpoConfig) -> None:
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
