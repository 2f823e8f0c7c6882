"""Kinds of errors: those that stop the command, and those that fail one sample.

A `FactoryError` stops the command. Its message is all the user sees, so it always says what
happened, the value, and the remedy. A `SampleError` is data: it fails one sample, which is then
quarantined, and never stops the run.
"""

from __future__ import annotations

import warnings


class FactoryError(Exception):
    """Stops the command. The message is for the user; `exit_code` is the process's."""

    exit_code = 1


class RecipeError(FactoryError):
    """A recipe, constitution, option or file name is wrong. Raised before any engine starts."""

    exit_code = 2


class SourceError(FactoryError):
    """The prompts cannot be read. (A single bad row is quarantined instead.)"""

    exit_code = 2


class LedgerError(FactoryError):
    """The ledger cannot be read or written. It is never deleted or replaced."""


class EngineError(FactoryError):
    """An engine cannot start, or died too many times."""


class TooManyFailures(FactoryError):
    """More samples failed than `max_failure_rate` allows."""


class Renamed(FutureWarning):
    """A field or option was given by the name that it had before; it is read all the same."""


def renamed(old: str, new: str) -> None:
    """Warn once per place that a name is an old one."""
    warnings.warn(
        f"'{old}' is called '{new}' now; the old name is still read", Renamed, stacklevel=2
    )


class NothingMade(FactoryError):
    """A run ended without a sample, or its datasets have no row."""


class SampleError(Exception):
    """One sample failed. It is quarantined with this message.

    `is_permanent`: the same recipe would fail again in the same way, so a later run does not retry it.
    `raw`: the model's text, if there was one.
    """

    def __init__(self, message: str, *, is_permanent: bool = False, raw: str = "") -> None:
        super().__init__(message)
        self.is_permanent = is_permanent
        self.raw = raw


class ContextOverflow(SampleError):
    """Prompt and `max_tokens` together exceed the model's context."""

    def __init__(self, prompt_tokens: int, max_tokens: int, context: int) -> None:
        super().__init__(
            f"prompt of {prompt_tokens} tokens and an answer of {max_tokens} do not fit the "
            f"model's context of {context} tokens; shorten the prompt, lower max_tokens, or raise "
            "max_model_len",
            is_permanent=True,
        )
