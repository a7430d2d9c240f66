"""Compare logits: metrics, the limits of a bound, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from slmkit.backend.artifact import STRICT, Mode
from slmkit.parity.golden import Golden, Outputs
from slmkit.recipe.bounds import Bound
from slmkit.snr import decibels

# Two tokens whose reference logits differ by less than this share of the largest logit are a tie:
# float32 sums in another order move a logit by about 1e-6 of it, and the floor of 100 dB by 1e-5.
TIE_SHARE = 1e-4
ROWS = 8  # positions compared at a time: float64 copies of all logits would be the build's peak
Doubles = NDArray[np.float64]
REFERENCE = "reference"  # on the same codes; else a comparison is with an earlier mode
ROUNDED = "rounded"  # the reference with 8-bit activations
FLOAT_WEIGHTS = "float weights"  # compared with the codes, for the cost of the recipe


@dataclass(frozen=True, config=STRICT)
class Metrics:
    """How close two sets of logits are. The second is the judged one."""

    snr_db: float  # 10 log10(sum of squared reference / sum of squared difference)
    median_db: float  # the same of single positions: their median
    max_abs: float
    kl: float  # nats, mean over positions
    top1: float  # share of positions with the same best token, ties within TIE_SHARE counted
    greedy: int  # decoded positions before the first different best token, all sequences
    decoded: int  # decoded positions
    positions: int
    columns: int  # logits compared per position

    def rounded(self) -> Metrics:
        """For reports: rounded far below what a bound could ask."""
        return Metrics(
            round(self.snr_db, 2),
            round(self.median_db, 2),
            round(self.max_abs, 6),
            round(self.kl, 6),
            round(self.top1, 6),
            self.greedy,
            self.decoded,
            self.positions,
            self.columns,
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
    Limit("kl", "max_kl", False, "KL {value:.4g} is above {bound:g}"),
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


_ADAPTER = TypeAdapter(Comparison)


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """For ``--json``, as the manifest has it."""
    values: dict[str, Any] = _ADAPTER.dump_python(comparison, mode="json")
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
    bounds: Mapping[str, Bound],
) -> Comparison:
    """Measure outputs against a golden (the reference's, or an earlier mode's)."""
    metrics = measure(golden.outputs, got, golden.decoded())
    error = mode.bounds[against]
    failures = broken(metrics, bounds[error])
    return Comparison(artifact, mode.name, against, error, runtime, metrics.rounded(), failures)


def measure(expected: Outputs, got: Outputs, decoded: list[slice]) -> Metrics:
    """Metrics of ``got`` against ``expected``, on the same columns, a few positions at a time."""
    agree = _agree(expected, got)
    signal = noise = total_kl = max_abs = 0.0
    powers: list[Doubles] = []
    for first in range(0, len(agree), ROWS):
        rows = slice(first, first + ROWS)
        ours = got.values[rows].astype(np.float64)
        theirs = expected.values[rows].astype(np.float64)
        power = np.square(theirs).sum(axis=1), np.square(ours - theirs).sum(axis=1)
        powers.append(np.stack(power))
        signal, noise = signal + float(power[0].sum()), noise + float(power[1].sum())
        max_abs = max(max_abs, float(np.abs(ours - theirs).max()), key=_nan_last)
        total_kl += _kl(theirs - expected.norm[rows, None], ours - got.norm[rows, None])
    return Metrics(
        snr_db=decibels(signal, noise),
        median_db=_median(powers),
        max_abs=max_abs,
        kl=max(0.0, total_kl / len(agree)),
        top1=float(agree.mean()),
        greedy=sum(_until_first(agree[span]) for span in decoded),
        decoded=sum(span.stop - span.start for span in decoded),
        positions=len(agree),
        columns=len(expected.columns),
    )


def broken(metrics: Metrics, bound: Bound) -> tuple[str, ...]:
    """The limits that are passed, one sentence each. NaN breaks every limit."""
    failures = []
    if not np.isfinite(metrics.max_abs):
        failures.append("the logits hold NaN or infinity")
    for limit in LIMITS:
        value, asked = getattr(metrics, limit.metric), getattr(bound, limit.bound)
        if asked is None:
            continue
        kept = value >= asked if limit.at_least else value <= asked
        if not kept:
            failures.append(limit.sentence.format(value=value, bound=asked))
    return tuple(failures)


def _median(powers: list[Doubles]) -> float:
    """Of signal to noise per position; half of the positions are at least so good."""
    pairs = np.concatenate(powers, axis=1).T
    ordered = sorted(decibels(float(signal), float(noise)) for signal, noise in pairs)
    return ordered[(len(ordered) - 1) // 2]


def _nan_last(value: float) -> float:
    """A NaN is the largest difference there is."""
    return value if value == value else float("inf")


def _kl(log_p: Doubles, log_q: Doubles) -> float:
    """Sum over positions of sum p log(p / q); columns that are not kept count as one,
    which makes it a lower bound then."""
    p, q = np.exp(log_p), np.exp(log_q)
    total = (p * (log_p - log_q)).sum(axis=1)
    rest_p, rest_q = 1 - p.sum(axis=1), 1 - q.sum(axis=1)
    rest = (rest_p > 1e-6) & (rest_q > 1e-6)  # below: rounding of a sum that is 1
    total[rest] += rest_p[rest] * np.log(rest_p[rest] / rest_q[rest])
    return float(total.sum())


def _agree(expected: Outputs, got: Outputs) -> Any:
    """Per position: the same best token, or one that the reference holds for a tie."""
    tie = TIE_SHARE * np.abs(expected.values).max()
    at = np.searchsorted(expected.columns, got.best).clip(max=len(expected.columns) - 1)
    kept = expected.columns[at] == got.best
    theirs = expected.values[np.arange(len(at)), at]
    return (got.best == expected.best) | (kept & (theirs >= expected.values.max(axis=1) - tie))


def _until_first(agree: Any) -> int:
    wrong = np.flatnonzero(~agree)
    return int(wrong[0]) if len(wrong) else len(agree)
