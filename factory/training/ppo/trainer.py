"""The loop of PPO. A step gathers a batch of experience and learns from it in several passes.

All randomness (prompts, tokens, minibatches) is a function of (seed, step). So a stopped training
continues from weights, optimizer and controller as if it had not been stopped.
Dropout is off throughout: it would make the ratio of a policy to itself other than 1.

One process, one device. Imports torch at the top, so it is itself imported inside functions only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from factory.core.errors import RecipeError
from factory.training.common import trackers
from factory.training.ppo import checkpoint as ppo_checkpoint
from factory.training.ppo import math as ppo_math
from factory.training.ppo.experience import Batch, Experience, autocast
from factory.training.ppo.rollouts import read


class PpoTrainer:
    """The loop, with the methods that `Session.fit` expects of a trainer."""

    is_deepspeed_enabled = is_fsdp_enabled = False

    def __init__(self, experience: Experience, callbacks: Sequence[Any]) -> None:
        """Moves the models to the device. `callbacks`: transformers' `TrainerCallback`s."""
        from accelerate import Accelerator
        from transformers import TrainerControl, TrainerState

        args = self.args = experience.args
        self.accelerator = Accelerator(cpu=args.use_cpu)
        if self.accelerator.num_processes > 1:
            raise RecipeError(
                f"ppo trains in one process, found {self.accelerator.num_processes}; start it "
                "without torchrun or accelerate launch"
            )
        experience.to(self.accelerator.device)
        self.experience, self.train_dataset = experience, experience.prompts
        self.model, self.value = experience.policy, experience.value
        self.state, self._control = TrainerState(), TrainerControl()
        self.state.max_steps = args.max_steps
        if args.max_steps < 0:
            batches = args.num_train_epochs * len(self.train_dataset) / args.rollout_batch_size
            self.state.max_steps = math.ceil(batches)
        self.kl_controller = ppo_math.KlController(args.kl_coef, args.kl_target)
        reported = dataclasses.asdict(args)
        self._trackers, self._tracker_args = trackers.callbacks(
            args.report_to, args.output_dir, args.run_name, reported
        )
        self._callbacks = list(callbacks)
        self._make_optimizer()

    def remove_callback(self, kind: type) -> None:
        self._callbacks = [one for one in self._callbacks if not isinstance(one, kind)]

    def is_world_process_zero(self) -> bool:
        return True

    def train(self, resume_from_checkpoint: str | None = None) -> Any:
        """Train, and return the state, whose `global_step` is the number of steps done."""
        if resume_from_checkpoint is not None:
            self._load(Path(resume_from_checkpoint))
        self._tell("on_train_begin")
        while self.state.global_step < self.state.max_steps:
            self._tell("on_step_begin")
            start = time.monotonic()
            batch, logs = self.experience.gather(self.state.global_step, self.kl_controller.beta)
            logs |= self.learn(batch, self.state.global_step)
            self.kl_controller.update(logs["objective/kl"])
            self.state.global_step += 1
            logs["episode"] = self.state.global_step * self.args.rollout_batch_size
            logs["eps"] = round(self.args.rollout_batch_size / (time.monotonic() - start), 3)
            self._control.should_save = self._is_save_due()
            self._tell("on_step_end")
            self._tell("on_log", logs=logs)  # stops a training that is no longer a number
            if self._control.should_save:
                self._save()
        self._tell("on_train_end")
        return self.state

    def learn(self, batch: Batch, step: int) -> dict[str, float]:
        """Several passes over a batch. The numbers are means over the optimizer steps."""
        noted: dict[str, list[float]] = {}
        count = len(batch.logp_BT)
        for epoch in range(self.args.num_ppo_epochs):
            order = np.random.default_rng([self.args.seed, step, epoch]).permutation(count)
            for rows in np.array_split(order, min(self.args.num_mini_batches, count)):
                minibatch = torch.from_numpy(rows).to(batch.logp_BT.device)
                for name, value in self._optimize(batch, minibatch).items():
                    noted.setdefault(name, []).append(value)
        logs = {name: sum(values) / len(values) for name, values in noted.items()}
        logs["learning_rate"] = self._scheduler.get_last_lr()[0]
        self._scheduler.step()
        return logs

    def _optimize(self, batch: Batch, minibatch: Tensor) -> dict[str, float]:
        """One optimizer step. Numbers are means over the minibatch's tokens, in however many passes."""
        tokens = int(batch.rollouts.mask_BT[minibatch].sum())
        totals: Counter[str] = Counter()
        for rows in minibatch.split(self.args.per_device_train_batch_size):
            part = batch.rows(rows)
            mask = part.rollouts.mask_BT
            with self._recomputing():
                numbers = self._losses(part)
                (numbers["loss"][mask].sum() / tokens).backward()
            for name, value_BT in numbers.items():
                totals[name] += value_BT.detach()[mask].sum().item() / tokens
        for group in self._optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], self.args.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return dict(totals)

    def _losses(self, part: Batch) -> dict[str, Tensor]:
        """`loss`, which has the gradient, and what goes into it or tells of it; [B, T] each."""
        args = self.args
        with autocast(args, self.model):
            logp, _, hidden = read(self.model, part.rollouts, args.temperature)
            values = self.value(part.rollouts.inputs(), hidden)
        policy, is_clipped = ppo_math.policy_losses(
            logp, part.logp_BT, part.advantages_BT, args.cliprange
        )
        critic, is_value_clipped = ppo_math.value_losses(
            values, part.values_BT, part.returns_BT, args.cliprange_value
        )
        log_ratio = (logp - part.logp_BT).detach()
        numbers = {
            "loss": policy + args.vf_coef * critic,
            "loss/policy": policy,
            "loss/value": critic,
            "policy/approxkl": 0.5 * log_ratio**2,
            "policy/clipfrac": is_clipped,
            "val/clipfrac": is_value_clipped,
            "val/ratio": log_ratio.exp(),
        }
        if args.kl == "loss":
            numbers["loss/kl"] = ppo_math.k3(logp, part.ref_logp_BT)
            numbers["loss"] = numbers["loss"] + self.kl_controller.beta * numbers["loss/kl"]
        return numbers

    @contextlib.contextmanager
    def _recomputing(self) -> Iterator[None]:
        """Layers recompute their activations in the backward pass, if asked to. They do so only in
        training mode, which is theirs alone: the modules inside stay without dropout."""
        from transformers.modeling_layers import GradientCheckpointingLayer

        layers = [
            module
            for model in (self.model, self.value)
            for module in model.modules()
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
        ]
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False

    def _make_optimizer(self) -> None:
        from transformers import get_scheduler

        args = self.args
        rates = [
            (self.model, args.learning_rate),
            (self.value.backbone, args.learning_rate),
            (self.value.head, args.value_head_learning_rate),
        ]
        groups = [
            {"params": [p for p in module.parameters() if p.requires_grad], "lr": rate}
            for module, rate in rates
            if module is not None
        ]
        self._optimizer = torch.optim.AdamW(groups, eps=1e-5, weight_decay=0.0)
        self._scheduler = get_scheduler(
            args.lr_scheduler_type, self._optimizer, args.warmup_steps, self.state.max_steps
        )

    def _tell(self, event: str, **more: Any) -> None:
        for callback in self._trackers:
            given = {"model": self.model, **more}
            getattr(callback, event)(self._tracker_args, self.state, self._control, **given)
        for callback in self._callbacks:
            getattr(callback, event)(self.args, self.state, self._control, **more)

    # -- what is kept ----------------------------------------------------------------------------

    def _trained(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(name -> trained weights, name -> other objects with a state)."""
        weights = {
            f"{part}.{name}": weight
            for part, module in (("policy", self.model), ("value", self.value))
            for name, weight in module.named_parameters()
            if weight.requires_grad
        }
        return weights, {"optimizer": self._optimizer, "scheduler": self._scheduler}

    def _is_save_due(self) -> bool:
        step, wanted = self.state.global_step, self.args.save_steps
        every = math.ceil(wanted * self.state.max_steps) if wanted < 1 else int(wanted)
        return bool(every and step % every == 0)

    def _save(self) -> None:
        facts = {"beta": self.kl_controller.beta, "left_out": self.experience.left_out}
        folder, step = Path(self.args.output_dir), self.state.global_step
        ppo_checkpoint.save(folder, step, *self._trained(), facts)
        for callback in self._callbacks:
            callback.on_save(self.args, self.state, self._control)

    def _load(self, checkpoint: Path) -> None:
        facts = ppo_checkpoint.load(checkpoint, *self._trained())
        self.state.global_step = facts["global_step"]
        self.kl_controller.beta = facts["beta"]
        self.experience.left_out.update(facts["left_out"])
