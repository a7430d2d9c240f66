"""Where logits of a text come from: the reference or an artifact, a piece of it at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from slmkit.backend.interface import Runner
from slmkit.evaluation.divergence import (
    Divergence,
    Expected,
    Scores,
    compare,
    divergence,
    expected_of,
)
from slmkit.evaluation.text import UNSCORED, EvaluationText, Ids
from slmkit.interpreters import reference
from slmkit.models.spec import Spec
from slmkit.ops import Floats

BATCH = 256 * 2**20  # bytes of the logits that the reference computes at once
Pieces = Iterator[Floats]  # logits (n, V) of consecutive tokens of all windows, window by window
Report = Callable[[int], None]  # called with the tokens done since the last call


def silent(done: int) -> None:
    """A report that nobody reads."""


def reference_logits(
    weights: reference.Weights, spec: Spec, sequences: Sequence[Ids], report: Report = silent
) -> Pieces:
    """The NumPy reference's logits, in batches of several windows, or of a part of a long one."""
    room = max(1, BATCH // (4 * spec.vocabulary))
    batch: list[Ids] = []
    for ids in sequences:
        if batch and sum(map(len, batch)) + len(ids) > room:
            yield from _batch(weights, spec, batch, room, report)
            batch = []
        batch.append(ids)
    if batch:
        yield from _batch(weights, spec, batch, room, report)


def _batch(
    weights: reference.Weights, spec: Spec, batch: Sequence[Ids], room: int, report: Report
) -> Pieces:
    """Windows that fit into a batch together, or one that is longer than it."""
    caches = [reference.Cache() for _ in batch]
    longest = max(map(len, batch)) if len(batch) > 1 else room
    for at in range(0, len(batch[0]) if len(batch) == 1 else 1, longest):
        parts = [ids[at : at + longest] for ids in batch]
        for logits in reference.logits(weights, spec, parts, caches):
            yield logits
            report(len(logits))


def runner_logits(
    runner: Runner, sequences: Sequence[Ids], chunk: int, report: Report = silent
) -> Pieces:
    """An artifact's logits; ``chunk``: most tokens of one call of ``runner.feed``."""
    for ids in sequences:
        runner.reset()
        for at in range(0, len(ids), chunk):
            logits = runner.feed(ids[at : at + chunk])
            yield logits
            report(len(logits))


def float_answers(pieces: Pieces, text: EvaluationText, keep: int) -> Expected:
    """The float model's answers at the scored positions, to compare several models with."""
    found = _scored(text, ((logits,) for logits in pieces))
    return Expected.joined([expected_of(logits, after, keep) for after, logits in found])


def against_answers(expected: Expected, pieces: Pieces, text: EvaluationText) -> Divergence:
    """Compare a model with kept answers of the float model."""
    return divergence(scores_against(expected, pieces, text), expected.values.shape[1])


def scores_against(expected: Expected, pieces: Pieces, text: EvaluationText) -> Scores:
    """Compare a model with kept answers of the float model, position by position."""
    parts, done = [], 0
    for following, logits in _scored(text, ((logits,) for logits in pieces)):
        rows = expected.rows(done, done + len(logits))
        parts.append(compare(rows, logits, following))
        done += len(logits)
    return Scores.joined(parts)


def side_by_side(expected: Pieces, got: Pieces, text: EvaluationText) -> Divergence:
    """Compare a model with the float model while both compute: every column, nothing kept."""
    parts, columns = [], 0
    for following, theirs, ours in _scored(text, _aligned(expected, got)):
        parts.append(compare(expected_of(theirs, following), ours, following))
        columns = ours.shape[1]
    return divergence(Scores.joined(parts), columns)


def _scored(
    text: EvaluationText, pieces: Iterator[tuple[Floats, ...]]
) -> Iterator[tuple[Any, ...]]:
    """Of every piece, the tokens that follow its scored positions, and the logits there."""
    at = 0
    for parts in pieces:
        following = text.following[at : at + len(parts[0])]
        at += len(following)
        scored = following != UNSCORED
        if scored.any():
            yield (following[scored], *(part[scored] for part in parts))


def _aligned(first: Pieces, second: Pieces) -> Iterator[tuple[Floats, Floats]]:
    """Pieces of two sources, cut so that those of a pair are of the same tokens."""
    left = right = np.empty((0, 0), np.float32)
    while True:
        left = left if len(left) else next(first, left)
        right = right if len(right) else next(second, right)
        count = min(len(left), len(right))
        if not count:
            return
        yield left[:count], right[:count]
        left, right = left[count:], right[count:]
