"""Fit speeds to public measurements, and say how far such a fit is off.

A token's time is a line over its ideal time: of decoding, bytes of weights by the memory's
bandwidth; of a prompt, parameters by the processor's compute. The line is fitted to the public
measurements of one kind of processor. The error bar is that of forecasts of each source's
measurements from those of other sources alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmkit.backend.declaration import Processor
from slmkit.planning.public_speeds import Measurement, PublicSpeeds

DECODE, PREFILL = KINDS = "decode", "prefill"
NOTHING = "-"  # stands for a speed that cannot be forecast
Times = NDArray[np.float64]
# Lines that are tried, in shares of a set's median time, and of its median time by ideal time.
OVERHEADS = np.linspace(0, 1, 41)
SLOPES = np.geomspace(0.25, 1.5, 61)
COVERED = 0.8  # the share of forecasts from other sources that the error bar covers
LEAST_SOURCES = 3  # with measurements, for a forecast: else no error can be told
EDGE = 1.5  # times beyond the fastest or slowest ideal time that was measured: no forecast there
WORST = 0.5  # the median error of forecasts from other sources, at most: else there is no forecast


@dataclass(frozen=True)
class Error:
    """A measurement, and its forecast from others."""

    measurement: Measurement
    speed: float  # tokens per second, published
    by_row: float  # forecast from all other measurements
    by_source: float  # from those of other sources

    @property
    def row_error(self) -> float:
        """The share by which the forecast from all others is off."""
        return abs(self.by_row / self.speed - 1)

    @property
    def source_error(self) -> float:
        """The share by which the forecast from other sources is off."""
        return abs(self.by_source / self.speed - 1)


@dataclass(frozen=True)
class Accuracy:
    """How good forecasts are: of one kind of speed, on one kind of processor."""

    kind: str  # DECODE or PREFILL
    processor: Processor
    rows: int
    sources: int
    by_row: float | None  # median error, each row left out
    by_source: float | None  # median error, each source left out
    factor: float | None  # the error bar: most forecasts are within this factor

    @property
    def usable(self) -> bool:
        """Whether a forecast says anything."""
        return self.by_source is not None and self.by_source <= WORST

    @property
    def why_not(self) -> str:
        """The reason for which there is no forecast; empty if there is one."""
        if self.usable:
            return ""
        if self.by_source is None:
            return f"public measurements of {self.sources} sources only"
        return f"public measurements contradict each other: median error {self.by_source:.0%}"


@dataclass(frozen=True)
class Speed:
    """Tokens per second: the forecast and its error bar."""

    value: float
    low: float
    high: float


def accuracy(figures: PublicSpeeds, kind: str, processor: Processor) -> Accuracy:
    """Leave each measurement and each source out, and forecast it from the others."""
    found = errors_of(figures, kind, processor)
    sources = {each.measurement.source for each in found}
    if len(sources) < LEAST_SOURCES:
        return Accuracy(kind, processor, len(found), len(sources), None, None, None)
    apart = np.abs(np.log([each.by_source / each.speed for each in found]))
    return Accuracy(
        kind,
        processor,
        len(found),
        len(sources),
        float(np.median([each.row_error for each in found])),
        float(np.median([each.source_error for each in found])),
        float(np.exp(np.quantile(apart, COVERED))),
    )


def errors_of(figures: PublicSpeeds, kind: str, processor: Processor) -> list[Error]:
    """Each measurement with its forecasts from others; nothing where all are of one source."""
    rows = rows_of(figures, kind, processor)
    sources = np.asarray([row.source for row in rows])
    if len(set(sources)) < 2:
        return []
    ideal, actual = _observed(figures, kind, rows)
    found = []
    for at, row in enumerate(rows):
        others, elsewhere = np.arange(len(rows)) != at, sources != row.source
        forecasts = [
            1000 / _fitted(ideal[kept], actual[kept])(float(ideal[at]))
            for kept in (others, elsewhere)
        ]
        found.append(Error(row, _speed_of(row, kind), *forecasts))
    return found


@dataclass(frozen=True)
class Line:
    """Time of a token, in ms, by its ideal time."""

    overhead: float
    slope: float

    def __call__(self, ideal: float) -> float:
        return self.overhead + self.slope * ideal


@dataclass(frozen=True)
class Fit:
    """The line through the measurements of one kind, and how good it is."""

    accuracy: Accuracy
    line: Line | None
    least: float  # ideal times between which measurements lie, and a little beyond
    most: float

    @classmethod
    def of(cls, figures: PublicSpeeds, kind: str, processor: Processor) -> Fit:
        """The fit of the figures."""
        good = accuracy(figures, kind, processor)
        if not good.usable:
            return cls(good, None, 0, 0)
        ideal, actual = _observed(figures, kind, rows_of(figures, kind, processor))
        least, most = float(ideal.min()) / EDGE, float(ideal.max()) * EDGE
        return cls(good, _fitted(ideal, actual), least, most)

    def covers(self, ideal: float) -> bool:
        """Whether public measurements tell something about such a token."""
        return self.line is not None and self.least <= ideal <= self.most

    def speed(self, ideal: float | None) -> Speed | None:
        """The forecast for a token's ideal time; None where nothing can be told."""
        factor = self.accuracy.factor
        if self.line is None or factor is None or ideal is None or not self.covers(ideal):
            return None
        value = 1000 / self.line(ideal)
        return Speed(value, value / factor, value * factor)


