"""The vocabulary as MIL operations in the Neural Engine's layout: BC1S, 1x1 convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813

from slmkit.ops import Attention, Ops, Rope
from slmkit_coreml.attention import AttentionWriter
from slmkit_coreml.contract import head_parts
from slmkit_coreml.weights import WeightWriter

TAP = "tap_"  # prefix of the outputs of a debug build; Core ML wants identifiers


@dataclass(frozen=True)
class Value:
    """MIL variables that hold the channels of a value one after the other (one, mostly).

    ``shape``: (D,) lies as [1, D, 1, T], (H, d) as [1, H, d, T].
    """

    parts: tuple[Any, ...]
    shape: tuple[int, ...]

    @property
    def whole(self) -> Any:
        """One variable."""
        return self.parts[0] if len(self.parts) == 1 else mb.concat(values=self.parts, axis=1)


class CoremlOps(Ops[Value]):
    """Writes one function; the builder's current function takes every operation."""

    def __init__(
        self, weights: WeightWriter, attention: AttentionWriter, debug: bool = False
    ) -> None:
        self.weights = weights
        self.attention = attention
        self.debug = debug
        self.taps: list[Any] = []
        self.tapped: dict[str, str] = {}  # output -> what was tapped
        self.table = ""  # the embedding's name

    def embed(self, name: str, rows: int, width: int) -> Value:
        self.table = name
        return Value((self.attention.inputs["embeds"],), (width,))

    def linear(self, x: Value, name: str, width: int, bias: bool = False) -> Value:
        whole = x.whole
        parts = []
        for first, end in head_parts(width):
            label = f"{_identifier(name)}_{first}"
            kernel = self.weights.kernel(name, slice(first, end), f"{label}_weight")
            part = mb.conv(x=whole, weight=kernel, pad_type="valid", name=label)
            if bias:
                term = self.weights.vector(f"{name}.bias")[first:end].astype(np.float16)
                part = mb.add(x=part, y=term.reshape(1, -1, 1, 1))
            parts.append(part)
        return Value(tuple(parts), (width,))

    def rms_norm(self, x: Value, name: str, eps: float) -> Value:
        """Layer norm of [x, -x], whose mean is 0: the sum of squares cannot overflow float16.

        eps is float32, as iOS 17's op allows: 1e-6 would be 1.3 % off in float16.
        """
        axis = len(x.shape)  # channels: 1 for [1, D, 1, T], 2 for [1, H, d, T]
        whole = x.whole
        both = mb.concat(values=[whole, mb.mul(x=whole, y=np.float16(-1))], axis=axis)
        normed = mb.layer_norm(x=both, axes=[axis], epsilon=np.float32(eps))
        half = mb.slice_by_size(x=normed, begin=[0, 0, 0, 0], size=list(whole.shape))
        gain = self.weights.vector(f"{name}.weight").astype(np.float16)
        shape = [1, 1, 1, 1]
        shape[axis] = len(gain)
        return Value((mb.mul(x=half, y=gain.reshape(shape)),), x.shape)

    def split_heads(self, x: Value, heads: int) -> Value:
        width = x.shape[0] // heads
        shape = [1, heads, width, self.attention.window.tokens]
        return Value((mb.reshape(x=x.whole, shape=shape),), (heads, width))

    def rope(self, x: Value, rope: Rope) -> Value:
        return Value((self.attention.rotated(x.whole, x.shape[0], rope),), x.shape)

    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention) -> Value:
        mixed = self.attention.attend(q.whole, k.whole, v.whole, layer, kind)
        return Value((mixed,), (q.shape[0] * q.shape[1],))

    def add(self, x: Value, y: Value) -> Value:
        return Value((mb.add(x=x.whole, y=y.whole),), x.shape)

    def mul(self, x: Value, y: Value) -> Value:
        return Value((mb.mul(x=x.whole, y=y.whole),), x.shape)

    def sigmoid(self, x: Value) -> Value:
        return Value((mb.sigmoid(x=x.whole),), x.shape)

    def tap(self, x: Value, name: str) -> Value:
        if self.debug:
            output = TAP + _identifier(name)
            self.taps.append(mb.identity(x=x.whole, name=output))
            self.tapped[output] = name
        return x


def _identifier(name: str) -> str:
    return name.replace(".", "_")
