"""Rope frequencies of every scaling kind that a supported architecture uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.ops import Rope

Frequencies = NDArray[np.float32]
LONG = ("longrope", "su")  # "su" is the name in Phi-3's first files


@dataclass(frozen=True)
class LongRope:
    """The other rope of a longrope model, for contexts of more than ``beyond`` tokens."""

    rope: Rope
    beyond: int


def read_rope(config: Config, head_width: int) -> Rope:
    """The rope of config.json: ``rope_theta`` and ``rope_scaling``, or ``rope_parameters``.

    transformers 5 writes both facts into one object, ``rope_parameters``; older files keep them
    apart. A missing theta is an error: no default is safe (10000, 500000 and 1000000 all exist).
    """
    parameters = config.section("rope_parameters")
    scaling = parameters or config.section("rope_scaling")
    return rope_of(config, parameters or config, scaling, head_width)


def rope_of(config: Config, parameters: Config, scaling: Config | None, head_width: int) -> Rope:
    """A rope whose theta is in ``parameters`` and whose scaling, if any, in ``scaling``."""
    width = _rotating(config, parameters, head_width)
    theta = parameters.number("rope_theta")
    if scaling is not None and _kind(scaling) in LONG:
        return _factored(config, scaling, "short_factor", theta, width)
    return Rope(tuple(scaled(plain(theta, width), scaling).tolist()))


def read_long_rope(config: Config, head_width: int) -> LongRope | None:
    """The rope of long contexts, if the model has one."""
    parameters = config.section("rope_parameters")
    scaling = parameters or config.section("rope_scaling")
    if scaling is None or _kind(scaling) not in LONG:
        return None
    width = _rotating(config, parameters or config, head_width)
    theta = (parameters or config).number("rope_theta")
    rope = _factored(config, scaling, "long_factor", theta, width)
    return LongRope(rope, _original(config, scaling))


def plain(theta: float, width: int) -> Frequencies:
    """theta^(-2i / d) for i < d/2, rounded as transformers does: exponent and power in float32."""
    return np.float32(1.0) / _wavelengths(theta, width)


def scaled(frequencies: Frequencies, scaling: Config | None) -> Frequencies:
    """Apply ``rope_scaling``; an unknown kind is an error that lists the known ones."""
    if scaling is None:
        return frequencies
    kind = _kind(scaling)
    if kind not in SCALINGS:
        raise CheckpointError(
            f"{scaling.where}: rope_type {kind!r} is not supported",
            f"supported: {', '.join(sorted([*SCALINGS, LONG[0]]))}",
        )
    return SCALINGS[kind](frequencies, scaling)


def _kind(scaling: Config) -> str:
    return scaling.string("rope_type", scaling.values.get("type", "default"))


def _rotating(config: Config, parameters: Config, head_width: int) -> int:
    """How many channels of a head rotate: ``partial_rotary_factor`` of them, or all."""
    holder = parameters if parameters.has("partial_rotary_factor") else config
    width = int(head_width * holder.number("partial_rotary_factor", 1.0))
    if width % 2 or not 0 < width <= head_width:
        raise CheckpointError(
            f"{config.where}: {width} of {head_width} channels of a head would rotate; "
            f"rope rotates pairs of them (head width {head_width} is "
            f"{'odd' if head_width % 2 else 'even'})",
            "check head_dim, partial_rotary_factor, hidden_size and num_attention_heads",
        )
    return width


def _wavelengths(theta: float, width: int) -> Frequencies:
    """theta^(2i / d), in positions per radian."""
    exponent = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    powers: Frequencies = np.power(np.float32(theta), exponent)
    return powers


def _default(frequencies: Frequencies, scaling: Config) -> Frequencies:
    return frequencies


def _linear(frequencies: Frequencies, scaling: Config) -> Frequencies:
    """Position interpolation (Chen et al. 2023): every frequency divided by ``factor``."""
    return frequencies / np.float32(scaling.number("factor"))


def _llama3(frequencies: Frequencies, scaling: Config) -> Frequencies:
    """Llama 3.1's rule: long wavelengths divided by ``factor``, short kept, a ramp between.

    Source: Meta's llama-models, ``apply_scaling``; the same in transformers' modeling_rope_utils.
    """
    factor, low = scaling.number("factor"), scaling.number("low_freq_factor")
    high, context = (
        scaling.number("high_freq_factor"),
        scaling.number("original_max_position_embeddings"),
    )
    if high <= low:
        raise CheckpointError(
            f"{scaling.where}: high_freq_factor {high} is not above low_freq_factor {low}",
            "compare the file with the one that the model's author published",
        )
    wavelength = 2 * math.pi / frequencies
    smooth = (context / wavelength - low) / (high - low)
    ramp = (1 - smooth) * frequencies / factor + smooth * frequencies
    result = np.where(wavelength > context / low, frequencies / factor, frequencies)
    between = (wavelength <= context / low) & (wavelength >= context / high)
    return np.where(between, ramp, result).astype(np.float32)


SCALINGS: dict[str, Callable[[Frequencies, Config], Frequencies]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
}


def _factored(config: Config, scaling: Config, key: str, theta: float, width: int) -> Rope:
    """LongRoPE (Ding et al. 2024): a factor per pair, and cos and sin larger by one for all.

    Source: transformers' ``_compute_longrope_parameters``, in its order of rounding.
    """
    factors = np.array(scaling.numbers(key), np.float32)
    if len(factors) != width // 2:
        raise CheckpointError(
            f"{scaling.where}: {key} has {len(factors)} numbers, expected one for each of the "
            f"{width // 2} pairs of channels that rotate",
            "compare the file with the one that the model's author published",
        )
    frequencies = np.float32(1.0) / (factors * _wavelengths(theta, width))
    return Rope(tuple(frequencies.tolist()), _magnitude(config, scaling))


def _magnitude(config: Config, scaling: Config) -> float:
    """sqrt(1 + ln(s) / ln(original context)) for a context stretched s times."""
    if scaling.has("attention_factor"):
        return scaling.number("attention_factor")
    original = _original(config, scaling)
    stretched = config.integer("max_position_embeddings") / original
    factor = scaling.number("factor") if scaling.has("factor") else stretched
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def _original(config: Config, scaling: Config) -> int:
    """The context that the model was first trained for."""
    key = "original_max_position_embeddings"
    return (scaling if scaling.has(key) else config).integer(key, least=2)
