"""Score continuations of texts, and hold what their beginnings share in one runner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from slmkit.backend.interface import Rewindable, Runner
from slmkit.ops import Floats
from slmkit.parity.golden import log_norms

Tokens = tuple[int, ...]
MARKS = 4  # branches to return to at once: each keeps a KV cache in memory
APART = 16  # fewest tokens between two of them: so few are fed again
Report = Callable[[int], None]  # called with the requests done since the last call


@dataclass(frozen=True)
class Continuation:
    """Tokens whose probability is asked for, and those before them; neither may be empty."""

    context: Tokens
    tokens: Tokens


@dataclass(frozen=True)
class Likelihood:
    """How likely a continuation is."""

    log: float  # natural logarithm of its probability
    greedy: bool  # each of its tokens is the best one


@dataclass(frozen=True)
class _Point:
    """A beginning of the runner's sequence to which it can return."""

    length: int
    mark: object
    last: Floats  # (V,) logits after it


class Scorer:
    """One runner's sequence, which moves from text to text and feeds as little as it can.

    A runner that is ``Rewindable`` returns to the end of what two texts share; another starts
    again, unless the next text only goes on.
    """

    def __init__(self, runner: Runner, chunk: int) -> None:
        self.runner = runner
        self.chunk = chunk  # most tokens of one call of ``runner.feed``
        self.fed = 0  # tokens that the runner has computed, in all
        self._ids: list[int] = []
        self._last: Floats | None = None  # (V,) logits after them
        self._points: list[_Point] = []  # by length
        runner.reset()

    def begin(self, ids: Sequence[int], branches: Sequence[int] = ()) -> Floats:
        """Make the sequence ``ids``. Returns the logits after its last token, (V,).

        ``branches``: lengths of beginnings that later sequences have too, in rising order.
        """
        self._return(common(self._ids, ids))
        for stop in [*branches, len(ids)]:
            if stop > len(self._ids):
                for _ in self.follow(ids[len(self._ids) : stop]):
                    pass
            if stop == len(self._ids):
                self._remember(branch=stop < len(ids))
        if self._last is None:
            raise ValueError("a sequence needs a token")
        return self._last

    def follow(self, ids: Sequence[int]) -> Iterator[Floats]:
        """Append tokens; yields their logits, (T, V) of at most ``chunk`` tokens each."""
        for at in range(0, len(ids), self.chunk):
            part = ids[at : at + self.chunk]
            logits = self.runner.feed(np.asarray(part, dtype=np.int64))
            self._ids += part
            self._last = logits[-1].copy()  # not a view, which would keep all of them
            self.fed += len(part)
            yield logits

    def _return(self, common: int) -> None:
        """Go back to the longest beginning of at most ``common`` tokens."""
        if common == len(self._ids) and common:
            return
        self._points = [point for point in self._points if point.length <= common]
        if self._points and isinstance(self.runner, Rewindable):
            point = self._points[-1]
            self.runner.rewind(point.mark)
            self._ids, self._last = self._ids[: point.length], point.last
        else:
            self.runner.reset()
            self._ids, self._last = [], None

    def _remember(self, branch: bool) -> None:
        """Mark this point; a branch only if it is worth the memory."""
        latest = self._points[-1].length if self._points else 0
        gained = len(self._ids) - latest
        if branch and (gained < APART or len(self._points) >= MARKS):
            return
        if isinstance(self.runner, Rewindable) and self._last is not None and gained:
            self._points.append(_Point(len(self._ids), self.runner.mark(), self._last))


def likelihoods(
    scorer: Scorer, requests: Sequence[Continuation], report: Report
) -> list[Likelihood]:
    """The likelihood of each continuation. Continuations of one context share its run; contexts
    are taken in the order of their tokens, so that neighbours share the most."""
    found: list[Likelihood | None] = [None] * len(requests)
    groups: dict[Tokens, list[int]] = {}
    for number in sorted(range(len(requests)), key=lambda each: requests[each].context):
        groups.setdefault(requests[number].context, []).append(number)
    for context, branches in zip(groups, branches_of(list(groups)), strict=True):
        for number in sorted(groups[context], key=lambda each: len(requests[each].tokens)):
            last = scorer.begin(context, branches)
            tokens = requests[number].tokens
            found[number] = likelihood_of(chain([last[None]], scorer.follow(tokens[:-1])), tokens)
            report(1)
    return [each for each in found if each is not None]


def branches_of(sequences: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """For each sequence, the lengths of its beginnings where later ones branch off, rising.

    Of a sorted list: the running minima of what neighbours have in common.
    """
    branches: list[tuple[int, ...]] = []
    path: list[int] = []
    shares = [common(*pair) for pair in pairwise(sequences)]
    for share in reversed([*shares, 0][: len(sequences)]):
        path = [*(each for each in path if each < share), share]
        branches.append(tuple(path))
    return branches[::-1]


def likelihood_of(rows: Iterable[Floats], tokens: Tokens) -> Likelihood:
    """Of a continuation's tokens, from the logits that predict them, (T, V) in pieces."""
    total, greedy, at = 0.0, True, 0
    for logits in rows:
        expected = np.asarray(tokens[at : at + len(logits)])
        total += float(log_probabilities(logits, expected).sum())
        greedy &= bool((logits.argmax(axis=1) == expected).all())
        at += len(logits)
    return Likelihood(total, greedy)


def log_probabilities(logits: Floats, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logarithms of the probabilities of one token per row. (T, V), (T,) -> (T,)"""
    chosen: NDArray[np.float64] = logits[np.arange(len(tokens)), tokens] - log_norms(logits)
    return chosen


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that two sequences have in common at their beginning."""
    for number, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return number
    return min(len(first), len(second))
