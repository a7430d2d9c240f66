"""Rope frequencies from config.json: default, linear, dynamic, llama3, longrope, yarn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.models.rope_facts import THETA, original_context, rope_facts
from slmkit.models.yarn import yarn
from slmkit.ops import Rope

Frequencies = NDArray[np.float32]
YARN = "yarn"
LONGROPE = ("longrope", "su")  # "su" is the name in Phi-3's first files


@dataclass(frozen=True)
class LongRope:
    """The rope of a longrope model for contexts of more than ``beyond`` tokens."""

    rope: Rope
    beyond: int


def read_rope(config: Config, head_width: int) -> Rope:
    """The rope of config.json: see ``rope_facts``.

    Raises CheckpointError for a missing theta: no default is safe (10000, 500000 and 1000000 all
    exist).
    """
    return rope_of(config, rope_facts(config), head_width)


def rope_of(config: Config, facts: Config, head_width: int) -> Rope:
    """A rope by its facts: theta, the share that rotates, and the scaling if there is one."""
    width, theta = _rotary_width(config, facts, head_width), facts.number(THETA)
    if _kind(facts) in LONGROPE:
        return _longrope(config, facts, "short_factor", theta, width)
    if _kind(facts) == YARN:
        return yarn(config, facts, _wavelengths(theta, width))
    frequencies = _scale_frequencies(_base_frequencies(theta, width), facts)
    return Rope(tuple(frequencies.tolist()))


def read_long_rope(config: Config, head_width: int) -> LongRope | None:
    """The long-context rope of a longrope model; None for others."""
    facts = rope_facts(config)
    if _kind(facts) not in LONGROPE:
        return None
    width = _rotary_width(config, facts, head_width)
    rope = _longrope(config, facts, "long_factor", facts.number(THETA), width)
    return LongRope(rope, original_context(config, facts))


def _base_frequencies(theta: float, width: int) -> Frequencies:
    """theta^(-2i / d) for i < d/2, in radians per position.

    Exponent and power are float32, as in transformers. Source: Su et al. 2021, "RoFormer".
    """
    return np.float32(1.0) / _wavelengths(theta, width)


def _scale_frequencies(frequencies: Frequencies, scaling: Config) -> Frequencies:
    """Apply the scaling. Raises CheckpointError for an unknown kind."""
    kind = _kind(scaling)
    if kind not in SCALINGS:
        raise CheckpointError(
            f"{scaling.where}: rope_type {kind!r} is not supported",
            f"supported: {', '.join(sorted([*SCALINGS, LONGROPE[0], YARN]))}",
        )
    return SCALINGS[kind](frequencies, scaling)


def _kind(scaling: Config) -> str:
    return scaling.string("rope_type", scaling.values.get("type", "default"))


def _rotary_width(config: Config, facts: Config, head_width: int) -> int:
    """Channels of a head that rotate: the share ``partial_rotary_factor``, or all."""
    width = int(head_width * facts.number("partial_rotary_factor", 1.0))
    if width % 2 or not 0 < width <= head_width:
        raise CheckpointError(
            f"{config.where}: {width} of {head_width} channels of a head would rotate; "
            f"rope rotates pairs of them (head width {head_width} is "
            f"{'odd' if head_width % 2 else 'even'})",
            "check head_dim, partial_rotary_factor, hidden_size and num_attention_heads",
        )
    return width


def _wavelengths(theta: float, width: int) -> Frequencies:
    """theta^(2i / d), (d/2,), in positions per radian."""
    exponent = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    powers: Frequencies = np.power(np.float32(theta), exponent)
    return powers


def _default(frequencies: Frequencies, scaling: Config) -> Frequencies:
    return frequencies


def _linear(frequencies: Frequencies, scaling: Config) -> Frequencies:
    """Position interpolation (Chen et al. 2023): every frequency divided by ``factor``."""
    return frequencies / np.float32(scaling.number("factor"))


def _llama3(frequencies: Frequencies, scaling: Config) -> Frequencies:
    """Llama 3.1: frequencies of long wavelengths divided by ``factor``, of short ones unchanged.

    Wavelengths between context / ``high_freq_factor`` and context / ``low_freq_factor`` are
    interpolated between the two.

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


def _dynamic(frequencies: Frequencies, scaling: Config) -> Frequencies:
    """NTK scaling that grows with the sequence: none within the trained context.

    A bundle's context is never longer than that one.
    """
    scaling.number("factor")
    return frequencies


SCALINGS: dict[str, Callable[[Frequencies, Config], Frequencies]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
}


def _longrope(config: Config, scaling: Config, key: str, theta: float, width: int) -> Rope:
    """LongRoPE (Ding et al. 2024): frequencies divided by a factor per pair, and a magnitude.

    ``key``: ``short_factor`` or ``long_factor``, width / 2 numbers.

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
    """The factor on cos and sin: sqrt(1 + ln(s) / ln(original context)).

    s: ``factor``, or trained context / original context. Source: as ``_longrope``.
    """
    if scaling.has("attention_factor"):
        return scaling.number("attention_factor")
    original = original_context(config, scaling)
    ratio = config.integer("max_position_embeddings") / original
    factor = scaling.number("factor") if scaling.has("factor") else ratio
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
