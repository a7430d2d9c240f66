"""Rope frequencies of every scaling kind that a supported architecture uses."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.ops import Rope

Frequencies = NDArray[np.float32]


def read_rope(config: Config, head_width: int) -> Rope:
    """The rope of config.json: ``rope_theta`` and ``rope_scaling``, or ``rope_parameters``.

    transformers 5 writes both facts into one object, ``rope_parameters``; older files keep them
    apart. A missing theta is an error: no default is safe (10000, 500000 and 1000000 all exist).
    """
    parameters = config.section("rope_parameters")
    scaling = parameters or config.section("rope_scaling")
    theta = (parameters or config).number("rope_theta")
    if head_width % 2:
        raise CheckpointError(
            f"{config.where}: head width {head_width} is odd; rope rotates pairs of channels",
            "check head_dim, hidden_size and num_attention_heads",
        )
    return Rope(tuple(scaled(plain(theta, head_width), scaling).tolist()))


def plain(theta: float, width: int) -> Frequencies:
    """theta^(-2i / d) for i < d/2, rounded as transformers does: exponent and power in float32."""
    exponent = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    frequencies: Frequencies = np.float32(1.0) / np.power(np.float32(theta), exponent)
    return frequencies


def scaled(frequencies: Frequencies, scaling: Config | None) -> Frequencies:
    """Apply ``rope_scaling``; an unknown kind is an error that lists the known ones."""
    if scaling is None:
        return frequencies
    kind = scaling.string("rope_type", scaling.values.get("type", "default"))
    if kind not in SCALINGS:
        raise CheckpointError(
            f"{scaling.where}: rope_type {kind!r} is not supported",
            f"supported: {', '.join(sorted(SCALINGS))}",
        )
    return SCALINGS[kind](frequencies, scaling)


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
