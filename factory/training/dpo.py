"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290), by `trl.DPOTrainer`.

In: a preference view. The loss of a pair is -log sigmoid(beta * D), where D is how much more the
policy than the reference (the model as it was) raises the log-probability of chosen over rejected;
`rewards/margins` is beta * D, so > 0 means that chosen is preferred. Other losses of the family are
TRL's `loss_type`. The pair's preference p is not used: TRL has no soft labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.training import options
from factory.training.session import Session

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS: tuple[str, ...] = ("prompt", "chosen", "rejected")

# TRL's own, stated because they decide the result and must not change under a user. `max_length`
# is in tokens, prompt and answer together.
_DEFAULTS = {"beta": 0.1, "learning_rate": 1e-6, "max_length": 1024}
# An adapter starts from nothing and needs larger steps (TRL's advice: ten times).
_LORA_DEFAULTS = _DEFAULTS | {"learning_rate": 1e-5}


def check(config: Mapping[str, Any], lora: Mapping[str, Any] | None = None) -> None:
    """Raise `RecipeError` if an option is misspelt or of the wrong type. Imports TRL: seconds."""
    from trl import DPOConfig

    options.check(DPOConfig, config)
    options.build_lora(lora)


def train(
    data: Path | str,
    model: Path | str,
    out: Path,
    *,
    lora: Mapping[str, Any] | None = None,
    config: Mapping[str, Any],
    resume: bool = False,
) -> dict[str, Any]:
    """See `factory.training.base.Trainer.train`. Without adapter, policy and reference are both in
    memory, unless `precompute_ref_log_probs` is set."""
    session = Session("dpo", COLUMNS, data, model, out, lora, config, resume)
    if session.record is not None:
        return session.record
    with session.running():
        from trl import DPOConfig, DPOTrainer

        session.prepare(DPOConfig, _DEFAULTS if lora is None else _LORA_DEFAULTS)
        trainer = DPOTrainer(
            model=str(session.model_dir),
            args=session.args,
            train_dataset=session.dataset,
            processing_class=session.tokenizer,
            peft_config=session.lora,
            callbacks=[session.progress],
        )
        cut = _count_cut(trainer.train_dataset, session.args.max_length)
        return session.fit(trainer, rows_cut=cut)


def _count_cut(tokenized: Dataset, max_length: int | None) -> int:
    """Pairs of which an answer does not fit: TRL drops the end of it."""
    from pyarrow import compute

    if max_length is None:
        return 0
    cut = 0
    for batch in tokenized.with_format("arrow").iter(batch_size=1000):
        prompt, *answers = (
            compute.list_value_length(batch[name])
            for name in ("prompt_ids", "chosen_ids", "rejected_ids")
        )
        longest = compute.add(prompt, compute.max_element_wise(*answers))
        cut += compute.sum(compute.greater(longest, max_length)).as_py() or 0
    return cut
