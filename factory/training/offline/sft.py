"""Supervised fine-tuning, by `trl.SFTTrainer`: the negative log-likelihood of answers.

In: an sft view (prompt, completion). The loss is on answers only, the mean over their tokens. With
`quality` every answer is trained on under a text that says how good it is, from a preference view,
a reward view, or an sft view with a score (see `factory.training.offline.quality`); a row of the records is
then an answer, and how to ask for the best stands in quality.json beside the weights and in
training.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.core.paths import user_path
from factory.training.common import options
from factory.training.common.progress import say
from factory.training.common.session import Session, only
from factory.training.offline import quality

COLUMNS: tuple[str, ...] = ("prompt", "completion")

_USED = (*COLUMNS, "finish_reason")

# `max_length` is in tokens, prompt and answer together. The learning rate is TRL's.
_DEFAULTS = {"learning_rate": 2e-5, "max_length": 1024, "completion_only_loss": True}
# An adapter starts from nothing and needs larger steps (TRL's advice: ten times).
_LORA_DEFAULTS = _DEFAULTS | {"learning_rate": 2e-4}


def check(config: Mapping[str, Any], lora: Mapping[str, Any] | None = None) -> None:
    """Raise `RecipeError` if an option is misspelt or wrong. Imports TRL: seconds."""
    import trl

    from factory.training.offline.sft_trainer import SFTConfig

    checked = options.check(SFTConfig, config)
    options.build_lora(lora)
    # What our own checks look at; the rest may be of another machine than this.
    looked_at = set(SFTConfig.__dataclass_fields__) - set(trl.SFTConfig.__dataclass_fields__)
    looked_at |= {"chat_template_path", "completion_only_loss"}
    looked_at |= {"dataset_text_field", "dataset_kwargs"}
    here = {"use_cpu": True, "bf16": False, "report_to": "none"}
    options.build(SFTConfig, here | {n: v for n, v in checked.items() if n in looked_at}, Path())


def train(
    data: Path | str,
    model: Path | str,
    out: Path,
    *,
    lora: Mapping[str, Any] | None = None,
    config: Mapping[str, Any],
    resume: bool = False,
) -> dict[str, Any]:
    """See `factory.training.common.base.Trainer.train`."""
    out = user_path(out)
    is_conditioned = config.get("quality") not in (None, "none")
    columns = ("prompt",) if is_conditioned else COLUMNS
    session = Session("sft", columns, data, model, out, lora, config, resume)
    if session.record is not None:
        return _with_quality_file(session.record, out)
    with session.running():
        from factory.training.offline.sft_trainer import SFTConfig, SFTTrainer

        session.prepare(SFTConfig, _DEFAULTS if lora is None else _LORA_DEFAULTS)
        rows, left_out, more = session.dataset, {}, {}
        if is_conditioned:
            conditioned = quality.condition(session.dataset, session.args)
            more = {"quality": conditioned.quality, "source_rows": len(session.dataset)}
            rows, left_out = conditioned.rows, conditioned.left_out
            session.dataset = conditioned.answers  # what the records count
        trainer = SFTTrainer(
            model=str(session.model_dir),
            args=session.args,
            train_dataset=only(rows, *_USED),
            processing_class=session.tokenizer,
            peft_config=session.lora,
            callbacks=[session.progress],
        )
        too_long = f"the prompt alone fills {session.args.max_length} tokens"
        session.leave_out(left_out | {too_long: trainer.rows_left_out})
        if session.args.packing:  # then a row of the records is a packed sequence
            more |= {"packed_rows": len(rows) - trainer.rows_left_out}
            session.dataset = trainer.train_dataset
        record = session.fit(trainer, rows_cut=trainer.rows_cut, more=more)
        if trainer.is_world_process_zero():
            _with_quality_file(record, out)
        return record


def _with_quality_file(record: dict[str, Any], out: Path) -> dict[str, Any]:
    """After the training, so written again if a kill came between."""
    if asked := record.get("quality"):
        quality.save(out, asked)
        say(f"to ask for its best answers, append {asked['append']!r} to {asked['to']}")
    return record
