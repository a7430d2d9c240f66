"""A forecast of speed and memory on public phones, with an error bar out of public measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slmkit.backend.declaration import Processor
from slmkit.interpreters.recorder import Model
from slmkit.planning.memory import Costs, weight_sizes
from slmkit.planning.public_speeds import Phone, PublicSpeeds, public_speeds
from slmkit.planning.speed_fit import (
    DECODE,
    KINDS,
    PREFILL,
    Accuracy,
    Fit,
    Speed,
    milliseconds,
    rows_of,
)
from slmkit.recipe.recipe import Recipe


@dataclass(frozen=True)
class Work:
    """The work of one token of a model in one artifact."""

    read: float  # bytes of weights, while decoding
    body: float  # parameters that multiply each token of a prompt


@dataclass(frozen=True)
class PhoneForecast:
    """One artifact on one phone."""

    phone: str
    chip: str
    maker: str  # of the chip
    artifact: str
    processor: Processor
    memory: int  # bytes that an app needs with it
    app_memory: int  # bytes that an app may use
    decode: Speed | None
    prefill: Speed | None
    outside: bool  # it reads far less or more per token than what was measured publicly
    peers: int  # public measurements of decoding on such processors of the chip's maker

    @property
    def fits(self) -> bool:
        """Whether the app may use as much as it needs."""
        return self.memory <= self.app_memory


@dataclass(frozen=True)
class Forecast:
    """An estimate for a list of phones, and how good such estimates are."""

    phones: tuple[PhoneForecast, ...]
    accuracy: tuple[Accuracy, ...]


def work_of(model: Model, recipe: Recipe, costs: Costs) -> Work:
    """The bytes and parameters of one token: of experts, as many as are chosen; of a table that is
    only looked up, nothing; of a prompt, no head."""
    moe = model.spec.moe
    experts = {
        name
        for layer in model.moe_layers
        for expert in layer
        for name in (*expert.gate_up, expert.down)
    }
    share = moe.routing.chosen / moe.experts if moe else 1.0
    sizes = weight_sizes(model, recipe, costs)
    read = body = 0.0
    for tensor, weight in model.weights.items():
        if weight.name in model.looked_up - model.multiplied:
            continue
        used = share if weight.name in experts else 1.0
        matrix = len(weight.shape) == 2
        read += sizes[tensor] * used / (costs.copies if matrix else 1)
        if matrix and weight.shape[0] != model.spec.vocabulary:
            body += weight.size * used
    return Work(read, body)


def forecast(
    artifacts: Mapping[str, tuple[Processor, Work, int]],
    target: str,
    names: tuple[str, ...] | None = None,
    figures: PublicSpeeds | None = None,
) -> Forecast:
    """Forecast artifacts on the target's phones: by default on its short list.

    ``artifacts``: name -> the processor that runs it, its work, and the bytes that an app needs.
    ``names``: of phones, or ("all",). Raises UsageError for phones without public figures.
    """
    figures = figures or public_speeds()
    phones = figures.phones_of(target, names)
    used = dict.fromkeys(processor for processor, _, _ in artifacts.values()) if phones else {}
    fits = {(kind, each): Fit.of(figures, kind, each) for each in used for kind in KINDS}
    found = [
        _on_phone(figures, fits, phone, name, *each)
        for name, each in artifacts.items()
        for phone in phones
    ]
    return Forecast(tuple(found), tuple(fit.accuracy for fit in fits.values()))


def _on_phone(
    figures: PublicSpeeds,
    fits: Mapping[tuple[str, Processor], Fit],
    phone: Phone,
    artifact: str,
    processor: Processor,
    work: Work,
    memory: int,
) -> PhoneForecast:
    chip = figures.chip(phone.chip)
    compute = chip.compute.get(processor)
    rows = rows_of(figures, DECODE, processor)
    reading, decode = milliseconds(work.read, chip.bandwidth), fits[DECODE, processor]
    return PhoneForecast(
        phone.name,
        chip.name,
        chip.maker,
        artifact,
        processor,
        memory,
        figures.app_memory(phone),
        decode.speed(reading),
        fits[PREFILL, processor].speed(work.body / compute if compute else None),
        decode.line is not None and not decode.covers(reading),
        sum(figures.chip(row.chip).maker == chip.maker for row in rows),
    )
