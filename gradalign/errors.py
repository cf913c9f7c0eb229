"""Every error that gradalign raises on purpose: what happened, and what to do next.

Each class is also a standard exception, so that callers who do not know gradalign can
still catch it. `exit_code` is what the command line leaves with (see cli/main.py).
"""

from __future__ import annotations

from collections.abc import Sequence


class GradalignError(Exception):
    """Base of all expected failures.

    Args:
        message: what happened, to which question, model or file.
        hint: what to do next, in one sentence; printed after the message. A command to be copied
            stands in a line of its own, indented.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class UsageError(GradalignError, ValueError):
    """An argument, option or configuration value that cannot be used."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A method, task, context, verifier or engine that is not registered."""


class ModelError(GradalignError, OSError):
    """A model or tokenizer that is missing, gated, or cannot be loaded."""

    exit_code = 2


class TokenizerMismatchError(UsageError):
    """Teacher and student disagree about what a token id means."""


class ContextOverflowError(UsageError):
    """A prompt that leaves no room for a response within a model's context length."""


class TaskError(UsageError):
    """A question file or data set that cannot be used as it is."""


class VerifierError(GradalignError, ValueError):
    """A verifier that returned something that is not a reward in [0, 1]."""


class EngineError(GradalignError, RuntimeError):
    """A rollout engine that failed; finished shards are kept."""


class MissingDependencyError(GradalignError, ImportError):
    """An optional dependency that is not installed."""

    exit_code = 2


class RunError(GradalignError, OSError):
    """A run folder that cannot be written, read, or belongs to another configuration."""

    exit_code = 2


class ThresholdError(GradalignError):
    """A condition of `--fail-under` that does not hold."""

    exit_code = 3


class GateError(GradalignError):
    """The sampled responses, or the first targeted rollouts, promise nothing: see `--go-on`.

    Args:
        message: what was found.
        hint: the likeliest cause's remedy.
        lines: what to show between them, such as three responses with their verdicts.
    """

    exit_code = 4

    def __init__(self, message: str, hint: str = "", lines: Sequence[str] = ()) -> None:
        super().__init__(message, hint)
        self.lines = tuple(lines)

    def __str__(self) -> str:
        return "\n".join(filter(None, (self.message, *self.lines, self.hint)))


class UndecidedError(GradalignError):
    """A condition of `--fail-under` that so few questions leave open."""

    exit_code = 5
