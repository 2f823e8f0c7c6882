"""Progress of a training: one plain line per logging step with the time left, and the same in log.jsonl.

It also seals checkpoints, and stops a training whose loss is no number: its weights are spoiled.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from factory.core.errors import FactoryError
from factory.core.files import sync, whole
from factory.core.screen import Screen, View, roughly
from factory.training.common import checkpoints

# TRL's name, our name, and the format. Metrics that a trainer does not log are left out.
_SHOWN = (
    ("loss", "loss", "{:.4f}"),
    ("rewards/margins", "margin", "{:+.3f}"),
    ("rewards/accuracies", "acc", "{:.2f}"),
    ("margin", "margin", "{:+.3f}"),
    ("accuracy", "acc", "{:.2f}"),
    ("balanced_accuracy", "balanced", "{:.2f}"),
    ("objective/scores", "score", "{:+.3f}"),
    ("objective/kl", "kl", "{:.3f}"),
    ("val/explained_variance", "explained", "{:+.2f}"),
    ("reward", "reward", "{:+.3f}"),
    ("policy_reward", "policy", "{:+.3f}"),
    ("reward_std", "std", "{:.3f}"),
    ("kl", "kl", "{:.4f}"),
    ("completions/mean_length", "length", "{:.0f}"),
    ("completions/clipped_ratio", "cut", "{:.2f}"),
)


def say(text: str) -> None:
    """Print a line for the user on standard error. Standard output is for results."""
    print(text, file=sys.stderr, flush=True)


class StepTimes:
    """Time per step, and time left. `clock`: a monotonic clock, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.begin(0)

    def begin(self, step: int) -> None:
        """Begin after `step` finished steps."""
        self.step = step
        self._ended = [self._clock()]
        self._is_saving = False

    def end(self, step: int, *, saves: bool = False) -> None:
        """A step has ended. `saves`: a checkpoint is saved before the next begins."""
        self.step = step
        self._ended.append(self._clock())
        self._is_saving = saves

    def saved(self) -> None:
        """The checkpoint is there. The time that it took is no step's."""
        gap = self._clock() - self._ended[-1]
        self._ended = [ended + gap for ended in self._ended]
        self._is_saving = False

    def seconds(self) -> float | None:
        """Seconds per step, over the newer half, since the first is slow. None: none has ended."""
        newer = len(self._ended) // 2
        return (self._ended[-1] - self._ended[-1 - newer]) / newer if newer else None

    def left(self, steps: int) -> float | None:
        """Seconds until the last of `steps` ends. None: unknown yet."""
        seconds = self.seconds()
        if seconds is None:
            return None
        whole = (steps - self.step) * seconds
        return max(0.0, whole - (self._clock() - self._ended[-1]))

    def view(self, steps: int) -> View:
        facts = [f"step {self.step}/{steps}"]
        if self._is_saving:
            return View("training", f"{facts[0]}, saving a checkpoint")
        if (seconds := self.seconds()) is not None and (left := self.left(steps)) is not None:
            facts += [f"{seconds:.1f} s/step", f"{roughly(left)} left"]
        return View("training", ", ".join(facts))


def make_progress(log: Path, keep: int | None = None, screen: Screen | None = None) -> Any:
    """A `TrainerCallback`. The class is made in here since transformers is slow to import. `keep`: number
    of checkpoints to keep; None: all. `screen`: the screen that shows the progress."""
    from transformers import TrainerCallback

    class ProgressCallback(TrainerCallback):  # type: ignore[misc]
        """The callback. `metrics`: TRL's last log, of the last step. None: not a finite number."""

        def __init__(self) -> None:
            self.metrics: dict[str, float | None] = {}
            self.first_step = 0
            self._steps = StepTimes()
            self._screen = screen or Screen()

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.first_step = state.global_step
            self._steps.begin(state.global_step)
            self._screen.now(lambda: self._steps.view(state.max_steps))
            if state.is_world_process_zero:
                keep_until(log, state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._steps.end(state.global_step, saves=control.should_save)
            if state.global_step >= state.max_steps:
                control.should_log = True

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            from accelerate import PartialState

            PartialState().wait_for_everyone()  # each process writes its own random state
            if state.is_world_process_zero:
                folder = Path(args.output_dir)
                if log.exists():
                    sync(log)
                checkpoints.seal(folder / f"checkpoint-{state.global_step}")
                checkpoints.keep_newest(folder, keep)
            self._steps.saved()

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any
        ) -> None:
            if "loss" not in logs:  # the summary at the end
                return
            self.metrics = {key: _finite(float(value)) for key, value in logs.items()}
            step = state.global_step
            if state.is_world_process_zero:
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": step, **self.metrics}) + "\n")
                seconds, left = self._steps.seconds(), self._steps.left(state.max_steps)
                self._screen.note(progress_line(step, state.max_steps, logs, seconds, left))
            if not math.isfinite(float(logs["loss"])):
                fp16 = ", use bf16 in place of fp16" if getattr(args, "fp16", False) else ""
                raise FactoryError(
                    f"the loss was {logs['loss']} at step {step} (learning_rate "
                    f"{args.learning_rate:g}), so the training was stopped and no model written; "
                    "lower learning_rate, set max_grad_norm below "
                    f"{args.max_grad_norm:g}{fp16}, "
                    "or look for broken rows in the data"
                )

    return ProgressCallback()


def progress_line(
    step: int, steps: int, logs: dict[str, Any], seconds: float | None, left: float | None = None
) -> str:
    """A line of progress. `seconds`: per step. `left`: seconds until the last step ends.

    >>> progress_line(5, 20, {"loss": 0.6931, "rewards/margins": 0.002}, 3.14, 47.1)
    'step 5/20  loss 0.6931  margin +0.002  3.1 s/step  about 45 s left'
    """
    parts = [f"step {step}/{steps}"]
    parts += [
        f"{name} {form.format(float(logs[key]))}" for key, name, form in _SHOWN if key in logs
    ]
    if seconds is not None:
        parts.append(f"{seconds:.1f} s/step")
    if left is not None and step < steps:
        parts.append(f"{roughly(left)} left")
    return "  ".join(parts)


def _finite(value: float) -> float | None:
    """The value; None if it is not finite, which JSON cannot write."""
    return value if math.isfinite(value) else None


def last_metrics(log: Path) -> dict[str, float | None]:
    """The metrics in the log's last line; empty if there is none."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    last: dict[str, float | None] = json.loads(lines[-1]) if lines else {}
    return {name: value for name, value in last.items() if name != "step"}


def keep_until(log: Path, step: int) -> None:
    """Drop lines that a killed training wrote after the checkpoint it is resumed from."""
    if not log.exists():
        return
    kept = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:  # the line the kill cut short
            break
    with whole(log, is_shared=True) as half:
        half.write_text("".join(kept), encoding="utf-8")
