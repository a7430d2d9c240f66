"""Errors that speak to the reader: what is wrong, where, and what to do instead."""


class SlmkitError(Exception):
    """A mistake in the user's input: one sentence, and a hint that says what would work."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


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
