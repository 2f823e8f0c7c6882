"""The critic, which predicts before each token the reward still to come.

    shared   a linear layer on the policy's last hidden states; its loss trains the policy's backbone too
    own      a backbone of its own with that layer on top: the reward model's, if there is one of the
             policy's vocabulary, else a copy of the policy's

The layer is zero at first, so that advantages are the rewards to come, unless a reward model's is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):  # type: ignore[misc]
    """The critic. Its forward takes the policy's input and hidden states, whichever it uses."""

    def __init__(self, hidden_size: int, backbone: Any = None) -> None:
        super().__init__()
        self.backbone = backbone
        """None: shared."""
        self.head = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: dict[str, Tensor], hidden_BT: Tensor) -> Tensor:
        """Values [B, T], float32. `inputs`: as the policy had them; `hidden_BT`: [B, T, hidden],
        the policy's, at the places from which the T tokens are predicted."""
        if self.backbone is not None:
            output = self.backbone(**inputs, use_cache=False).last_hidden_state
            hidden_BT = output[:, -hidden_BT.shape[1] - 1 : -1]
        with torch.autocast(hidden_BT.device.type, enabled=False):  # 16 bits are coarse for values
            values: Tensor = self.head(hidden_BT.to(self.head.weight.dtype)).squeeze(-1)
        return values.float()

    def save(self, folder: Path) -> None:
        """`head.safetensors` (weight [1, hidden], bias [1]), and a backbone as `AutoModel` loads it."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: weight.cpu() for name, weight in self.head.state_dict().items()}
        save_file(weights, folder / "head.safetensors")
        if self.backbone is not None:
            self.backbone.save_pretrained(folder)


def shared(policy: Any) -> ValueHead:
    return ValueHead(policy.config.get_text_config().hidden_size)


def own(folder: Path, options: dict[str, Any], *, is_scorer: bool) -> ValueHead:
    """With a backbone of its own from `folder`, whose head comes along if it `is_scorer`: a sequence
    classifier with one label. `options`: for `from_pretrained`."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    if not is_scorer:
        backbone = AutoModel.from_pretrained(folder, **options)
        return ValueHead(backbone.config.get_text_config().hidden_size, backbone)
    scorer = AutoModelForSequenceClassification.from_pretrained(folder, **options)
    value = ValueHead(scorer.score.in_features, scorer.base_model)
    with torch.no_grad():
        value.head.weight.copy_(scorer.score.weight)
    return value
