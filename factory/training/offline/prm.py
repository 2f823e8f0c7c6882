"""A process reward model: of each step of a solution, how likely it is right (Lightman et al. 2023,
arXiv 2305.20050), by token classification on `transformers.Trainer`.

In: a process view, or PRM800K's JSON lines. Out: a model that `AutoModelForTokenClassification` and
vLLM's pooling runner load; its classes are wrong and right, or wrong, neutral and right. A step is
read where the engines read it: serve the model with the `separator` and `tag` it was trained with,
which training.json names.

Any labels do: people's, a Monte Carlo estimate's, a judge's. With `truncate_after_first_error` (on)
what follows the first wrong step teaches nothing, as Zhang et al. (2025, arXiv 2501.07301) advise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.core.errors import RecipeError
from factory.training.common import options
from factory.training.common.data import Opened
from factory.training.common.progress import say
from factory.training.common.session import Session
from factory.training.offline import process_data
from factory.training.offline.process_data import CLASSES, COLUMNS

# The head is new, and a step's label is one token's: larger steps than preferences take. Rows are not
# grouped by length, which would save padding: a solution ends at its first error, so short rows hold
# most of the wrong steps, and a batch would be of one class.
_DEFAULTS = {"learning_rate": 1e-5}
# An adapter starts from nothing and needs larger steps.
_LORA_DEFAULTS = _DEFAULTS | {"learning_rate": 1e-4}


def check(config: Mapping[str, Any], lora: Mapping[str, Any] | None = None) -> None:
    """Raise `RecipeError` if an option is misspelt or refused. Imports transformers: seconds."""
    from factory.training.offline.step_trainer import PrmConfig, problem

    if reason := problem(options.check(PrmConfig, config)):
        raise RecipeError(f"config.{reason}")
    options.build_lora(lora, "TOKEN_CLS")


def train(
    data: Path | str,
    model: Path | str,
    out: Path,
    *,
    lora: Mapping[str, Any] | None = None,
    config: Mapping[str, Any],
    resume: bool = False,
) -> dict[str, Any]:
    """See `factory.training.common.base.Trainer.train`. A causal model gets a new head, drawn from the
    seed; a process reward model of as many classes keeps its own."""
    rows, fingerprint, dropped = process_data.open_rows(data)
    # Of PRM800K, what made no row is steps and lines; of other data it is rows.
    is_prm800k = "shared" in rows.column_names
    opened = Opened(rows, fingerprint, {} if is_prm800k else dropped)
    session = Session("prm", COLUMNS, data, model, out, lora, config, resume, opened=opened)
    if session.record is not None:
        return session.record
    with session.running():
        from factory.training.offline.step_trainer import (
            PrmConfig,
            StepLoss,
            StepTrainer,
            weights_of,
        )

        defaults = _DEFAULTS if lora is None else _LORA_DEFAULTS
        session.prepare(PrmConfig, defaults, lora_task="TOKEN_CLS")
        args = session.args
        encoded = process_data.encode(session.dataset, session.tokenizer, args.layout())
        session.leave_out(encoded.left_out)
        names = CLASSES[args.num_labels]
        by_class = dict(zip(names, encoded.counts, strict=True))
        if sum(count > 0 for count in encoded.counts) == 1:
            say(f"every labelled step is of one class, nothing can be told apart: {by_class}")
        weights = weights_of(args.class_weights, encoded.counts)
        steps = {
            "separator": args.separator,
            "tag": args.tag,
            "classes": list(names),
            "labelled": by_class,
            "class_weights": weights,
        }
        counts = ", ".join(f"{count} {name}" for name, count in by_class.items())
        say(f"steps: {counts}; separator {args.separator!r}, tag {args.tag!r}")
        trainer = StepTrainer(
            loss=StepLoss(weights),
            model=_load(session, names),
            args=args,
            train_dataset=encoded.dataset,
            processing_class=session.tokenizer,
            callbacks=[session.progress],
        )
        return session.fit(
            trainer, more={"steps_as": steps, "prm800k_left_out": dropped if is_prm800k else {}}
        )


def _load(session: Session, names: tuple[str, ...]) -> Any:
    """The model with a head of one output a class, and an adapter if the session has one."""
    from transformers import AutoConfig, AutoModelForTokenClassification, set_seed

    trust = session.model_options["trust_remote_code"]
    has = AutoConfig.from_pretrained(session.model_dir, trust_remote_code=trust)
    is_scoring = any("TokenClassification" in name for name in has.architectures or ())
    if is_scoring and has.num_labels != len(names):
        raise RecipeError(
            f"config.num_labels: {len(names)}, but the model already classifies steps, into "
            f"{has.num_labels}; set it to that, or start from a causal model"
        )
    set_seed(session.args.seed)  # the new head's weights
    model = AutoModelForTokenClassification.from_pretrained(
        session.model_dir,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: place for place, name in enumerate(names)},
        **session.model_options,
    )
    if session.lora is None:
        return model
    from peft import get_peft_model

    model = get_peft_model(model, session.lora)
    if session.args.bf16 or session.args.fp16:
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()  # 16 bits would swallow small steps
    return model
