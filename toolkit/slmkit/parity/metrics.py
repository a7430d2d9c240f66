"""Artifact against reference: the two errors, their metrics, the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.backend.interface import Mode
from slmkit.ops import Floats
from slmkit.parity.golden import Golden, Outputs
from slmkit.recipe.bounds import Bound, Bounds

# Two tokens whose reference logits differ by less than this share of the largest logit are a tie:
# float32 sums in another order move a logit by about 1e-6 of it, and the floor of 100 dB by 1e-5.
TIE_SHARE = 1e-4
ROWS = 8  # positions compared at a time: float64 copies of all logits would be the build's peak
Doubles = NDArray[np.float64]
REFERENCE = "reference"  # what a line is compared with, if not with an earlier mode
ROUNDED = "rounded"  # the reference with 8-bit activations
FLOAT_WEIGHTS = "float weights"  # what the line of the recipe's price is compared with
EXACT_DB = 300.0  # reported for outputs that are equal to the last bit


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Line:
    """One comparison of a report."""

    artifact: str
    mode: str
    against: str  # REFERENCE, or an earlier mode of the artifact
    error: str  # lowering, quantization, ...: a key of the recipe's parity
    runtime: str
    metrics: Metrics
    failures: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For the manifest and ``--json``: rounded far below what a bound could ask."""
        metrics = {
            key: round(value, 6) if isinstance(value, float) else value
            for key, value in asdict(self.metrics).items()
        }
        for key in ("snr_db", "median_db"):
            metrics[key] = round(metrics[key], 2)
        return {
            "artifact": self.artifact,
            "mode": self.mode,
            "against": self.against,
            "error": self.error,
            "runtime": self.runtime,
            "metrics": metrics,
            "failures": list(self.failures),
        }


def line_from_json(values: dict[str, Any]) -> Line:
    """The inverse of ``Line.as_json``."""
    metrics = Metrics(**values["metrics"])
    return Line(**{**values, "metrics": metrics, "failures": tuple(values["failures"])})


def judge(
    artifact: str,
    mode: Mode,
    against: str,
    runtime: str,
    got: Outputs,
    golden: Golden,
    bounds: Bounds,
) -> Line:
    """Measure outputs against a golden (the reference's, or an earlier mode's)."""
    metrics = measure(golden.outputs, got, golden.decoded())
    error = mode.bounds[against]
    bound: Bound = getattr(bounds, error)
    return Line(artifact, mode.name, against, error, runtime, metrics, broken(metrics, bound))


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
        snr_db=_decibels(signal, noise),
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
    if bound.snr_db is not None and not metrics.snr_db >= bound.snr_db:
        failures.append(f"SNR {metrics.snr_db:.1f} dB is below {bound.snr_db:g} dB")
    if bound.median_db is not None and not metrics.median_db >= bound.median_db:
        failures.append(
            f"the median position's SNR {metrics.median_db:.1f} dB is below {bound.median_db:g} dB"
        )
    if bound.max_kl is not None and not metrics.kl <= bound.max_kl:
        failures.append(f"KL {metrics.kl:.4g} is above {bound.max_kl:g}")
    if bound.top1 is not None and not metrics.top1 >= bound.top1:
        failures.append(f"top-1 agreement {metrics.top1:.4f} is below {bound.top1:g}")
    return tuple(failures)


def signal_to_noise(expected: Floats, got: Floats) -> float:
    """In dB, within what is reported for equal outputs; NaN where a number is not finite."""
    signal = float(np.square(expected, dtype=np.float64).sum())
    return _decibels(signal, float(np.square(got.astype(np.float64) - expected).sum()))


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return EXACT_DB
    if not np.isfinite(noise) or not np.isfinite(signal):
        return float("nan")
    return float(10 * np.log10(signal / noise)) if signal else -EXACT_DB


def _median(powers: list[Doubles]) -> float:
    """Of signal to noise per position; half of the positions are at least so good."""
    pairs = np.concatenate(powers, axis=1).T
    ordered = sorted(_decibels(float(signal), float(noise)) for signal, noise in pairs)
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
