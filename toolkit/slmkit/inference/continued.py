"""A runner that knows what it holds: a text that goes on is not read from its beginning again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from slmkit.backend.interface import Prefilling, Rewindable, Runner
from slmkit.ops import Floats


class ContinuedRunner:
    """A Runner that remembers the tokens of its sequence, and one point of it to go back to."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.runtime, self.context_length = runner.runtime, runner.context_length
        self.ids: list[int] = []
        self._mark: tuple[list[int], object] | None = None  # the ids there, and the runner's own

    @property
    def taps(self) -> Mapping[str, Floats]:
        """Those of the runner."""
        return self.runner.taps

    def reset(self) -> None:
        """Start a new sequence."""
        self.runner.reset()
        self.ids, self._mark = [], None

    def feed(self, ids: NDArray[np.int64]) -> Floats:
        """Append ``ids`` (T,) to the sequence. Returns their logits, (T, V)."""
        held, self.ids = self.ids, [-1]  # continues nothing, should this call be interrupted
        logits = self.runner.feed(ids)
        self.ids = [*held, *ids.tolist()]
        return logits

    def read(self, ids: NDArray[np.int64], chunk: int) -> Floats:
        """Append a prompt's tokens to the sequence. Returns the logits of the last, (V,)."""
        held, self.ids = self.ids, [-1]
        logits = read_prompt(self.runner, ids, chunk)
        self.ids = [*held, *ids.tolist()]
        return logits

    def mark(self) -> None:
        """Keep this point of the sequence, if the runner can go back to one."""
        if isinstance(self.runner, Rewindable):
            self._mark = list(self.ids), self.runner.mark()

    def resume(self, prompt: Sequence[int]) -> int:
        """Go to the longest beginning of ``prompt`` that is held, but for its last token.

        Returns how many tokens that are, 0 after a reset.
        """
        if _begins(prompt, self.ids):
            return len(self.ids)
        if self._mark and isinstance(self.runner, Rewindable) and _begins(prompt, self._mark[0]):
            self.ids = list(self._mark[0])
            self.runner.rewind(self._mark[1])
            return len(self.ids)
        self.reset()
        return 0


def read_prompt(runner: Runner, ids: NDArray[np.int64], chunk: int) -> Floats:
    """Append a prompt, in the way of an app where the runner has one; else ``chunk`` tokens of a
    call. Returns the logits of the last token, (V,)."""
    if isinstance(runner, Prefilling):
        return runner.prefill(ids)
    for at in range(0, len(ids), chunk):
        logits = runner.feed(ids[at : at + chunk])
    last: Floats = logits[-1]
    return last


def _begins(prompt: Sequence[int], ids: list[int]) -> bool:
    """Whether ``ids``, and something after them, are the beginning of ``prompt``."""
    return 0 < len(ids) < len(prompt) and list(prompt[: len(ids)]) == ids
