"""The sampler of the sample apps, whose random numbers are the same in every language."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from slmkit.ops import Floats

WORD = (1 << 64) - 1
SEED_MASK = 0x9E3779B97F4A7C15  # so that small seeds begin with many bits
MULTIPLIER = 0x2545F4914F6CDD1D
DRAW = 1 << 24  # a draw has the top 24 bits: exact in every floating-point type


def draws(seed: int) -> Iterator[int]:
    """Whole numbers below DRAW, by xorshift64*.

    Source: Vigna 2016, "An experimental exploration of Marsaglia's xorshift generators, scrambled".
    """
    state = (seed ^ SEED_MASK) & WORD or 1
    while True:
        state ^= state >> 12
        state ^= (state << 25) & WORD
        state ^= state >> 27
        yield ((state * MULTIPLIER) & WORD) >> 40


@dataclass
class AppSampler:
    """Greedy at temperature 0, else repetition penalty, temperature, top-k, top-p, in this order.

    Of equal logits the lower id counts as the better one. After the penalty, which is of float32,
    all is computed in float64.
    """

    temperature: float = 0.0
    top_k: int = 0  # tokens to sample from; 0: all
    top_p: float = 1.0  # share of their probability
    repetition_penalty: float = 1.0
    seed: int = 0
    random: Iterator[int] = field(init=False)

    def __post_init__(self) -> None:
        self.random = draws(self.seed)

    def pick(self, logits: Floats, before: Sequence[int] = ()) -> int:
        """A token id from logits (V,). ``before``: the sequence so far, for the penalty."""
        logits, penalty = logits.copy(), np.float32(self.repetition_penalty)
        for seen in set(before):
            value = logits[seen]
            logits[seen] = value * penalty if value < 0 else value / penalty
        if self.temperature == 0:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")[: self.top_k or None]
        scaled = logits[order].astype(np.float64) / self.temperature
        weights = np.exp(scaled - scaled[0])
        enough = self.top_p * float(weights.sum())
        kept, mass = 0, 0.0
        while kept < len(weights):
            mass += float(weights[kept])
            kept += 1
            if mass >= enough:
                break
        left = next(self.random) / DRAW * mass
        for at in range(kept):
            left -= float(weights[at])
            if left < 0:
                return int(order[at])
        return int(order[kept - 1])
