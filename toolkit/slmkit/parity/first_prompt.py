"""The first golden prompt in detail: errors by position and by layer, and each side's best tokens.

For people who look where an error begins; the verdict is of ``slmkit.parity.metrics`` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from pydantic.dataclasses import dataclass

from slmkit.backend.artifact import STRICT
from slmkit.interpreters import reference
from slmkit.models.names import layer_of
from slmkit.ops import Floats
from slmkit.parity.golden import Golden, Outputs
from slmkit.parity.metrics import FLOAT_WEIGHTS, Number, differences, powers
from slmkit.snr import decibels

TOKENS = 12  # of an answer that are told, at most
Stream = dict[int, Floats]  # the residual stream (T, width) of the first sequence, after each layer
OpenReference = Callable[
    [reference.Weights, Sequence[reference.Ids], Sequence[reference.Cache]], reference.Reference
]


@dataclass(frozen=True, config=STRICT)
class Reading:
    """One side's logits over the first golden prompt and what follows it: all sides read the same
    tokens."""

    side: str  # an artifact, an encoding, or FLOAT_WEIGHTS
    mode: str  # of an artifact; else empty
    against: str  # the side that it is compared with; empty of the float weights
    snr_db: tuple[Number, ...]  # at each position
    best: tuple[int, ...]  # the best tokens after the prompt, TOKENS at most


@dataclass(frozen=True, config=STRICT)
class LayerError:
    """The residual stream after a layer, computed on codes, against the one on float weights."""

    encoding: str
    layer: int
    snr_db: Number  # the median of positions


@dataclass(frozen=True, config=STRICT)
class FirstPrompt:
    """Everything that is told of the first golden prompt."""

    ids: tuple[int, ...]  # the prompt, and what the first artifact continued it with
    prompt_length: int
    readings: tuple[Reading, ...]  # the float weights first, then the codes
    layers: tuple[LayerError, ...]


def reading(side: str, mode: str, against: str, golden: Golden, got: Outputs) -> Reading:
    """How ``got``, one side's outputs, differ from a golden's over its first sequence."""
    length = len(golden.sequences[0])
    expected, got = golden.outputs.first(length), got.first(length)
    rows = [powers(theirs, less) for theirs, _, less in differences(expected, got)]
    ratios = _decibels(*np.concatenate(rows, axis=1))
    return Reading(side, mode, against, tuple(ratios), _best(golden, got))


def float_reading(golden: Golden, floats: Outputs) -> Reading:
    """The best tokens of the float weights, which nothing is expected of."""
    return Reading(FLOAT_WEIGHTS, "", "", (), _best(golden, floats))


def stream_kept_in(stream: Stream) -> OpenReference:
    """The reference, which adds to ``stream`` while it runs."""

    class Kept(reference.Reference):
        """Sees the marks that models set for ``slmkit trace``."""

        def tap(self, x: Floats, name: str) -> Floats:
            layer = layer_of(name)
            if layer is not None and name.endswith(f".layers.{layer}"):
                stream[layer] = x[self.spans[0]].copy()
            return x

    return Kept


def layer_errors(
    encoding: str, floats: Mapping[int, Floats], codes: Mapping[int, Floats], scale: float
) -> tuple[LayerError, ...]:
    """``codes``: the residual stream on an encoding's codes, held times ``scale``."""
    found = []
    for layer in sorted(floats.keys() & codes.keys()):
        expected = floats[layer].astype(np.float64)
        difference = codes[layer].astype(np.float64) / scale - expected
        ratios = _decibels(*powers(expected, difference))
        median = math.nan if any(map(math.isnan, ratios)) else float(np.median(ratios))
        found.append(LayerError(encoding, layer, round(median, 2)))
    return tuple(found)


def _decibels(signal: Sequence[float], noise: Sequence[float]) -> list[float]:
    pairs = zip(signal, noise, strict=True)
    return [round(decibels(float(ours), float(theirs)), 1) for ours, theirs in pairs]


def _best(golden: Golden, outputs: Outputs) -> tuple[int, ...]:
    span = golden.decoded()[0]
    return tuple(outputs.best[span][:TOKENS].tolist())
