"""Compare logits: metrics, the limits of a bound, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, PlainSerializer, TypeAdapter, WithJsonSchema
from pydantic.dataclasses import dataclass

from slmkit.backend.artifact import STRICT, Mode
from slmkit.backend.declaration import ErrorKind
from slmkit.parity.golden import Doubles, Golden, Outputs
from slmkit.recipe.bounds import Bound
from slmkit.snr import decibels

# Two tokens whose reference logits differ by less than this share of the largest logit are a tie:
# float32 sums in another order move a logit by about 1e-6 of it, and the floor of 100 dB by 1e-5.
TIE_SHARE = 1e-4
ROWS = 8  # positions compared at a time: float64 copies of all logits would be the build's peak
RARE = 0.999  # the share of positions whose KL is at most kl_p999
REFERENCE = "reference"  # on the same codes; else a comparison is with an earlier mode
ROUNDED = "rounded"  # the reference with 8-bit activations
FLOAT_WEIGHTS = "float weights"  # compared with the codes, for the cost of the recipe


# A measured number. NaN where logits are NaN or infinite, which JSON has no number for: null there.
Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: value if math.isfinite(value) else None, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]}),
]


@dataclass(frozen=True, config=STRICT)
class Metrics:
    """How close two sets of logits are. The second is the judged one.

    Where a position's logits are NaN or infinite, the numbers over all positions are NaN; of the
    others, such a position is the worst: it agrees on no token and has the lowest SNR.
    """

    snr_db: Number  # 10 log10(sum of squared reference / sum of squared difference)
    median_db: Number  # the same of single positions: their median
    quarter_db: Number  # the same of single positions: a quarter of them is at least so good
    max_abs: Number
    kl: Number  # nats, mean over positions
    kl_p999: Number  # nats, the RARE quantile over positions
    top1: float  # share of positions with the same best token, ties within TIE_SHARE counted
    greedy: int  # decoded positions before the first different best token, all sequences
    decoded: int  # decoded positions
    positions: int
    columns: int  # logits compared per position

    def rounded(self) -> Metrics:
        """For reports: rounded far below what a bound could ask."""
        return replace(
            self,
            snr_db=round(self.snr_db, 2),
            median_db=round(self.median_db, 2),
            quarter_db=round(self.quarter_db, 2),
            max_abs=significant(self.max_abs),
            kl=significant(self.kl),
            kl_p999=significant(self.kl_p999),
            top1=round(self.top1, 6),
        )


@dataclass(frozen=True, config=STRICT)
class Limit:
    """One metric that a bound may limit, and the sentence of a failure."""

    metric: str  # of Metrics
    bound: str  # of Bound
    at_least: bool  # the bound is the least value; else the greatest
    sentence: str  # with {value} and {bound}


LIMITS = (
    Limit("snr_db", "snr_db", True, "SNR {value:.1f} dB is below {bound:g} dB"),
    Limit(
        "median_db",
        "median_db",
        True,
        "the median position's SNR {value:.1f} dB is below {bound:g} dB",
    ),
    Limit(
        "quarter_db",
        "quarter_db",
        True,
        "the best quarter of positions is below {bound:g} dB of SNR: it begins at {value:.1f} dB",
    ),
    Limit("kl", "max_kl", False, "KL {value:.4g} is above {bound:g}"),
    Limit(
        "kl_p999",
        "max_kl_p999",
        False,
        "the rare KL {value:.4g} (of one position in a thousand) is above {bound:g}",
    ),
    Limit("top1", "top1", True, "top-1 agreement {value:.4f} is below {bound:g}"),
)


@dataclass(frozen=True, config=STRICT)
class Comparison:
    """One line of a parity report."""

    artifact: str  # or the name of an encoding
    mode: str
    against: str  # REFERENCE, or an earlier mode of the artifact
    error: str  # the error kind: a key of the recipe's parity
    runtime: str
    metrics: Metrics
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every limit is kept."""
        return not self.failures


def to_json(report: object) -> dict[str, Any]:
    """A dataclass of reports for ``--json``, as the manifest has it: NaN becomes null."""
    values: dict[str, Any] = TypeAdapter(type(report)).dump_python(report, mode="json")
    return values


def failures_of(comparisons: Iterable[Comparison]) -> list[str]:
    """All broken limits, one sentence each, with artifact and mode."""
    return [f"{each.artifact} {each.mode}: {why}" for each in comparisons for why in each.failures]


def judge(
    artifact: str,
    mode: Mode,
    against: str,
    runtime: str,
    got: Outputs,
    golden: Golden,
    kinds: Mapping[str, ErrorKind],
    bounds: Mapping[str, Bound],
) -> Comparison:
    """Measure outputs against a golden (the reference's, or an earlier mode's)."""
    error = mode.bounds[against]
    metrics, failures = verdict(golden, got, kinds[error], bounds[error], against)
    return Comparison(artifact, mode.name, against, error, runtime, metrics, failures)


def verdict(
    golden: Golden, got: Outputs, kind: ErrorKind, bound: Bound, against: str
) -> tuple[Metrics, tuple[str, ...]]:
    """Rounded metrics of the positions that judge this kind of error, and what is broken.

    NaN and infinity are looked for at all positions. ``against``: the name of the golden's side.
    """
    judged = golden.judged(kind.random_ids)
    metrics = measure(judged.outputs, got.first(len(judged.outputs.best)), judged.decoded())
    failures = (
        *_not_finite(golden, got, "the logits"),
        *_not_finite(golden, golden.outputs, f"the logits of {against}"),
        *broken(metrics, bound),
    )
    return metrics.rounded(), failures


