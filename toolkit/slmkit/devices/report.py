"""The report of a device: how fast artifacts are there, how much memory they take, how right."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field, model_validator

from slmkit.parity.metrics import Number

SCHEMA = Path(__file__).with_name("report.schema.json")  # published; a test keeps it equal
STRICT = ConfigDict(extra="forbid", frozen=True)


class Device(BaseModel):
    """Facts of a device, read there."""

    model_config = STRICT

    where: str  # "local", or how it was reached
    emulated: str = ""  # what computes there, if it is no silicon: times say nothing then
    model: str
    soc: str | None = None
    os: str
    abi: str
    cpu_features: tuple[str, ...] = ()
    cores: int
    memory: int | None = None  # bytes


class Samples(BaseModel):
    """One quantity, measured several times."""

    model_config = STRICT

    runs: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _without_what_follows(cls, values: Any) -> Any:
        """Read a report again: median and spread follow from the runs."""
        if not isinstance(values, Mapping):
            return values
        return {key: each for key, each in values.items() if key not in ("median", "spread")}

    @classmethod
    def of(cls, runs: Sequence[float]) -> Samples:
        """Rounded to four digits."""
        return cls(runs=tuple(float(f"{run:.4g}") for run in runs))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.runs)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def spread(self) -> float:
        """The largest less the smallest, as a share of the median."""
        return (max(self.runs) - min(self.runs)) / self.median if self.median else 0.0


def spread_text(samples: Samples) -> str:
    """Median and spread: "123 (4%)"."""
    return f"{float(f'{samples.median:.3g}'):g} ({samples.spread:.0%})"


class Speed(BaseModel):
    """Answers to prompts of one length."""

    model_config = STRICT

    prompt: int  # tokens
    decoded: int  # tokens, one by one
    prefill: Samples  # tokens per second
    decode: Samples  # tokens per second
    first_token_ms: Samples  # from the prompt's ids to the first token's id


class Tokens(BaseModel):
    """Parity of the tokens with the reference."""

    model_config = STRICT

    top1: Number  # share of positions with the reference's best token
    greedy: int  # decoded positions before the first different best token, all prompts
    decoded: int
    snr_db: Number
    median_db: Number | None = None  # of single positions
    failures: tuple[str, ...]  # broken bounds

    @property
    def passed(self) -> bool:
        """Whether every bound is kept."""
        return not self.failures


def tokens_text(tokens: Tokens) -> str:
    """Agreement with the reference, in words."""
    return (
        f"{tokens.top1:.0%} the same, {tokens.greedy} of {tokens.decoded} in a row, "
        f"{tokens.snr_db:.1f} dB"
    )


class Position(BaseModel):
    """One decoded position, as the runtime has it."""

    model_config = STRICT

    ids: tuple[int, ...]  # the best ones, the best first
    logits: tuple[Number, ...]  # of those
    norm: Number  # log of the sum of exp over the whole vocabulary


class Case(BaseModel):
    """A golden prompt: its decoded positions, each behind the reference's own tokens."""

    model_config = STRICT

    name: str
    positions: tuple[Position, ...]


class Run(BaseModel):
    """One artifact on the device, or a peer's model beside it."""

    model_config = STRICT

    name: str
    mode: str = ""
    peer: bool = False
    runtime: str
    threads: int
    size: int  # bytes of the files that are loaded
    load_s: Samples
    cold: Speed  # the first answer of a new process
    warm: tuple[Speed, ...]  # none, where only parity was asked for
    memory_peak: int | None  # bytes of the process, at most
    memory_before: int | None  # bytes of the process before anything was loaded
    tokens: Tokens | None  # None: not compared, as a peer's
    cases: tuple[Case, ...] = ()  # of those golden prompts by which the tokens were compared
    rank: int | None  # by decode speed, of runs whose tokens are right
    notices: tuple[str, ...] = ()  # about its tokens

    @property
    def longest(self) -> Speed:
        """The warm answer to the longest prompt; where there is none, the cold one."""
        return self.warm[-1] if self.warm else self.cold


class DeviceReport(BaseModel):
    """Everything that was measured on one device."""

    model_config = STRICT

    format: Literal["slmkit-device-report/1"] = "slmkit-device-report/1"
    slmkit: str
    time: str  # ISO 8601, UTC
    device: Device
    model: str
    parameters: int
    recipe: str
    runs: tuple[Run, ...]
    not_executed: tuple[str, ...]  # artifacts that did not run there, and why
    busy: float | None = None  # the device's load average before it began, where it tells
    thermal: str | None = None  # its state, where it can be read

    @property
    def wrong(self) -> list[Run]:
        """Runs whose tokens are not the reference's: never ranked."""
        return [run for run in self.runs if run.tokens is not None and not run.tokens.passed]


def ranked(runs: Sequence[Run], emulated: bool = False) -> tuple[Run, ...]:
    """Runs in the order of decode speed at the longest prompt; those whose tokens are wrong come
    last. Only those whose tokens were compared, and are right, get a rank; under an emulator, none
    does."""

    def right(run: Run) -> bool:
        known = run.tokens is not None and run.tokens.passed
        return known and len(run.warm) > 0 and not emulated

    def wrong(run: Run) -> bool:
        return run.tokens is not None and not run.tokens.passed

    ordered = sorted(runs, key=lambda run: (wrong(run), -run.longest.decode.median))
    numbers = iter(range(1, len(ordered) + 1))
    return tuple(
        run.model_copy(update={"rank": next(numbers) if right(run) else None}) for run in ordered
    )


def schema() -> dict[str, Any]:
    """The JSON Schema of a report."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **DeviceReport.model_json_schema(mode="serialization"),
    }
