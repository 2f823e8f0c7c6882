"""Code shared by the online trainers: sizes, usable prompts, counts.

In: a grpo view (prompt, and reference where a reward checks against it). A prompt that leaves no
room for an answer, or has no reference where one is needed, is left out and counted.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from factory.core.errors import RecipeError
from factory.engines.vllm_reasoning import answer_reader
from factory.training.common.data import Opened, open_view
from factory.training.common.plain_words import Advice
from factory.training.common.progress import say
from factory.training.common.session import Session
from factory.training.common.trained_rows import beyond_embeddings, only
from factory.training.online.rewards import Rewards, build_rewards, parse_rewards

if TYPE_CHECKING:
    from datasets import Dataset

_USED = ("prompt", "reference")
"""All that a reward reads; TRL hands every other column to the rewards, and `images`, `tools` and
`chat_template_kwargs` to the template."""

NO_REFERENCE = "no reference answer"

# Completions are drawn one token at a time by transformers: on a CPU few and short ones.
_CPU = {"num_generations": 4, "max_completion_length": 64}
_GPU = {"num_generations": 8, "max_completion_length": 512}

ADVICE = Advice(length="max_completion_length", less_memory="lower num_generations; ")

# With one of these the user decides how many completions a batch has.
BATCHES = (
    "per_device_train_batch_size",
    "generation_batch_size",
    "steps_per_generation",
    "gradient_accumulation_steps",
)


def open_prompts(kind: str, data: Path | str, config: Mapping[str, Any]) -> Opened:
    """The dataset, after a look at the rewards."""
    parse_rewards(config.get("rewards"))
    return open_view(kind, data, config)


CHECKED = frozenset({*BATCHES, "num_generations", "reward_weights"})
"""Options of TRL that the configs of the group methods check."""


def refuse_reward_weights(args: Any) -> None:
    if args.reward_weights is not None:
        raise ValueError("reward_weights: give each entry of rewards its weight instead")


def sizes(config: Mapping[str, Any], generations: int | None = None) -> dict[str, Any]:
    """Defaults for this machine: completions a prompt (`generations`, if the method says it), their
    length in tokens, and a batch of one prompt's completions, which TRL needs whole."""
    import torch

    on_gpu = torch.cuda.is_available() and not config.get("use_cpu", False)
    defaults: dict[str, Any] = dict(_GPU if on_gpu else _CPU)
    if generations is not None:
        defaults["num_generations"] = generations
    if not any(name in config for name in BATCHES):
        group = config.get("num_generations", defaults["num_generations"])
        defaults["per_device_train_batch_size"] = group
    elif (
        "per_device_train_batch_size" not in config
    ):  # so that the check sees what the training does
        defaults["per_device_train_batch_size"] = 8 if on_gpu else 2
    return defaults


def fit(session: Session, loop: Any, sampling: str | None = None) -> dict[str, Any]:
    """Train with `loop`, a trainer of TRL's. `sampling`: its attribute to record under that name."""
    args = session.args
    template = args.chat_template_kwargs or {}
    with rewards_for(session, args.rewards, str(args.device), template) as rewards:
        args.reward_weights = rewards.weights
        trainer = loop(
            reward_funcs=rewards.functions(),
            train_dataset=_rows(session, rewards, template),
            **session.usual,
        )
        # They go on counting while it trains, since the last start or resume.
        more: dict[str, Any] = {"completions_left_out": rewards.left_out}
        if sampling is not None:
            more["sampling"] = getattr(trainer, sampling)
        with counted_by_us():
            record = session.fit(trainer, more=more)
    for reason, count in rewards.left_out.items():
        say(f"{count} completions left out: {reason}")
    return record


def rewards_for(
    session: Session, entries: Any, device: str | None, template: Mapping[str, Any]
) -> Rewards:
    """The rewards of these entries. `template`: options of the chat template.

    Raises `RecipeError` if the dataset lacks the column that one of them needs.
    """
    rewards = build_rewards(entries, device=device)
    rewards.stop = session.stop
    rewards.answer = answer_reader(session.tokenizer, template)
    columns = session.dataset.column_names
    if rewards.needs_reference and "reference" not in columns:
        raise RecipeError(
            "config.rewards: verify checks against a column 'reference', which the dataset lacks "
            f"(it has: {', '.join(columns)}); export the view from a source with references, or "
            "rename the column that holds them"
        )
    return rewards


