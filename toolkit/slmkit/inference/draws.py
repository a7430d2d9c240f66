"""Random numbers that are the same in Python, Kotlin and Swift: a seed picks the same tokens."""

from __future__ import annotations

from collections.abc import Iterator

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
