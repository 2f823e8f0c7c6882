"""One training with a trainer of TRL or transformers, from the command to the finished folder.

Cheap checks come first: the data's columns, the folder, the options. Then the weights load. An error
that stops the training is reported in plain language, with a remedy.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from factory.core import weights
from factory.core.errors import FactoryError, RecipeError, SampleError
from factory.core.paths import user_path
from factory.core.screen import Screen
from factory.core.terminal import printable
from factory.core.version import __version__
from factory.engines.render import NEXT_TURN
from factory.stats.noise import doubts_of_rows
from factory.training import TRAINERS
from factory.training.common import checkpoints, options, references, trackers
from factory.training.common.curves import draw
from factory.training.common.data import to_messages
from factory.training.common.folder import Job, TrainingFolder
from factory.training.common.plain_words import Advice
from factory.training.common.plain_words import in_plain_words as _in_plain_words
from factory.training.common.progress import keep_until, last_metrics, make_progress, say
from factory.training.common.quiet import quiet_libraries
from factory.training.common.rows import MESSAGES
from factory.training.common.save import save_model, saved_dtype
from factory.training.common.tokenizer import end_answers, load_tokenizer, transcript_template
from factory.training.common.trained_rows import beyond_embeddings, rows_beyond


class Session:
    """One training in progress. A trainer builds the training loop from `args`, `dataset`, `tokenizer`
    and `usual`, and passes it to `fit`."""

    def __init__(
        self,
        kind: str,
        data: Path | str,
        model: Path | str,
        out: Path,
        lora: Mapping[str, Any] | None,
        config: Mapping[str, Any],
        resume: bool,
    ) -> None:
        """Opens the data and checks the folder. Loads no weights and writes nothing."""
        self._start = time.monotonic()
        self.is_main = os.environ.get("RANK", "0") == "0"
        """False for all processes but one of those that `accelerate launch` started."""
        self.screen = Screen(is_quiet=not self.is_main)
        self.out = user_path(out)
        self._config = options.as_json(config, "config")
        with self.screen.doing(f"reading {data}"):
            self.opened = TRAINERS[kind].open(data, config)
        self.dataset = self.opened.dataset
        self._left_out: dict[str, int] = dict(self.opened.left_out)
        self.model_dir = weights.resolve(str(model))
        self._job = Job(
            kind=kind,
            data=str(data),
            data_fingerprint=self.opened.fingerprint,
            model=str(model),
            model_fingerprint=weights.fingerprint(self.model_dir),
            lora=None if lora is None else options.as_json(options.with_alpha(lora), "lora"),
            config=self._config,
            contents=references.contents(self._config),
        )
        self._folder = TrainingFolder(self.out, self._job)
        self.record = self._folder.record()
        """training.json, if the training is finished."""
        self.beside: dict[str, Callable[[Path], None]] = {}
        """Folders to publish with the model, and what saves into each."""
        # Then it learns from what the model itself writes.
        self._draws_answers = "grpo" in TRAINERS[kind].takes
        if self.record is not None:
            say(
                f"{self.out}: this training is finished ({self.record['steps']} steps), nothing to do"
            )
            return
        self._checkpoint = self._find_checkpoint(resume)

    def _find_checkpoint(self, resume: bool) -> Path | None:
        checkpoint, broken = checkpoints.newest(self._folder.checkpoints)
        for path, reason in broken.items():
            say(f"{path} is not whole ({reason}): it is ignored")
        if checkpoint and not resume:
            raise FactoryError(
                f"--out {self.out} holds this training, unfinished, with a checkpoint "
                f"at step {checkpoint.name.removeprefix('checkpoint-')}; add --resume to go on "
                "from there, or delete the folder to start again"
            )
        if checkpoint:
            say(f"resuming from {checkpoint}")
        elif resume and self._folder.checkpoints.exists():
            say(f"no whole checkpoint in {self._folder.checkpoints}: starting from the beginning")
        return checkpoint

    def prepare(
        self,
        config_type: type,
        defaults: Mapping[str, Any],
        lora_task: options.LoraTask = "CAUSAL_LM",
    ) -> None:
        """Set `args` (a `config_type`, of TRL or transformers), `model_options` (how to load the
        weights, for `from_pretrained`), `lora` and `tokenizer`."""
        is_lora = self._job.lora is not None
        self._options = options.resolve(config_type, defaults, self._config, is_lora=is_lora)
        self.args = options.build(config_type, self._options, self._folder.checkpoints)
        self._folder.job = msgspec.structs.replace(self._job, batch=self._sequences_a_step())
        self._refuse_precomputing()
        trackers.require_installed(self.args.report_to)
        self.args.run_name = self.args.run_name or self.out.name
        if getattr(self.args, "n_gpu", 1) > 1:
            say(f"one of {self.args.n_gpu} GPUs; for all: accelerate launch -m factory train ...")
            self.args._n_gpu = 1  # else transformers uses DataParallel, which TRL does not survive
        self.lora = options.build_lora(self._job.lora, lora_task)
        if self.lora is not None:
            say(options.describe_lora(self.lora))
        trust = bool(self._options.get("trust_remote_code", False))
        self.model_options: dict[str, Any] = {
            "trust_remote_code": trust,
            **self._options["model_init_kwargs"],
        }
        self.tokenizer = load_tokenizer(self.model_dir, trust_remote_code=trust)
        self._own_template = self.tokenizer.chat_template
        self._say_form()
        if self.opened.is_plain and self._own_template is not None:
            self.dataset = to_messages(self.dataset, self._job.kind)
        # Scoring models read what `engines.render` makes, which needs no template.
        generates = lora_task == "CAUSAL_LM"
        is_chat = generates and not isinstance(self.dataset[0]["prompt"], str)
        if self._own_template is None and is_chat:
            self.tokenizer.chat_template = transcript_template(self.tokenizer)
            say(f"{self._job.model} has no chat template: training on Human/Assistant transcripts")
        if generates and self.tokenizer.chat_template is not None:
            written = end_answers(self.tokenizer, self.model_dir)
            if written is not None and is_chat and not self._draws_answers:
                say(
                    f"the chat template of {self._job.model} writes {written!r} after an answer, "
                    f"which ends no generation: {self.tokenizer.eos_token} is put there"
                )
        self.progress = make_progress(self._folder.log, self.args.save_total_limit, self.screen)
        # Checkpoints go when a newer one is sealed; transformers would delete them before.
        self.args.save_total_limit = None
        name = Path(self._job.model).name
        self.screen.now(f"loading {name} and tokenizing {len(self.dataset):,} rows")

    @property
    def usual(self) -> dict[str, Any]:
        """The arguments that every trainer of TRL gets, besides its rows."""
        return {
            "model": str(self.model_dir),
            "args": self.args,
            "processing_class": self.tokenizer,
            "peft_config": self.lora,
            "callbacks": [self.progress],
        }

    @property
    def stop(self) -> str | None:
        """The string at which an engine stops the model, besides its end tokens."""
        return NEXT_TURN if self._own_template is None else None

    def _say_form(self) -> None:
        """Print the rows' form, its conversion, and the rows left out."""
        forms = " and ".join(f"{count} {form}" for form, count in self.opened.forms.items())
        made = ""
        if self.opened.is_plain and self._own_template is None:
            made = ", trained on as they are: the model has no chat template"
        elif set(self.opened.forms) - {MESSAGES}:
            made = ", read as user and assistant turns"
            made += ", given the model's chat template" if self._own_template else ""
        say(f"rows: {forms or len(self.dataset)}{made}")
        total = len(self.dataset) + sum(self.opened.left_out.values())
        for reason, count in self.opened.left_out.items():
            say(f"{count} of {total} rows left out: {reason}")
        for doubt in doubts_of_rows(self.dataset):
            say(f"note: {printable(doubt)}")

    def _sequences_a_step(self) -> int | None:
        accumulation = getattr(self.args, "gradient_accumulation_steps", None)
        if accumulation is None:  # ppo's batch is memory's alone
            return None
        return int(self.args.world_size * self.args.per_device_train_batch_size * accumulation)

    def _refuse_precomputing(self) -> None:
        """Raise `RecipeError` for precomputed log-probabilities in several processes. TRL passes them on
        in a cache file of `datasets`, and we write none beside the user's data."""
        if getattr(self.args, "world_size", 1) > 1 and self._options.get(
            "precompute_ref_log_probs"
        ):
            raise RecipeError(
                "config.precompute_ref_log_probs: true works in one process only; unset it"
            )

    def leave_out(self, reasons: Mapping[str, int]) -> None:
        """Print and record the number of rows left out, by reason (`over 1024 tokens`)."""
        found = {reason: count for reason, count in reasons.items() if count}
        self._left_out = self.opened.left_out | found
        for reason, count in found.items():
            say(f"{count} of {len(self.dataset)} rows left out: {reason}")

    def fit(
        self, trainer: Any, *, rows_cut: int = 0, more: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Train, save, and return training.json. `rows_cut`: how many were cut. `more`: further entries."""
        from transformers import PrinterCallback

        self._leave_out_unknown_ids(trainer)
        self._say_rows(trainer, rows_cut)
        trainer.remove_callback(PrinterCallback)  # it would print every log as a dict
        is_main = trainer.is_world_process_zero()  # of those that `accelerate launch` started
        with self._folder.held() if is_main else contextlib.nullcontext():
            # Another process may have finished it while this one loaded.
            return self._folder.record() or self._fit(trainer, rows_cut, more or {})

    def _fit(self, trainer: Any, rows_cut: int, more: Mapping[str, Any]) -> dict[str, Any]:
        if trainer.is_world_process_zero():
            begin = checkpoints.step_of(self._checkpoint) if self._checkpoint else 0
            checkpoints.delete_after(self._folder.checkpoints, begin)
        steps = self._steps_of_finished(trainer)
        if steps is None:
            resume = str(self._checkpoint) if self._checkpoint else None
            steps = trainer.train(resume_from_checkpoint=resume).global_step
        record: dict[str, Any] = {
            "kind": self._job.kind,
            "data": {
                "path": self._job.data,
                "fingerprint": self._job.data_fingerprint,
                "rows": len(self.dataset) + sum(self.opened.left_out.values()),
                "rows_used": len(trainer.train_dataset),
                "rows_cut": rows_cut,
                "rows_left_out": self._left_out,
                "forms": self.opened.forms,
            },
            "base_model": {"name": self._job.model, "fingerprint": self._job.model_fingerprint},
            "lora": self._job.lora,
            "config": self._options,
            "seed": self.args.seed,
            "steps": steps,
            "resumed_at_step": self.progress.first_step or None,
            "metrics": self.progress.metrics or last_metrics(self._folder.log),
            **more,
        }
        self.screen.now("saving the model")
        if trainer.is_world_process_zero():
            record |= self._save(trainer)
            draw(self._folder.log, self.out)
            self._folder.finish(record, keep_checkpoints="save_total_limit" in self._config)
            say(f"{self.out}: {steps} steps in {record['seconds']:.0f} s")
        return record

    @functools.cached_property
    def model_config(self) -> Any:
        """The configuration in the model's folder."""
        from transformers import AutoConfig

        trust = self.model_options["trust_remote_code"]
        return AutoConfig.from_pretrained(self.model_dir, trust_remote_code=trust)

    @property
    def vocabulary(self) -> int | None:
        """Token ids that the model has embeddings for, from 0. None: its config does not say."""
        return getattr(self.model_config.get_text_config(), "vocab_size", None)

    def _leave_out_unknown_ids(self, trainer: Any) -> None:
        """Leave out rows with a token that the model does not know, as one added to the tokenizer."""
        import datasets

        rows, size = trainer.train_dataset, self.vocabulary
        if not isinstance(rows, datasets.Dataset) or size is None:
            return
        unknown = rows_beyond(rows, size)
        if not unknown:
            return
        reason = beyond_embeddings(size)
        if len(unknown) == len(rows):
            raise RecipeError(
                f"none of the {len(rows)} rows is left: {reason}; is the tokenizer another model's?"
            )
        say(f"{len(unknown)} of {len(self.dataset)} rows left out: {reason}")
        self._left_out = self._left_out | {reason: len(unknown)}
        trainer.train_dataset = rows.select([i for i in range(len(rows)) if i not in unknown])

    def _steps_of_finished(self, trainer: Any) -> int | None:
        """If the checkpoint is of the last step (the kill came while the result was saved): its
        steps, with its weights loaded. transformers would make one step more."""
        if self._checkpoint is None:
            return None
        state = json.loads((self._checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        steps: int = state.get("global_step", 0)
        if not state.get("max_steps") or steps < state["max_steps"]:
            return None
        trainer._load_from_checkpoint(str(self._checkpoint))
        self.progress.first_step = steps
        if trainer.is_world_process_zero():
            keep_until(self._folder.log, steps)
        return steps

    def _say_rows(self, trainer: Any, cut: int) -> None:
        """Raise `RecipeError` if no row is left; else print how many are left out or cut."""
        rows, used = len(self.dataset), len(trainer.train_dataset)
        length = getattr(self.args, "max_length", None)
        if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            raise RecipeError("config: sharded training (DeepSpeed, FSDP) is not supported")
        if used == 0:
            raise RecipeError(
                f"none of the {rows} rows is left: every prompt alone fills max_length "
                f"({length} tokens); raise config.max_length"
            )
        if used < rows and self._left_out == self.opened.left_out:
            say(f"{rows - used} of {rows} rows left out: the prompt alone fills {length} tokens")
        if cut:
            say(f"{cut} of {rows} rows cut to max_length, {length} tokens")

    def _save(self, trainer: Any) -> dict[str, Any]:
        dtype = saved_dtype(self.model_config, self._config)
        model = trainer.accelerator.unwrap_model(trainer.model)
        self.tokenizer.chat_template = self._own_template
        with self._folder.publishing() as temporary:
            save_model(model, temporary, dtype, self.args.seed)
            self.tokenizer.save_pretrained(temporary)
            weights_files = sorted(temporary.rglob("*.safetensors"))
            sizes = {str(f.relative_to(temporary)): f.stat().st_size for f in weights_files}
            for name, save in self.beside.items():
                save(temporary / name)
        return {
            "weights_bytes": sizes,
            "saved_dtype": str(dtype).removeprefix("torch."),
            "seconds": round(time.monotonic() - self._start, 1),
            "versions": {
                "factory": __version__,
                **{name: version(name) for name in ("torch", "transformers", "trl", "peft")},
            },
        }

    @contextlib.contextmanager
    def running(self, advice: Advice) -> Iterator[None]:
        """Context for all calls of the libraries: keeps them quiet, and turns their errors into plain
        language, with the trainer's advice."""
        try:
            with (
                self.screen.doing("preparing the training"),
                quiet_libraries(),
                trackers.files_in(self.out),
            ):
                yield
        except FactoryError:
            raise
        except SampleError as error:  # a conversation that cannot become tokens
            raise FactoryError(str(error)) from error
        except KeyboardInterrupt:
            if checkpoint := checkpoints.newest(self._folder.checkpoints, reads=False)[0]:
                say(f"stopped; --resume goes on from {checkpoint}")
            raise
        except Exception as error:
            words = _in_plain_words(error, self._job.model, self._config, advice, self.out)
            raise words from error
