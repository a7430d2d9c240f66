"""Errors that speak to the reader: what is wrong, where, and what to do instead.

Each class has the exit code that the command line ends with.
"""

from __future__ import annotations

from typing import Any, ClassVar


class SlmkitError(Exception):
    """A mistake in the user's input: one sentence, and a hint that says what would work."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details: dict[str, Any] = {}  # of a report, for ``--json``


class UsageError(SlmkitError):
    """An option or argument of a call or command that does not exist or does not fit."""

    exit_code = 2


class CheckpointError(SlmkitError):
    """The checkpoint folder cannot be used."""


class RecipeError(SlmkitError):
    """The recipe is wrong; the message names the key."""


class BundleError(SlmkitError):
    """A bundle is damaged, missing, or in the way."""


class BackendError(SlmkitError):
    """A backend is missing, refused the work, or died."""


class ParityError(SlmkitError):
    """An artifact computes something else than the reference, beyond the recipe's bound."""

    exit_code = 3


class RefusedError(SlmkitError):
    """The model cannot be built so: an artifact cannot carry it, or it does not fit into memory."""

    exit_code = 4


class MissingPackageError(BackendError):
    """Python packages are not installed; the hint is the command that installs all of them."""

    exit_code = 5


class AppError(SlmkitError):
    """A check of an app project failed."""

    exit_code = 6


SIGNALLED = 128  # and the signal's number is the exit code after a signal, as shells have it
INTERRUPTED = 130  # after Ctrl-C, SIGINT
EXIT_CODES = {
    0: "done",
    1: "your input cannot be used: checkpoint, bundle, recipe, text",
    2: "your command line is wrong: an option or an argument",
    3: "parity failed: an artifact breaks a bound",
    4: "the model is refused: an artifact cannot carry it, or it does not fit into memory",
    5: "a Python package is missing",
    6: "a check of an app project failed",
    INTERRUPTED: "interrupted (129: by SIGHUP, 143: by SIGTERM)",
}


def error_of(name: str, message: str, hint: str) -> SlmkitError:
    """An error by the name of its class, as it comes from another process."""
    found = globals().get(name)
    if isinstance(found, type) and issubclass(found, SlmkitError):
        return found(message, hint)
    return SlmkitError(message, hint)
