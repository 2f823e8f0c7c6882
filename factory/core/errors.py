"""The few kinds of failure, by the boundary they belong to.

A `FactoryError` stops the command and its message is all the user sees, so it always says what
happened, the value, and the remedy. A `SampleError` is data: it stops one sample, which is then
quarantined, and never the run.
"""

from __future__ import annotations


class FactoryError(Exception):
    """Stops the command. The message is for the user; `exit_code` is the process's."""

    exit_code = 1


class RecipeError(FactoryError):
    """A recipe, constitution, option or file name is wrong; found before any engine starts."""

    exit_code = 2


class SourceError(FactoryError):
    """The prompts cannot be read at all (a single bad row is quarantined instead)."""

    exit_code = 2


class LedgerError(FactoryError):
    """The ledger cannot be read or written. It is never deleted or replaced."""


class EngineError(FactoryError):
    """An engine cannot start, or died more often than restarting can help."""


class TooManyFailures(FactoryError):
    """More samples failed than `max_failure_rate` allows."""


class NothingMade(FactoryError):
    """A run ended without a single sample."""


class SampleError(Exception):
    """One sample cannot go on. It is quarantined with this message.

    `is_permanent`: the same recipe would fail again in the same way, so a re-run does not retry it.
    `raw` is the model's text, where there was one.
    """

    def __init__(self, message: str, *, is_permanent: bool = False, raw: str = "") -> None:
        super().__init__(message)
        self.is_permanent = is_permanent
        self.raw = raw


class ContextOverflow(SampleError):
    """The prompt and the answer asked for do not fit the model's context."""

    def __init__(self, prompt_tokens: int, max_tokens: int, context: int) -> None:
        super().__init__(
            f"prompt of {prompt_tokens} tokens and an answer of {max_tokens} do not fit the "
            f"model's context of {context} tokens; shorten the prompt, lower max_tokens, or raise "
            "max_model_len",
            is_permanent=True,
        )
