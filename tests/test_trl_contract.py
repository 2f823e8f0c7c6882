"""The private methods of TRL and transformers that our trainers override or call.

A new version that changes one of them fails here, and says which.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import pytest
import transformers
import trl

import factory.training

_PREPARE = ("dataset", "processing_class", "args", "dataset_name")
OVERRIDDEN: dict[tuple[type, str], tuple[str, ...]] = {
    (trl.DPOTrainer, "_prepare_dataset"): _PREPARE,
    (trl.DPOTrainer, "_set_signature_columns_if_needed"): (),
    (trl.DPOTrainer, "_precompute_ref_logps"): ("dataset", "name", "batch_size"),
    (trl.DPOTrainer, "_compute_loss"): ("model", "inputs", "return_outputs"),
    (trl.KTOTrainer, "_prepare_dataset"): _PREPARE,
    (trl.RewardTrainer, "_prepare_dataset"): _PREPARE,
    (trl.RewardTrainer, "_set_signature_columns_if_needed"): (),
    (trl.SFTTrainer, "_prepare_dataset"): (
        *_PREPARE[:3],
        "packing",
        "formatting_func",
        "dataset_name",
    ),
    (trl.GRPOTrainer, "_generate_and_score_completions"): ("inputs",),
    (trl.GRPOTrainer, "_generate"): ("prompts",),
    (trl.GRPOTrainer, "_calculate_rewards"): (
        "inputs",
        "prompts",
        "completions",
        "completion_ids_list",
    ),
    # Of `OnlineTrainer`, which stands before either of the two.
    (trl.GRPOTrainer, "_prepare_inputs"): ("generation_batch",),
    (trl.RLOOTrainer, "_prepare_inputs"): ("generation_batch",),
}
CALLED: dict[tuple[type, str], tuple[str, ...]] = {
    (transformers.Trainer, "_load_from_checkpoint"): ("resume_from_checkpoint", "model"),
}


@pytest.mark.parametrize(
    ("method", "parameters"),
    [*OVERRIDDEN.items(), *CALLED.items()],
    ids=lambda value: (
        value[1] if isinstance(value[:1], tuple) and value and isinstance(value[0], type) else ""
    ),
)
def test_the_library_has_it_with_these_parameters(
    method: tuple[type, str], parameters: tuple[str, ...]
) -> None:
    owner, name = method
    _self, *found = inspect.signature(getattr(owner, name)).parameters
    assert tuple(found) == parameters


def test_no_other_is_overridden() -> None:
    """Every method of ours whose name begins with `_` and which a library's class has too."""
    found: set[tuple[str, str]] = set()
    for module in pkgutil.walk_packages(factory.training.__path__, "factory.training."):
        for ours in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(ours) and ours.__module__ == module.name:
                found |= {(theirs.__name__, name) for name, theirs in _taken_over(ours)}
    known = {(owner.__name__, name) for owner, name in OVERRIDDEN}
    assert found == known - {(o, n) for o, n in known if n == "_prepare_inputs"}


def _taken_over(ours: type) -> list[tuple[str, Any]]:
    libraries = [base for base in ours.__mro__[1:] if _is_theirs(base)]
    return [
        (name, next(base for base in libraries if name in vars(base)))
        for name, value in vars(ours).items()
        if name.startswith("_") and not name.startswith("__") and callable(value)
        if any(name in vars(base) for base in libraries)
    ]


def _is_theirs(base: type) -> bool:
    return base.__module__.split(".")[0] in ("trl", "transformers")
