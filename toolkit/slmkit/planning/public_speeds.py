"""Public figures of phones: bandwidth, compute and memory, and measured speeds, with sources."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slmkit.backend.declaration import Processor
from slmkit.errors import UsageError

FILE = Path(__file__).with_name("public_speeds.json")
STRICT = ConfigDict(extra="forbid", frozen=True)


class Source(BaseModel):
    """Where a figure was published."""

    model_config = STRICT

    title: str
    url: str


class Share(BaseModel):
    """The share of a phone's memory that one app may use."""

    model_config = STRICT

    share: float = Field(gt=0, le=1)
    source: str


class Chip(BaseModel):
    """A phone's chip."""

    model_config = STRICT

    id: str
    name: str
    maker: str
    bandwidth: float = Field(gt=0)  # GB/s, of the memory, at most
    bandwidth_from: str
    bandwidth_source: str
    # By processor, in units that only the chips of one maker share: of a cpu the sum of the clocks
    # of all but its efficiency cores, in GHz; of others how many times as fast as one of the chips.
    compute: dict[Processor, float]
    compute_from: str = ""
    compute_source: str | None = None


class Phone(BaseModel):
    """A phone on the market."""

    model_config = STRICT

    name: str
    chip: str
    target: str
    ram: int = Field(gt=0)  # GB, of the smallest variant
    shown: bool  # in the short list
    source: str


class Measurement(BaseModel):
    """A published speed of one model on one processor of one chip."""

    model_config = STRICT

    source: str
    chip: str
    processor: Processor
    model: str
    stack: str
    read: float = Field(gt=0)  # MB of weights that a token reads
    read_from: str
    decode: float = Field(gt=0)  # tokens per second
    prefill: float | None = None
    prompt: int | None = None  # tokens, where it is said
    body: float | None = None  # millions of parameters that multiply each token of a prompt

    @property
    def bytes_read(self) -> float:
        """Bytes of weights that a token reads."""
        return self.read * 1e6


class PublicSpeeds(BaseModel):
    """The whole file."""

    model_config = STRICT

    sources: dict[str, Source]
    app_share: dict[str, Share]  # by target
    chips: tuple[Chip, ...]
    phones: tuple[Phone, ...]
    measurements: tuple[Measurement, ...]

    @model_validator(mode="after")
    def _names_are_known(self) -> PublicSpeeds:
        chips = {chip.id for chip in self.chips}
        sources = {phone.source for phone in self.phones}
        sources |= {row.source for row in self.measurements}
        sources |= {each.source for each in self.app_share.values()}
        sources |= {chip.bandwidth_source for chip in self.chips}
        sources |= {chip.compute_source for chip in self.chips if chip.compute_source}
        unknown = sources - set(self.sources)
        unknown |= {phone.chip for phone in self.phones} - chips
        unknown |= {row.chip for row in self.measurements} - chips
        unknown |= {phone.target for phone in self.phones} - set(self.app_share)
        if unknown:
            raise ValueError(f"unknown names: {', '.join(sorted(unknown))}")
        return self

    def chip(self, name: str) -> Chip:
        """A chip by its id."""
        return next(chip for chip in self.chips if chip.id == name)

    def app_memory(self, phone: Phone) -> int:
        """Bytes that one app may use on a phone."""
        return int(phone.ram * 10**9 * self.app_share[phone.target].share)

    def phones_of(self, target: str, names: tuple[str, ...] | None = None) -> list[Phone]:
        """The target's phones by name, or its short list. Raises UsageError for others."""
        every = [phone for phone in self.phones if phone.target == target]
        if names is None:
            return [phone for phone in every if phone.shown]
        if names == ("all",):
            return every
        known = {phone.name.lower(): phone for phone in every}
        for name in names:
            if name.lower() not in known:
                listed = ", ".join(phone.name for phone in every) or "none"
                raise UsageError(
                    f"there are no public figures of a phone {name!r} for {target}",
                    f"--phones takes all, or names separated by commas of: {listed}",
                )
        return [known[name.lower()] for name in names]


@lru_cache(maxsize=1)
def public_speeds() -> PublicSpeeds:
    """The figures that slmkit ships."""
    return PublicSpeeds.model_validate_json(FILE.read_text(encoding="utf-8"))
