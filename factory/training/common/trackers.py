"""Trackers of transformers that a training's log also goes to, by `report_to`: tensorboard, wandb,
trackio or mlflow. OUT/log.jsonl is written in any case.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from factory.core.errors import RecipeError
from factory.core.yamlfile import nearest


def require_installed(report_to: str | list[str]) -> None:
    """Raise `RecipeError` for a tracker that does not exist, or whose package is not installed."""
    from transformers import integrations

    available = integrations.get_available_reporting_integrations()
    known = [*integrations.integration_utils.INTEGRATION_TO_CALLBACK]
    for name in [report_to] if isinstance(report_to, str) else report_to:
        if name in ("none", "all"):
            continue
        if name not in known:
            hint = f"{nearest(name, known)} (have: {', '.join(known)})"
            raise RecipeError(f"config.report_to: no tracker '{name}'{hint}")
        if name not in available:
            raise RecipeError(
                f"config.report_to: '{name}' is not installed; install its package "
                f"(pip install {name.replace('_', '-')}), or unset report_to"
            )


@contextmanager
def files_in(out: Path) -> Iterator[None]:
    """TensorBoard's files go to OUT/tensorboard, unless the user's environment names a folder.
    transformers would put them beside the checkpoints, which do not stay."""
    name = "TENSORBOARD_LOGGING_DIR"
    before = os.environ.get(name)
    os.environ[name] = before or str(out / "tensorboard")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def callbacks(
    report_to: str | list[str], out: str, run_name: str | None, options: Mapping[str, Any]
) -> tuple[list[Any], Any]:
    """For a trainer that is not transformers': the trackers' callbacks, and the `args` to call them
    with, whose `to_dict` has `options` too."""
    from transformers import TrainingArguments, integrations

    class Reported(TrainingArguments):  # type: ignore[misc]
        def to_dict(self) -> dict[str, Any]:
            return {**super().to_dict(), **options}

    kinds = integrations.get_reporting_integration_callbacks(report_to)
    args = Reported(output_dir=out, run_name=run_name, report_to="none", use_cpu=True, bf16=False)
    return [kind() for kind in kinds], args
