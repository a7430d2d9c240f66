"""Pairs of weights between which a factor per channel can move without changing the model.

A norm's gain, or the rows of a linear, are divided by it, and the columns of the linears that
alone read those channels are multiplied by it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmkit.interpreters.dataflow import Node, dataflow
from slmkit.interpreters.recorder import Model


@dataclass(frozen=True, eq=False)
class ScalePair:
    """Channels that a weight makes, and the linears that alone read them."""

    producer: str  # name of a norm's weight, or of a linear
    is_norm: bool
    first: int  # row of the linear that makes the first channel
    channels: int
    consumers: tuple[str, ...]  # names of linears
    # (inputs of the consumers,): the channel behind each input. Attention reads a kv head's
    # channels once for each query head of its group.
    inputs: NDArray[np.int64]

    @property
    def names(self) -> frozenset[str]:
        """All weights of the pair."""
        return frozenset((self.producer, *self.consumers))


def scale_pairs(model: Model) -> list[ScalePair]:
    """All pairs of a model: norm to linears, up to down projection, v to o projection."""
    found = []
    for node in dataflow(model.spec).nodes:
        pair = _of_norm(node, model) if node.op == "rms_norm" else _of_linear(node, model)
        if pair:
            found.append(pair)
    return found


def _of_norm(norm: Node, model: Model) -> ScalePair | None:
    """A norm that linears alone read; not a tied head: its table makes embeddings too."""
    readers = norm.readers
    names = tuple(each.name for each in readers)
    alone = readers and all(each.op == "linear" for each in readers)
    if not alone or model.looked_up.intersection(names):
        return None
    return ScalePair(norm.name, True, 0, norm.width, names, np.arange(norm.width))


def _of_linear(linear: Node, model: Model) -> ScalePair | None:
    """A linear whose input is a product or attention, with one factor straight from a linear."""
    if linear.op != "linear" or linear.name in model.looked_up:
        return None
    mixed = linear.inputs[0]
    if mixed.only_reader is not linear or mixed.op not in ("mul", "attend"):
        return None
    # Of attention's inputs only v, the last one, passes through linearly.
    for value in mixed.inputs[-1:] if mixed.op == "attend" else reversed(mixed.inputs):
        made = _rows(value)
        if made:
            producer, first = made
            inputs = _inputs(mixed, value, model)
            return ScalePair(producer.name, False, first, value.width, (linear.name,), inputs)
    return None


def _rows(value: Node) -> tuple[Node, int] | None:
    """The linear whose rows a value is, and the first row.

    None if anything else lies between, or if something else reads the same rows.
    """
    first, is_part = 0, False
    while value.op in ("split", "split_heads"):
        if not value.only_reader:
            return None
        first, is_part = first + value.first, is_part or value.op == "split"
        value = value.inputs[0]
    alone = is_part or value.only_reader  # the parts of a fused linear are read one by one
    return (value, first) if value.op == "linear" and alone else None


def _inputs(mixed: Node, value: Node, model: Model) -> NDArray[np.int64]:
    if mixed.op == "mul":
        return np.arange(value.width)
    spec = model.spec
    heads = np.arange(spec.heads) // (spec.heads // spec.kv_heads)
    channels = heads[:, None] * spec.head_width + np.arange(spec.head_width)
    flat: NDArray[np.int64] = channels.reshape(-1)
    return flat
