"""Options of a model that vLLM runs in this process, and their checks against the model's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from factory.core.config import Config
from factory.core.errors import RecipeError
from factory.engines.base import Task
from factory.engines.vllm_names import ENGINE_ARGS, parser_problem, unknown_name


class VllmConfig(Config):
    """Options of a model that vLLM runs in this process."""

    engine: Literal["vllm"] = "vllm"
    model: str
    """`smollm2-135m-instruct`, a local folder (relative to the recipe), a Hub id, or `trained:NAME`, the
    result of the recipe's training of that name."""
    max_model_len: int | None = Field(None, ge=16)
    """Context in tokens. None: the model's own."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights. auto: the model's own, or float32 on a CPU that only emulates bfloat16."""
    max_num_seqs: int | None = Field(None, ge=1)
    """Most sequences that run at once. None: 64 on CPUs, 256 on GPUs."""
    task: Task = "generate"
    """`classify`: a reward model. `token_classify`: a process reward model. Both only score, and need a
    trained model with a classification head."""
    label_tokens: list[str] = []
    """With a task that scores: use a generating model, whose outputs are then the logits of these
    tokens, written as in its vocabulary: `["▁+", "▁-"]` for Math-Shepherd's."""
    memory_fraction: float | None = Field(None, gt=0, le=1)
    """Share of the GPU's memory. None: an equal share of 0.9 for each of the recipe's engines."""
    chat_template_kwargs: dict[str, Any] = {}
    """Arguments for the chat template, such as `{enable_thinking: false}`."""
    reasoning_parser: str | None = None
    """vLLM's parser that splits this model's thought from its answer, as for `--reasoning-parser`.
    None: the marks in its chat template are used, if it thinks."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Set it only if you trust the model's authors."""
    engine_args: dict[str, Any] = {}
    """Arguments passed to vLLM's AsyncEngineArgs, such as `{tensor_parallel_size: 2}`. `hf_overrides`
    overrides, key by key, what this engine sets there (a judge's `head_dtype`)."""

    @field_validator("reasoning_parser")
    @classmethod
    def _check_parser(cls, value: str | None) -> str | None:
        if value is not None and (problem := parser_problem(value)) is not None:
            raise ValueError(problem)
        return value

    @field_validator("engine_args")
    @classmethod
    def _check_engine_args(cls, value: dict[str, Any]) -> dict[str, Any]:
        if (found := unknown_name(value, ENGINE_ARGS, "AsyncEngineArgs")) is not None:
            raise ValueError(found[1])
        return value

    @model_validator(mode="after")
    def _labels_need_a_task(self) -> Self:
        if self.label_tokens and self.task == "generate":
            raise ValueError(
                "label_tokens: they make a scoring model; set task: classify or token_classify"
            )
        return self


def refuse_other_head(config: VllmConfig, model_dir: Path) -> None:
    """Raise `RecipeError` if the model's head is not its task's: vLLM would score with a random one."""
    try:
        names = json.loads((model_dir / "config.json").read_text())["architectures"] or []
    except (OSError, ValueError, KeyError):
        return  # vLLM will report the folder's error
    writes = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)
    if writes and config.task != "generate" and not config.label_tokens:
        trains = "reward" if config.task == "classify" else "prm"
        raise RecipeError(
            f"{config.model} ({', '.join(names)}) has no classification head to score with, as "
            f"task: {config.task} needs; train one with `factory train {trains}`, or name the "
            "label_tokens it answers with"
        )
    if not writes and names and config.task == "generate":
        raise RecipeError(
            f"{config.model} ({', '.join(names)}) scores and does not write; set task: classify "
            "(a reward model) or task: token_classify (a process reward model)"
        )


def refuse_unknown_tokens(config: VllmConfig, model_dir: Path) -> None:
    """Raise `RecipeError` for a label token not in the vocabulary: vLLM would read the unknown token's."""
    from transformers import AutoTokenizer

    vocabulary = AutoTokenizer.from_pretrained(
        model_dir, trust_remote_code=config.trust_remote_code
    ).get_vocab()
    for token in config.label_tokens:
        if token not in vocabulary:
            # A token that follows a space is written with "▁" by SentencePiece, with "Ġ" by BPE.
            near = [spaced for mark in "▁Ġ" if (spaced := mark + token) in vocabulary]
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise RecipeError(f"label_tokens: '{token}' is no token of {config.model}{hint}")
