"""A golden text as long as the context: it crosses every boundary that short prompts never reach.

A sliding window that is off by one, a rope table that ends, a last slot that is overwritten, a lost
last row of the embedding: all of them leave the golden prompts' 40 to 64 tokens as they are. The
text is read in the artifact's own chunks and ends token by token; the logits of a few positions
beside each boundary are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slmkit.interpreters.dataflow import dataflow
from slmkit.interpreters.reference import Cache, Reference, Weights
from slmkit.models import registry
from slmkit.models.spec import Spec
from slmkit.ops import Floats

Ids = NDArray[np.int64]
SINGLE = 4  # tokens that are fed one by one, to the last slot of the context
EDGES = 24  # position of the vocabulary's last id, and after it of its first
EVERY = 128  # positions between two that are compared, besides those beside boundaries
# Tokens times parameters: minutes of the slowest runtime here. A model of 135 million parameters
# reads 1,500 tokens, one of 1 billion 200.
WORK = 2e11
LEAST = 64  # tokens, whatever the model's size


@dataclass(frozen=True)
class Crossing:
    """A text, and what is compared of it."""

    ids: Ids  # (T,)
    kept: tuple[int, ...]  # positions whose logits are compared, ascending
    chunk: int  # most tokens that are fed at once

    @property
    def pieces(self) -> list[Ids]:
        """The text as it is fed: chunks, then single tokens."""
        end = max(0, len(self.ids) - SINGLE)
        starts = range(0, end, self.chunk)
        chunks = [self.ids[at : min(at + self.chunk, end)] for at in starts]
        return [*chunks, *(self.ids[at : at + 1] for at in range(end, len(self.ids)))]

    def to_json(self) -> dict[str, Any]:
        """As JSON values; ``crossing_from_json`` is the inverse."""
        return {"ids": self.ids.tolist(), "kept": list(self.kept), "chunk": self.chunk}


def crossing_from_json(values: Mapping[str, Any]) -> Crossing:
    """The inverse of ``Crossing.to_json``."""
    return Crossing(np.asarray(values["ids"]), tuple(values["kept"]), values["chunk"])


def crossing_of(
    texts: Sequence[Ids], spec: Spec, context_length: int, chunk: int, parameters: int
) -> tuple[Crossing, str]:
    """The text for a model, out of ``texts`` one after the other, and what it does not reach.

    It is as long as the context, or as a model of its size can afford. The sentence is empty where
    everything is reached.
    """
    affordable = max(LEAST, int(WORK / max(1, parameters)))
    length = min(context_length, affordable)
    ids = np.resize(np.concatenate([np.asarray(each) for each in texts]), length).astype(np.int64)
    if length > EDGES + 1:
        ids[EDGES : EDGES + 2] = spec.vocabulary - 1, 0
    boundaries = boundaries_of(spec, context_length, chunk)
    near = {at + by for at in boundaries.values() for by in (-1, 0, 1)}
    kept = near | {EDGES, EDGES + 1} | set(range(EVERY // 2, length, EVERY))
    missed = [f"{name} at {at}" for name, at in boundaries.items() if at > length]
    said = f"positions from {length} on were not run: {', '.join(missed)}" if missed else ""
    return Crossing(ids, tuple(sorted(at for at in kept if 0 <= at < length)), chunk), said


def boundaries_of(spec: Spec, context_length: int, chunk: int) -> dict[str, int]:
    """The positions at which something begins, by its name."""
    windows = {window for window in spec.windows if window and window < context_length}
    found = {f"the end of the sliding window of {window}": window for window in sorted(windows)}
    if spec.long_rope and spec.long_rope.beyond < context_length:
        found["the original context of the rope"] = spec.long_rope.beyond
    if chunk < context_length:
        found["the end of the first chunk"] = chunk
        found["the end of the last chunk"] = (context_length - SINGLE) // chunk * chunk
    return {**found, "the end of the context": context_length}


class _Kept(Reference):
    """The reference, whose head computes the logits of some tokens alone."""

    head: str
    kept: tuple[int, ...]

    def linear(self, x: Floats, name: str, width: int, bias: bool = False) -> Floats:
        return super().linear(x[list(self.kept)] if name == self.head else x, name, width, bias)


def reference_crossing(weights: Weights, spec: Spec, crossing: Crossing) -> Floats:
    """The reference's logits at the positions that are compared, (P, V)."""
    reference = _Kept(weights, [crossing.ids], [Cache()])
    reference.kept = crossing.kept
    reference.head = [node for node in dataflow(spec).nodes if node.op == "linear"][-1].name
    return registry.run(reference, spec)


class Reader(Protocol):
    """The part of a runner that reading needs."""

    def reset(self) -> None:
        """Forget all tokens."""
        ...

    def feed(self, ids: Ids) -> Floats:
        """Logits of the next tokens, (T, V)."""
        ...


def follow_crossing(runner: Reader, crossing: Crossing, report: Callable[[int], None]) -> Floats:
    """A runner's logits at the positions that are compared, (P, V)."""
    runner.reset()
    kept, rows, start = np.asarray(crossing.kept), [], 0
    for piece in crossing.pieces:
        logits = runner.feed(piece)
        own = kept[(kept >= start) & (kept < start + len(piece))] - start
        rows.append(np.array(logits[own]))
        start += len(piece)
        report(len(piece))
    return np.concatenate(rows)