def rows_of(figures: PublicSpeeds, kind: str, processor: Processor) -> list[Measurement]:
    """The measurements that a forecast is fitted to."""
    rows = [each for each in figures.measurements if each.processor == processor]
    if kind == DECODE:
        return rows
    known = {chip.id for chip in figures.chips if processor in chip.compute}
    return [each for each in rows if each.prefill and each.body and each.chip in known]


def _observed(figures: PublicSpeeds, kind: str, rows: Sequence[Measurement]) -> tuple[Times, Times]:
    """Of each row a token's ideal time, and the actual one in ms.

    The ideal: of decoding, ms at the memory's bandwidth; of a prompt, parameters by compute.
    """
    chips = [figures.chip(row.chip) for row in rows]
    ideal = [
        milliseconds(row.bytes_read, chip.bandwidth)
        if kind == DECODE
        else (row.body or 0) * 1e6 / chip.compute[row.processor]
        for row, chip in zip(rows, chips, strict=True)
    ]
    return np.asarray(ideal), np.asarray([1000 / _speed_of(row, kind) for row in rows])


def _speed_of(row: Measurement, kind: str) -> float:
    return row.decode if kind == DECODE else row.prefill or math.nan


def milliseconds(read: float, bandwidth: float) -> float:
    """Of reading bytes at a bandwidth in GB/s."""
    return read / bandwidth / 1e6


def _fitted(ideal: Times, actual: Times) -> Line:
    """The line with the least mean of |log(line / actual)|, which no single row can bend."""
    overheads = OVERHEADS * float(np.median(actual))
    slopes = SLOPES * float(np.median(actual / ideal))
    lines = overheads[:, None, None] + slopes[None, :, None] * ideal
    off = np.abs(np.log(lines / actual)).mean(axis=-1)
    overhead, slope = np.unravel_index(int(off.argmin()), off.shape)
    return Line(float(overheads[overhead]), float(slopes[slope]))


def speed_text(speed: Speed | None) -> str:
    """35 tokens/s that may be 24 to 51: "35 (24-51)"."""
    if speed is None:
        return NOTHING
    return f"{_rounded(speed.value)} ({_rounded(speed.low)}-{_rounded(speed.high)})"


def _rounded(value: float) -> str:
    """Two significant digits: what an estimate deserves."""
    return f"{float(f'{value:.2g}'):g}"