def measure(expected: Outputs, got: Outputs, decoded: list[slice]) -> Metrics:
    """Metrics of ``got`` against ``expected``, on the same columns, a few positions at a time."""
    agree = _agree(expected, got)
    energies, kls, most = [], [], []
    for number, (theirs, ours, difference) in enumerate(differences(expected, got)):
        rows = slice(number * ROWS, (number + 1) * ROWS)
        energies.append(powers(theirs, difference))
        most.append(np.abs(difference).max(axis=1))
        kls.append(row_kl(theirs - expected.norm[rows, None], ours - got.norm[rows, None]))
    finite = expected.finite & got.finite
    signal, noise = np.where(finite, np.concatenate(energies, axis=1), np.nan)
    kl = np.where(finite, np.concatenate(kls), np.nan)
    return Metrics(
        snr_db=decibels(float(signal.sum()), float(noise.sum())),
        median_db=_kept_by(1 / 2, signal, noise),
        quarter_db=_kept_by(1 / 4, signal, noise),
        max_abs=float(np.where(finite, np.concatenate(most), np.nan).max()),
        kl=float(np.maximum(0, kl.mean())),
        kl_p999=float(np.maximum(0, np.quantile(kl, RARE, method="higher"))),
        top1=float(agree.mean()),
        greedy=sum(_until_first(agree[span]) for span in decoded),
        decoded=sum(span.stop - span.start for span in decoded),
        positions=len(agree),
        columns=len(expected.columns),
    )


def differences(expected: Outputs, got: Outputs) -> Iterator[tuple[Doubles, Doubles, Doubles]]:
    """ROWS positions at a time: the logits of both sides, and ``got`` less ``expected``; each
    (ROWS, C)."""
    for first in range(0, len(got.best), ROWS):
        rows = slice(first, first + ROWS)
        theirs, ours = (each.values[rows].astype(np.float64) for each in (expected, got))
        with np.errstate(invalid="ignore"):  # infinity less infinity
            difference = ours - theirs
        yield theirs, ours, difference


def powers(expected: Doubles, difference: Doubles) -> Doubles:
    """Sums of squares of each position's numbers and of their differences, (T, C) -> (2, T)."""
    return np.stack([np.square(expected).sum(axis=1), np.square(difference).sum(axis=1)])


def broken(metrics: object, bound: Bound) -> tuple[str, ...]:
    """The limits that are not kept, one sentence each. NaN breaks every limit.

    ``metrics``: ``Metrics``, or others that have those which the bound limits, by the same names.
    """
    failures = []
    for limit in LIMITS:
        asked = getattr(bound, limit.bound)
        if asked is None:
            continue
        value = getattr(metrics, limit.metric)
        kept = value >= asked if limit.at_least else value <= asked
        if math.isnan(value):
            failures.append(f"{limit.metric} is not a number")
        elif not kept:
            failures.append(limit.sentence.format(value=value, bound=asked))
    return tuple(failures)


def _not_finite(golden: Golden, outputs: Outputs, whose: str) -> tuple[str, ...]:
    """A sentence, if logits at some positions of a golden's sequences are NaN or infinite."""
    bad = np.flatnonzero(~outputs.finite)
    if not len(bad):
        return ()
    return (
        f"{whose} hold NaN or infinity at {len(bad)} of {len(outputs.best)} positions, "
        f"the first at {golden.place(int(bad[0]))}",
    )


def _kept_by(share: float, signal: Doubles, noise: Doubles) -> float:
    """Signal to noise that a share of the positions keeps, in dB. NaN is the worst."""
    ratios = [decibels(float(s), float(n)) for s, n in zip(signal, noise, strict=True)]
    ordered = sorted(ratios, key=lambda ratio: -math.inf if math.isnan(ratio) else ratio)
    return ordered[int((len(ordered) - 1) * (1 - share))]


def significant(value: float, digits: int = 3) -> float:
    """A number rounded to some significant digits."""
    return float(f"{value:.{digits}g}")


def row_kl(log_p: Doubles, log_q: Doubles) -> Doubles:
    """Per position the sum of p log(p / q), (T, C) -> (T,); columns that are not kept count as one,
    which makes it a lower bound then."""
    with np.errstate(invalid="ignore", over="ignore"):
        p, q = np.exp(log_p), np.exp(log_q)
        total: Doubles = (p * (log_p - log_q)).sum(axis=1)
    rest_p, rest_q = 1 - p.sum(axis=1), 1 - q.sum(axis=1)
    rest = (rest_p > 1e-6) & (rest_q > 1e-6)  # below: rounding of a sum that is 1
    total[rest] += rest_p[rest] * np.log(rest_p[rest] / rest_q[rest])
    return total


def _agree(expected: Outputs, got: Outputs) -> NDArray[np.bool_]:
    """Per position: the same best token, or one that the reference holds for a tie. Where logits
    are NaN or infinite there is no best token."""
    finite = expected.finite & got.finite
    best, least = expected.values.max(axis=1), expected.values.min(axis=1)
    largest = max(best[finite].max(initial=0), -least[finite].min(initial=0))
    at = np.searchsorted(expected.columns, got.best).clip(max=len(expected.columns) - 1)
    kept = expected.columns[at] == got.best
    theirs = expected.values[np.arange(len(at)), at]
    tied = kept & (theirs >= best - TIE_SHARE * largest)
    agree: NDArray[np.bool_] = finite & ((got.best == expected.best) | tied)
    return agree


def _until_first(agree: Any) -> int:
    wrong = np.flatnonzero(~agree)
    return int(wrong[0]) if len(wrong) else len(agree)
