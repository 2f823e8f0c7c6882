"""The libraries kept quiet: no progress bars, no cache files, no report home."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """`datasets` draws none in here."""
    import datasets

    were_shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars, no report home (TRL sends one by default), no cache files written beside
    the user's data (`Dataset.map` writes them there)."""
    import datasets
    from huggingface_hub import constants
    from transformers.utils import logging

    had_bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    had_caching, had_telemetry = datasets.is_caching_enabled(), constants.HF_HUB_DISABLE_TELEMETRY
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    datasets.disable_caching()
    if "HF_HUB_DISABLE_TELEMETRY" not in os.environ:
        constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        with no_progress_bars():
            yield
    finally:
        logging.set_verbosity(verbosity)
        constants.HF_HUB_DISABLE_TELEMETRY = had_telemetry
        if had_caching:
            datasets.enable_caching()
        if had_bar:
            logging.enable_progress_bar()
