"""Whether a model knows more of a text than chance: told from its logits, whatever their size."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from slmkit.evaluation.sources import Pieces
from slmkit.evaluation.text import UNSCORED, EvaluationText
from slmkit.parity.golden import Doubles
from slmkit.parity.metrics import ROWS

# Random weights give the token that follows the probability of any other: perplexity is the
# vocabulary's size, or more where logits are large. As a power of it, measured: 0.98 to 1.25 of the
# tests' tiny models and their twins; 0.35 of SmolLM2-135M, 0.29 of Gemma 3 270M, 0.64 of the sample
# model. But 1.10 of stories260K, on text in languages that it never saw: hence the margin too.
POWER = 0.95
# The token that follows has a larger logit than those that follow elsewhere in the text, by so many
# standard deviations of a position's logits. Measured: -0.15 to 0.10 of the same random models;
# 3.2 of SmolLM2-135M, 5.8 of the sample model, 0.68 of stories260K on that text.
MARGIN = 0.2


@dataclass
class Margin:
    """The margin of the token that follows, measured while logits pass by."""

    text: EvaluationText
    parts: list[Doubles] = field(default_factory=list)  # of each scored position

    def watch(self, pieces: Pieces) -> Pieces:
        """Hand on logits of the text, and keep the margins."""
        known = self.text.following[self.text.following != UNSCORED]
        tokens, counts = np.unique(known, return_counts=True)
        shares, at = counts / max(1, len(known)), 0
        for logits in pieces:
            following = self.text.following[at : at + len(logits)]
            at += len(following)
            for first in range(0, len(logits), ROWS):
                after = following[first : first + ROWS]
                rows = logits[first : first + ROWS][after != UNSCORED].astype(np.float64)
                after = after[after != UNSCORED]
                usual = rows[:, tokens] @ shares
                with np.errstate(invalid="ignore", divide="ignore"):
                    own = rows[np.arange(len(after)), after]
                    self.parts.append((own - usual) / rows.std(axis=1))
            yield logits

    @property
    def mean(self) -> float:
        """Over all positions; NaN where logits are NaN or infinite, or all equal."""
        return float(np.concatenate(self.parts).mean())


def is_trained(perplexity: float, vocabulary: int, margin: float) -> bool:
    """Whether a model predicts a text better than chance. NaN is no chance."""
    by_chance = math.log(perplexity) >= POWER * math.log(vocabulary)
    return not (by_chance and margin < MARGIN)
