"""Score continuations with the NumPy reference: many sequences pass through each weight at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from slmkit.inference.load import ReferenceRunner
from slmkit.inference.scorer import (
    Continuation,
    Likelihood,
    Report,
    Tokens,
    common,
    likelihood_of,
)
from slmkit.interpreters.reference import Cache, logits
from slmkit.ops import Floats

BATCH = 256 * 2**20  # bytes of the logits that are computed at once


def reference_likelihoods(
    runner: ReferenceRunner, requests: Sequence[Continuation], report: Report
) -> list[Likelihood]:
    """As ``slmkit.inference.scorer.likelihoods``: contexts in batches, after the beginning that
    they share; then all continuations of a batch."""
    found: list[Likelihood | None] = [None] * len(requests)
    groups: dict[Tokens, list[int]] = {}
    for number in sorted(range(len(requests)), key=lambda each: requests[each].context):
        groups.setdefault(requests[number].context, []).append(number)
    sequences = _Sequences(runner)
    contexts = list(groups)
    for batch, start in sequences.batches(contexts):
        asked = [
            (number, end)
            for context, end in zip(batch, sequences.ends(batch, start), strict=True)
            for number in groups[context]
        ]
        rows = sequences.continuations([(requests[number].tokens, end) for number, end in asked])
        for (number, _), pieces in zip(asked, rows, strict=True):
            found[number] = likelihood_of(pieces, requests[number].tokens)
            report(1)
    return [each for each in found if each is not None]


@dataclass(frozen=True)
class _End:
    """A model's state after some tokens, and the logits there."""

    tokens: int
    cache: Cache  # only copies of it go on
    last: Floats  # (V,)


class _Sequences:
    """Runs sequences of one model together, a bounded number of tokens at once."""

    def __init__(self, runner: ReferenceRunner) -> None:
        self.weights, self.spec = runner.weights, runner.spec
        self.room = max(1, BATCH // (4 * runner.spec.vocabulary))  # tokens

    def batches(self, contexts: Sequence[Tokens]) -> Iterator[tuple[list[Tokens], _End]]:
        """Sorted contexts, as many at once as there is room for, each batch with the end of the
        beginning that it shares; what all share is computed once."""
        if not contexts:
            return
        start = self._after(_End(0, Cache(), _NONE), contexts[0][: _shared(contexts)])
        batch: list[Tokens] = []
        for context in contexts:
            more = [*batch, context]
            if batch and sum(map(len, more)) - len(more) * _shared(more) > self.room:
                yield batch, self._after(start, batch[0][: _shared(batch)])
                more = [context]
            batch = more
        yield batch, self._after(start, batch[0][: _shared(batch)])

    def ends(self, contexts: Sequence[Tokens], start: _End) -> list[_End]:
        """The end of each context of a batch, all of which begin as ``start``."""
        caches = [start.cache.copy() for _ in contexts]
        rows = self._logits([each[start.tokens :] for each in contexts], caches)
        ends = zip(contexts, caches, rows, strict=True)
        return [_End(len(context), cache, row[-1].copy()) for context, cache, row in ends]

    def continuations(self, asked: Sequence[tuple[Tokens, _End]]) -> Iterator[Iterable[Floats]]:
        """The logits that predict the tokens of each continuation, in pieces of (T, V)."""
        batch: list[tuple[Tokens, _End]] = []
        for each in asked:
            if batch and sum(len(tokens) for tokens, _ in (*batch, each)) > self.room:
                yield from self._continued(batch)
                batch = []
            batch.append(each)
        yield from self._continued(batch)

    def _continued(self, batch: Sequence[tuple[Tokens, _End]]) -> Iterator[Iterable[Floats]]:
        """Of several that have room together, or of one, which may be longer."""
        if len(batch) == 1:
            ((tokens, end),) = batch
            yield chain([end.last[None]], self._pieces(tokens[:-1], end.cache.copy()))
            return
        longer = [(tokens[:-1], end.cache.copy()) for tokens, end in batch if len(tokens) > 1]
        parts, caches = [part for part, _ in longer], [cache for _, cache in longer]
        rows = iter(self._logits(parts, caches) if longer else ())
        for tokens, end in batch:
            yield (end.last[None], next(rows)) if len(tokens) > 1 else (end.last[None],)

    def _after(self, start: _End, beginning: Tokens) -> _End:
        """The end of a beginning that goes on from ``start``."""
        cache, last = start.cache.copy(), start.last
        for rows in self._pieces(beginning[start.tokens :], cache):
            last = rows[-1].copy()
        return _End(len(beginning), cache, last)

    def _pieces(self, ids: Tokens, cache: Cache) -> Iterator[Floats]:
        """Logits of one sequence, as many tokens at once as there is room for."""
        for at in range(0, len(ids), self.room):
            yield self._logits([ids[at : at + self.room]], [cache])[0]

    def _logits(self, parts: Sequence[Tokens], caches: Sequence[Cache]) -> list[Floats]:
        """Logits of each part after its cache, which it extends. (T, V)"""
        return logits(self.weights, self.spec, [np.asarray(each) for each in parts], caches)


_NONE: Floats = np.empty(0, np.float32)


def _shared(contexts: Sequence[Tokens]) -> int:
    """Tokens at the beginning of all sorted contexts, but for the last token of each."""
    return min(common(contexts[0], contexts[-1]), *(len(each) - 1 for each in contexts))
