"""Options of a training: a recipe's mapping -> a trainer's config and a LoRA config.

The user's values have precedence over the trainer's defaults, those over the defaults here, and those
over the library's. No option of TRL is declared here: its config's fields tell misspelled names.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from factory.core.errors import RecipeError, renamed
from factory.core.yamlfile import nearest

LoraTask = Literal["CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS"]

PEFT_RANK = 8
PEFT_ALPHA = 8
"""`lora_alpha` of a `peft.LoraConfig` by default."""

_EVERYWHERE: dict[str, Any] = {
    "num_train_epochs": 1,  # a second pass over preferences mostly memorizes them
    "seed": 42,
    "logging_steps": 5,
    "logging_first_step": True,
    "logging_nan_inf_filter": False,  # by default a loss that is not a number is logged as zero
    "save_steps": 0.25,  # of the training: a kill costs a quarter of it at most
    "save_total_limit": 1,  # an old checkpoint goes only when a newer one is whole
    "disable_tqdm": True,
    "report_to": "none",
}
_CPU: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "per_device_train_batch_size": 2,
}
_GPU: dict[str, Any] = {"gradient_checkpointing": True, "per_device_train_batch_size": 8}

# How the weights load. TRL's configs have both fields, transformers' own has neither; every trainer
# takes them.
_LOADING = ("model_init_kwargs", "trust_remote_code")

# Below these a training would do nothing, or something else than its numbers say: transformers takes
# steps below 1 for unset ones, trains for 0 steps in -1 epochs, and turns a loss around.
_LEAST: dict[str, float] = {
    **dict.fromkeys(("learning_rate", "value_head_learning_rate", "beta", "weight_decay"), 0),
    **dict.fromkeys(("warmup_steps", "save_steps", "seed", "max_grad_norm"), 0),
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps"), 1),
    **dict.fromkeys(("max_length", "max_prompt_length", "max_completion_length"), 1),
}
_ABOVE: dict[str, float] = {"num_train_epochs": 0, "logging_steps": 0, "temperature": 0}
_MOST = 2**63 - 1

# A name that an option had before -> its name.
_OLD_NAMES = {"standardise_scores": "standardize_scores"}

# What the command line decides.
_NOT_HERE = {
    "output_dir": "give --out",
    "resume_from_checkpoint": "give --resume",
    "overwrite_output_dir": "give an empty --out",
}


def as_json(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options as they come back from job.json, so that the two can be compared."""
    if not isinstance(given, Mapping):
        raise RecipeError(f"{where}: expected a mapping of options, found {given!r:.80}")
    plain: dict[str, Any] = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise RecipeError(f"{where}: expected the name of an option, found {name!r:.80}")
        try:
            json.dumps(value, allow_nan=False, default=str)  # msgspec makes null of NaN
            plain[name] = msgspec.json.decode(msgspec.json.encode(value))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise RecipeError(
                f"{where}.{name}: expected numbers, text, lists or mappings, found {value!r:.80} "
                f"({error})"
            ) from error
    return plain


def converted(kind: type, config: Mapping[str, Any], where: str = "config") -> dict[str, Any]:
    """`config` with its plain values converted to the types that `kind`, a dataclass, declares.

    Raises `RecipeError` for an unknown name, a value of another type, or a number that trains nothing.
    """
    if not isinstance(config, Mapping):
        raise RecipeError(f"{where}: expected a mapping of options, found {config!r:.80}")
    hints = typing.get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind) if field.init]
    if "output_dir" in fields:
        fields += [name for name in _LOADING if name not in fields]
        hints = {"model_init_kwargs": dict, "trust_remote_code": bool} | hints
    checked = {}
    for given, value in config.items():
        name = _OLD_NAMES.get(given, given)
        if name != given:
            renamed(given, name)
        if name in _NOT_HERE:
            raise RecipeError(f"{where}.{name} is not set in the config; {_NOT_HERE[name]}")
        if name not in fields:
            raise RecipeError(
                f"{where}.{name}: {kind.__name__} has no option '{name}'{nearest(str(name), fields)}"
            )
        checked[name] = _convert(value, hints[name], f"{where}.{name}")
        _check_number(str(name), checked[name], f"{where}.{name}")
    return checked


