"""From a trained model in memory to files that transformers and vLLM load.

The weights are saved in the base model's precision, which can undo a short training: a bfloat16
weight has 8 significant bits, and a change smaller than half its last bit rounds back to nothing.
So the share of the training's change that survived the rounding is measured and recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factory.errors import FactoryError


def save_model(trainer: Any, base: Path, out: Path, dtype: Any) -> float:
    """Write the weights (an adapter merged, and by itself in `adapter/`) and the configuration.

    `base`: the folder the model came from. `dtype`: a torch dtype. Returns the share of the change
    that survived rounding to `dtype`: 1 is all of it, 0 a model that is the base again.
    Raises `FactoryError` if a weight is not finite; `out` is then incomplete.
    """
    import torch

    model = trainer.accelerator.unwrap_model(trainer.model)
    is_adapter = hasattr(model, "merge_and_unload")
    pairs = _adapted(model) if is_adapter else _against(model, base)
    with torch.no_grad():
        kept = _kept(pairs, dtype)
    if is_adapter:
        model.save_pretrained(out / "adapter")
        model = model.merge_and_unload()
    model.to(dtype).save_pretrained(out)
    return kept


def saved_dtype(model_dir: Path, options: dict[str, Any]) -> Any:
    """The base model's, unless `model_init_kwargs` names one. `options`: as the user gave them."""
    import torch
    from transformers import AutoConfig

    named = (options.get("model_init_kwargs") or {}).get("dtype")
    if named and named != "auto":
        return named if isinstance(named, torch.dtype) else getattr(torch, named)
    trust = bool(options.get("trust_remote_code", False))
    return AutoConfig.from_pretrained(model_dir, trust_remote_code=trust).dtype or torch.float32


def _kept(pairs: Iterator[tuple[str, Any, Any]], dtype: Any) -> float:
    """<rounded - base, new - base> / |new - base|^2, over all weights; 1 if nothing changed."""
    import torch

    product = square = 0.0
    for name, base, new in pairs:
        if not torch.isfinite(new).all():
            raise FactoryError(
                f"the weights {name} were not finite after the last step, so no model was "
                "written; lower learning_rate"
            )
        change = new - base
        product += ((new.to(dtype).float() - base) * change).sum(dtype=torch.float64).item()
        square += change.square().sum(dtype=torch.float64).item()
    return product / square if square else 1.0


def _against(model: Any, base: Path) -> Iterator[tuple[str, Any, Any]]:
    """Name, base weight and trained weight, in float32, one at a time."""
    original = type(model).from_pretrained(base, dtype="auto", use_safetensors=True)
    originals = dict(original.named_parameters())
    for name, new in model.named_parameters():
        yield name, originals[name].float(), new.detach().cpu().float()


def _adapted(model: Any) -> Iterator[tuple[str, Any, Any]]:
    """The same of every layer that has a LoRA adapter."""
    for name, layer in model.named_modules():
        if hasattr(layer, "get_delta_weight"):
            base = layer.get_base_layer().weight.detach().float()
            yield name, base, base + layer.get_delta_weight("default").float()
