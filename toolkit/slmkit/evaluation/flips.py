"""Flips: items that one model has right and another wrong, and whether chance explains them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from slmkit.backend.artifact import STRICT


@dataclass(frozen=True, config=STRICT)
class Flips:
    """Items that changed between two models which answered the same ones.

    Source of the measure: Dutta et al. 2024, "Accuracy is Not All You Need".
    """

    items: int
    right: int  # items that the first model has right
    lost: int  # right in the first, wrong in the second
    won: int  # wrong in the first, right in the second
    p_value: float  # McNemar's exact test: of no difference between the two

    @property
    def share(self) -> float:
        """Changed items, as a share of all."""
        return (self.lost + self.won) / self.items if self.items else 0.0


def flips(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Flips:
    """Compare two models' right (true) and wrong answers to the same items, (N,) each."""
    lost, won = int((first & ~second).sum()), int((second & ~first).sum())
    return Flips(len(first), int(first.sum()), lost, won, mcnemar(lost, won))


def mcnemar(lost: int, won: int) -> float:
    """The two-sided p-value of McNemar's exact test: twice the probability that at most
    ``min(lost, won)`` of ``lost + won`` fair coins fall on one side; at most 1.

    Source: McNemar 1947, Psychometrika 12(2); the exact form as in Fagerland et al. 2013, BMC
    Medical Research Methodology 13:91. Items are taken as independent: tokens of one text are not
    quite, so its p-value is somewhat too small.
    """
    total = lost + won
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
        for k in range(min(lost, won) + 1)
    ]
    tail = sum(math.exp(log - total * math.log(2)) for log in logs)
    return min(1.0, 2 * tail)