def _check_number(name: str, value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{where}: expected a finite number, found {value}")
    if isinstance(value, int) and abs(value) > _MOST:
        raise RecipeError(f"{where}: expected a number of 64 bits, found {value}")
    if name in _LEAST and value < _LEAST[name]:
        raise RecipeError(f"{where}: expected {_LEAST[name]:g} or more, found {value}")
    if name in _ABOVE and value <= _ABOVE[name]:
        raise RecipeError(f"{where}: expected a number above {_ABOVE[name]:g}, found {value}")
    if name == "max_steps" and value < 1 and value != -1:
        raise RecipeError(
            f"{where}: expected 1 or more, or -1 (num_train_epochs says it), found {value}"
        )


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Convert a value to a plain type. (Some YAML readers give 1e-5 as text.)"""
    from pydantic import TypeAdapter, ValidationError

    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if is_union else (hint,)
    if not set(parts) <= {int, float, bool, types.NoneType}:
        return value
    try:
        if isinstance(value, bool) and bool not in parts:  # Python takes it for a number
            raise ValueError(value)
        return TypeAdapter(hint).validate_python(value)
    except (ValidationError, ValueError):
        names = " or ".join("nothing" if p is types.NoneType else p.__name__ for p in parts)
        raise RecipeError(f"{where}: expected {names}, found {value!r}") from None


def resolve(
    kind: type, defaults: Mapping[str, Any], config: Mapping[str, Any], *, is_lora: bool
) -> dict[str, Any]:
    """All options that differ from the library's defaults, for this machine. `kind`: the config class:
    TRL's, ours that extends it, or `transformers.TrainingArguments`."""
    import torch

    given = converted(kind, config)
    on_gpu = torch.cuda.is_available() and not given.get("use_cpu", False)
    options = _EVERYWHERE | (_GPU if on_gpu else _CPU) | dict(defaults) | given
    if on_gpu and "bf16" not in given and "fp16" not in given:
        options["bf16" if torch.cuda.is_bf16_supported() else "fp16"] = True
        options.setdefault("bf16", False)  # TRL reads an unset bf16 as True
    # All weights train in float32 (bfloat16 would swallow small steps); frozen ones need not.
    model_options = given.get("model_init_kwargs") or {}
    if not isinstance(model_options, Mapping):
        raise RecipeError(f"config.model_init_kwargs: expected a mapping, found {model_options!r}")
    dtype = "auto" if is_lora and on_gpu else "float32"
    options["model_init_kwargs"] = {
        "dtype": dtype,
        "use_safetensors": True,  # never a pickle
        **model_options,
    }
    return options


def build(kind: type, options: Mapping[str, Any], out: Path) -> Any:
    """The config object. Raises `RecipeError` with the library's message if it refuses a value."""
    fields = {field.name for field in dataclasses.fields(kind)}
    taken = {name: value for name, value in options.items() if name in fields}
    try:
        return kind(output_dir=str(out), **taken)
    except Exception as error:  # it only looks at values: whatever it says is of those
        said = str(error) or type(error).__name__
        raise RecipeError(f"config: {kind.__name__} refused it: {said}") from error


def build_lora(lora: Mapping[str, Any] | None, task: LoraTask = "CAUSAL_LM") -> Any:
    """A `peft.LoraConfig`, or None. It adapts all linear layers except the head, unless `lora` says
    otherwise. A scoring head is new, so peft trains it whole, by the task."""
    if lora is None:
        return None
    from peft import LoraConfig

    options: dict[str, Any] = {"task_type": task, "target_modules": "all-linear"}
    if task == "TOKEN_CLS":  # there peft would adapt the head too, besides training it
        options["exclude_modules"] = ["score", "classifier"]
    given = converted(LoraConfig, with_alpha(lora), "lora")
    for name in ("r", "lora_alpha"):
        if name in given and not given[name] > 0:
            raise RecipeError(f"lora.{name}: expected a number above 0, found {given[name]}")
    try:
        return LoraConfig(**options | given)
    except Exception as error:  # as in `build`
        raise RecipeError(f"lora: LoraConfig refused it: {error}") from error


def with_alpha(lora: Mapping[str, Any]) -> dict[str, Any]:
    """`lora` with a `lora_alpha`: an adapter's output is scaled by alpha / r, and twice the rank is
    what the learning rates of the trainers' modules are meant for, as in TRL's own LoRA settings.
    (peft's 8 whatever the rank would be a quarter of that at r = 16.) With `use_rslora`, which divides
    by the root of r, peft's stays.

    >>> with_alpha({"r": 16})
    {'r': 16, 'lora_alpha': 32}
    """
    if not isinstance(lora, Mapping):
        raise RecipeError(f"lora: expected a mapping of options, as {{r: 16}}, found {lora!r:.80}")
    if "lora_alpha" in lora or lora.get("use_rslora"):
        return dict(lora)
    try:
        return {**lora, "lora_alpha": 2 * int(lora.get("r", PEFT_RANK))}
    except (TypeError, ValueError, OverflowError):  # no number, as `converted` says
        return dict(lora)


def train_in_float32(model: Any) -> None:
    """The weights that are trained become float32: 16 bits would swallow small steps."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def describe_lora(config: Any) -> str:
    """The line about a `peft.LoraConfig` that is printed at the start."""
    targets = config.target_modules
    where = targets if isinstance(targets, str) else ", ".join(sorted(targets or ()))
    return (
        f"lora: r {config.r}, lora_alpha {config.lora_alpha}, dropout {config.lora_dropout:g}, "
        f"on {where}"
    )