class Usable(NamedTuple):
    """The prompts that can be trained on."""

    ids: dict[int, list[int]]
    """Place of the row -> token ids of its prompt."""
    left_out: dict[str, int]
    """Reason -> number of the others: too long, without a reference, of unknown tokens."""
    longest: int
    """Tokens of the longest prompt, too long or not."""


def usable(
    session: Session, rewards: Rewards, limit: int | None, ids_of: Callable[[Any], list[int]]
) -> Usable:
    """The prompts of at most `limit` tokens, with a reference if a reward needs one. The others are
    printed and recorded. `ids_of`: the token ids of a row's prompt."""
    size = session.vocabulary
    too_long, unknown = f"prompt over {limit} tokens", beyond_embeddings(size or 0)
    left_out = {too_long: 0, NO_REFERENCE: 0, unknown: 0}
    kept: dict[int, list[int]] = {}
    longest = 0
    for place, row in enumerate(only(session.dataset, *_USED)):
        if rewards.needs_reference and not _has_reference(row):
            left_out[NO_REFERENCE] += 1
            continue
        ids = ids_of(row["prompt"])
        longest = max(longest, len(ids))
        if limit is not None and len(ids) > limit:
            left_out[too_long] += 1
        elif size is not None and max(ids, default=0) >= size:
            left_out[unknown] += 1
        else:
            kept[place] = ids
    session.leave_out(left_out)
    return Usable(kept, left_out, longest)


def _has_reference(row: Mapping[str, Any]) -> bool:
    """True if the row has a reference answer. 0 is one."""
    reference = row.get("reference")
    return reference is not None and bool(str(reference).strip())


def context_of(session: Session) -> int | None:
    """Most tokens of a prompt and its completion. None: the model's config does not say."""
    return getattr(session.model_config.get_text_config(), "max_position_embeddings", None)


def _rows(session: Session, rewards: Rewards, template: Mapping[str, Any]) -> Dataset:
    """The rows to train on. Raises `RecipeError` if none is left."""
    args, tokenizer = session.args, session.tokenizer

    def ids_of(prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            return list(tokenizer(prompt)["input_ids"])
        asked = {"add_generation_prompt": True, "return_dict": False, **template}
        return list(tokenizer.apply_chat_template(prompt, **asked))

    limits = [args.max_prompt_length] if args.max_prompt_length is not None else []
    context = context_of(session)
    if context is not None and args.max_completion_length is not None:
        limits.append(context - args.max_completion_length)
    limit = min(limits, default=None)
    found = usable(session, rewards, limit, ids_of)
    if not found.ids:
        why = "; ".join(f"{count} {reason}" for reason, count in found.left_out.items() if count)
        too_long = limit is not None and found.longest > limit
        remedy = f" (the longest has {found.longest})" if too_long else ""
        raise RecipeError(
            f"none of the {len(session.dataset)} rows is left: {why}{remedy}; a prompt and "
            f"max_completion_length ({args.max_completion_length}) must fit the model's context"
        )
    return only(session.dataset, *_USED).select(list(found.ids))


@contextlib.contextmanager
def counted_by_us() -> Iterator[None]:
    """Silence TRL's warning about each completion without a reward; we count these."""
    logger = logging.getLogger("trl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class OnlineTrainer:
    """Base class before TRL's online trainers, which adds what they lack."""

    _buffered_inputs: Any
    _metrics: Any
    _step: int
    args: Any
    model: Any
    state: Any

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Counts batches on from where a training resumes. TRL counts from 0, so that a training
        stopped between two drawings of completions would draw at other prompts ever after."""
        if self._buffered_inputs is None:
            self._step = self.state.global_step * self.args.gradient_accumulation_steps
        return super()._prepare_inputs(generation_batch)  # type: ignore[misc]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log without metrics that no batch since the last log has a value for. TRL would log None, which
        readers of the log cannot take for a number."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name in [name for name, values in metrics.items() if all(map(math.isnan, values))]:
            del metrics[name]
        super().log(logs, start_time)  # type: ignore[misc]
