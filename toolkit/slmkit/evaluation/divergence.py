"""Divergence of a model from the float model on a text, a few positions at a time.

No logits of a whole text are held: the float model's are reduced to what the measures need.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as checked

from slmkit.backend.artifact import STRICT
from slmkit.evaluation.flips import Flips, flips
from slmkit.evaluation.text import Ids
from slmkit.ops import Floats
from slmkit.parity.golden import Doubles, log_norms
from slmkit.parity.metrics import RARE, ROWS, Number, row_kl, significant

Bools = NDArray[np.bool_]
KEPT = 4096  # columns that are kept of a position: 32 kB of it


@dataclass(frozen=True)
class Expected:
    """The float model's answers at T positions, for models that are compared with it later.

    Of each position the C largest logits: KL is exact over them, and over the sum of all others,
    which makes it a lower bound; with all columns it is exact.
    """

    columns: Ids | None  # (T, C) of the vocabulary; None: all of it, in order
    values: Floats  # (T, C) logits
    norm: Doubles  # (T,) log of the sum of exp over the whole vocabulary; NaN: a logit is no number
    best: Ids  # (T,) the best token
    log_next: Doubles  # (T,) log-probability of the token that follows

    def rows(self, start: int, stop: int) -> Expected:
        """The answers at some positions."""
        columns = None if self.columns is None else self.columns[start:stop]
        values, norm = self.values[start:stop], self.norm[start:stop]
        return Expected(columns, values, norm, self.best[start:stop], self.log_next[start:stop])

    def part(self, spans: Sequence[slice]) -> Expected:
        """The answers at the positions of ``spans``."""
        return self.joined([self.rows(span.start, span.stop) for span in spans])

    @classmethod
    def joined(cls, parts: Sequence[Expected]) -> Expected:
        """The answers of several runs of positions, one after the other."""
        columns = [part.columns for part in parts if part.columns is not None]
        return cls(
            np.concatenate(columns) if columns else None,
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.norm for part in parts]),
            np.concatenate([part.best for part in parts]),
            np.concatenate([part.log_next for part in parts]),
        )


@dataclass(frozen=True)
class Scores:
    """The comparison of a model with the float model at each of T positions."""

    kl: Doubles  # (T,) nats; NaN where a logit of one side is no number
    agree: Bools  # (T,) both have the same best token
    log_expected: Doubles  # (T,) log-probability of the following token, in the float model
    log_got: Doubles  # (T,) the same in the other
    right_expected: Bools  # (T,) the best token is the one that follows, in the float model
    right_got: Bools  # (T,) the same in the other

    @classmethod
    def joined(cls, parts: Iterable[Scores]) -> Scores:
        """The scores of several runs of positions, one after the other."""
        every = list(parts)
        names = [each.name for each in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in every]) for name in names))

    def part(self, spans: Sequence[slice]) -> Scores:
        """The scores at the positions of ``spans``."""
        chosen = np.concatenate([np.arange(span.start, span.stop) for span in spans])
        return Scores(*(getattr(self, each.name)[chosen] for each in fields(self)))


@checked(frozen=True, config=STRICT)
class Divergence:
    """How far a model is from the float model on a text.

    NaN where logits of a position are NaN or infinite: such a position agrees on no token.
    """

    positions: int
    kl: Number  # KL(float || model), nats, mean over positions
    kl_p999: Number  # nats, the KL that 99.9 % of positions do not exceed
    top1: float  # share of positions with the same best token
    perplexity: Number  # of the model
    float_perplexity: Number
    flips: Flips  # whether the best token is the one that follows: the float model, then the other
    columns: int  # logits compared per position; fewer than the vocabulary: KL is a lower bound

    def on_whole(self, codes_on_part: Divergence, codes: Divergence) -> Divergence:
        """An artifact's divergence on a whole text, of which it read a part: that of its codes on
        the whole, and what the artifact added to theirs on the part.

        What it adds is small and alike everywhere, while what codes lose is large and differs from
        text to text. (A control variate: Owen, "Monte Carlo theory, methods and examples", 8.9.)
        The 99.9 % of KL is the larger one of both, flips and positions are those of the part.
        """
        added = math.log(self.perplexity) - math.log(codes_on_part.perplexity)
        return replace(
            self,
            kl=float(np.maximum(0, codes.kl + self.kl - codes_on_part.kl)),
            kl_p999=float(np.maximum(codes.kl_p999, self.kl_p999)),
            top1=min(1.0, max(0.0, codes.top1 + self.top1 - codes_on_part.top1)),
            perplexity=codes.perplexity * math.exp(min(added, 709.0)),
            float_perplexity=codes.float_perplexity,
        )

    def rounded(self) -> Divergence:
        """For reports: rounded far below what a bound could ask."""
        return replace(
            self,
            kl=significant(self.kl),
            kl_p999=significant(self.kl_p999),
            top1=round(self.top1, 6),
            perplexity=significant(self.perplexity, 4),
            float_perplexity=significant(self.float_perplexity, 4),
            flips=replace(self.flips, p_value=significant(self.flips.p_value)),
        )


def expected_of(logits: Floats, following: Ids, keep: int | None = None) -> Expected:
    """Reduce the float model's logits (T, V) to ``keep`` columns; None keeps them all.

    ``following``: (T,) the tokens that follow.
    """
    norm = log_norms(logits)
    best = logits.argmax(axis=1)
    log_next = _taken(logits, following) - norm
    if keep is None or keep >= logits.shape[1]:
        return Expected(None, logits, norm, best, log_next)
    columns = np.concatenate([np.argpartition(row, -keep, axis=-1)[None, -keep:] for row in logits])
    columns.sort(axis=1)
    return Expected(columns, np.take_along_axis(logits, columns, axis=1), norm, best, log_next)


def compare(expected: Expected, got: Floats, following: Ids) -> Scores:
    """Compare a model's logits (T, V) with the float model's answers at the same positions."""
    norm = log_norms(got)
    kept = got if expected.columns is None else np.take_along_axis(got, expected.columns, axis=1)
    kl = np.concatenate(
        [
            row_kl(
                expected.values[rows].astype(np.float64) - expected.norm[rows, None],
                kept[rows].astype(np.float64) - norm[rows, None],
            )
            for rows in _slices(len(got))
        ]
    )
    finite = np.isfinite(expected.norm) & np.isfinite(norm)
    best = got.argmax(axis=1)
    return Scores(
        np.where(finite, kl, np.nan),
        finite & (best == expected.best),
        expected.log_next,
        _taken(got, following) - norm,
        np.isfinite(expected.norm) & (expected.best == following),
        np.isfinite(norm) & (best == following),
    )


def divergence(scores: Scores, columns: int) -> Divergence:
    """The measures over all positions. ``columns``: logits that were compared at each."""
    return Divergence(
        positions=len(scores.kl),
        kl=float(np.maximum(0, scores.kl.mean())),
        kl_p999=float(np.maximum(0, np.quantile(scores.kl, RARE, method="higher"))),
        top1=float(scores.agree.mean()),
        perplexity=perplexity(scores.log_got),
        float_perplexity=perplexity(scores.log_expected),
        flips=flips(scores.right_expected, scores.right_got),
        columns=columns,
    )


def perplexity(logs: Doubles) -> float:
    """exp of the mean negative log-probability (T,); infinite beyond float64's range."""
    mean = -float(logs.mean())
    return math.exp(mean) if not mean > 709 else math.inf


def _slices(rows: int) -> list[slice]:
    """Runs of rows of which a float64 copy is small."""
    return [slice(at, at + ROWS) for at in range(0, rows, ROWS)]


def _taken(logits: Floats, tokens: Ids) -> Doubles:
    """The logit of one token per row, (T,)."""
    return logits[np.arange(len(tokens)), tokens].astype(np.float64)
