"""YaRN: rope frequencies between interpolated and unchanged ones, and a magnitude.

Source: Peng et al. 2023, "YaRN: Efficient Context Window Extension of Large Language Models", as
transformers 4 and 5 compute it (``_compute_yarn_parameters``), in their order of rounding.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.models.rope_facts import ORIGINAL, THETA
from slmkit.ops import Rope

Frequencies = NDArray[np.float32]
FAST, SLOW = 32.0, 1.0  # turns within the original context: faster pairs stay, slower are stretched


def yarn(config: Config, facts: Config, wavelengths: Frequencies) -> Rope:
    """The rope of ``facts``. ``wavelengths``: theta^(2i / d), (d/2,), in positions per radian."""
    factor = facts.number("factor")
    low, high = _range(facts, 2 * len(wavelengths), _original(config, facts))
    high = high + 0.001 if low == high else high
    ramp = (np.arange(len(wavelengths), dtype=np.float32) - np.float32(low)) / np.float32(
        high - low
    )
    kept = 1 - np.clip(ramp, 0, 1)
    unchanged = np.float32(1) / wavelengths
    stretched = np.float32(1) / (np.float32(factor) * wavelengths)
    frequencies = stretched * (1 - kept) + unchanged * kept
    return Rope(tuple(frequencies.astype(np.float32).tolist()), _magnitude(facts, factor))


def _original(config: Config, facts: Config) -> int:
    """The context before it was extended: inside the section, else the trained one."""
    trained = config.integer("max_position_embeddings")
    found = facts.integer(ORIGINAL, trained)
    if config.integer(ORIGINAL, found) != found:
        raise CheckpointError(
            f"{facts.where}: {ORIGINAL} is {found}, and {config.where}: it is "
            f"{config.values[ORIGINAL]!r}",
            "keep the one that the model was trained with, and remove the other",
        )
    return found


def _range(facts: Config, width: int, original: int) -> tuple[float, float]:
    """The pairs of channels between which frequencies go from unchanged to stretched."""
    theta = facts.number(THETA)

    def pair(turns: float) -> float:
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = (
        pair(facts.number(key, turns)) for key, turns in (("beta_fast", FAST), ("beta_slow", SLOW))
    )
    if facts.boolean("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, width - 1)


def _magnitude(facts: Config, factor: float) -> float:
    """The factor on cos and sin."""
    if facts.has("attention_factor"):
        return facts.number("attention_factor")

    def scale(share: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * share * math.log(factor) + 1

    if facts.values.get("mscale") and facts.values.get("mscale_all_dim"):
        return scale(facts.number("mscale")) / scale(facts.number("mscale_all_dim"))
    return scale(1)
