"""Saving of a trained model as files that transformers and vLLM load.

The weights are saved in the base model's precision. bfloat16 keeps 8 significant bits, and most of
what preference training changes is smaller than that: rounding to the nearest value puts almost
every weight back where it was. So weights are rounded stochastically (Gupta et al. 2015, arXiv
1502.02551): up or down with the probability that keeps the expected value, from the training's
seed. A weight that did not change stays what it was, bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.core.errors import FactoryError
from factory.core.files import write_whole
from factory.training.common.progress import say


def save_model(model: Any, out: Path, dtype: Any, seed: int) -> None:
    """Write weights and configuration to `out`; of an adapted model the merged weights, and the
    adapter in `out/adapter`. The model in memory is rounded too. `dtype`: a torch dtype.

    Raises `FactoryError` if a weight is not finite; `out` is then incomplete.
    """
    import torch

    # On the CPU, so that the result does not depend on where the weights are.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if hasattr(model, "merge_and_unload"):
            model.save_pretrained(out / "adapter")
            model = _merged(model, dtype, generator)
        for name, weight in model.named_parameters():
            if not torch.isfinite(weight).all():
                raise FactoryError(
                    f"{name} was not finite after the last step, so no model was written; "
                    "lower learning_rate"
                )
            weight.data = rounded(weight.data, dtype, generator)
        model.to(dtype).save_pretrained(out)


def put_quality_file(record: Mapping[str, Any], out: Path) -> None:
    """Put quality.json into the model's folder, if its answers were trained on under prefixes. It is
    done after the training, and again for a finished one, where a kill may have come between."""
    if asked := record.get("quality"):
        if not (out / "quality.json").exists():
            write_whole(out / "quality.json", asked)
        say(f"to ask for its best answers, append {asked['append']!r} to {asked['to']}")


def saved_dtype(base: Any, config: Mapping[str, Any]) -> Any:
    """The dtype to save in: the one in `model_init_kwargs`, else the base model's (`base`: its config)."""
    import torch

    named = (config.get("model_init_kwargs") or {}).get("dtype") or "auto"
    if named == "auto":
        return base.dtype or torch.float32
    return named if isinstance(named, torch.dtype) else getattr(torch, named)


def rounded(weight: Any, dtype: Any, generator: Any) -> Any:
    """`weight` in `dtype`: from float32 to bfloat16 stochastically, otherwise to the nearest."""
    import torch

    if weight.dtype != torch.float32 or dtype != torch.bfloat16:
        return weight.to(dtype)
    # A bfloat16 is the upper half of a float32. Adding 16 random bits below it carries over into
    # the upper half as often as the lower half is large.
    noise = torch.randint(1 << 16, weight.shape, dtype=torch.int32, generator=generator)
    bits = (weight.contiguous().view(torch.int32) + noise.to(weight.device)) & ~0xFFFF
    return bits.view(torch.float32).to(dtype)


def _merged(model: Any, dtype: Any, generator: Any) -> Any:
    """The model with its adapter added to the weights, layer by layer in float32."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            weight = layer.get_base_layer().weight
            weight.data = weight.data.float()
            layer.merge()
            weight.data = rounded(weight.data, dtype, generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "already merged"
        return model.merge_and_unload()
