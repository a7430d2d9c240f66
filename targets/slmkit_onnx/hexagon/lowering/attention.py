"""Attention over the host's cache, in the forms that HTP computes exactly enough."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from slmkit.backend.interface import Spec
from slmkit.backend.static_runner import Window, rope_names
from slmkit.ops import Attention, Rope
from slmkit_onnx.hexagon.contract import HIDDEN, ROOM, Contract, token_axis
from slmkit_onnx.hexagon.lowering.encodings import UNIT, Encoding, asymmetric, symmetric
from slmkit_onnx.hexagon.lowering.static_graph import StaticGraphs, Value

BOTH_WAYS = asymmetric((-1.0, 1.0))  # what tanh gives


@dataclass
class AttentionWriter:
    """Writes attention, rope and what both take from the host."""

    graphs: StaticGraphs
    spec: Spec
    window: Window
    contract: Contract
    hidden: float  # what the mask takes off a hidden score
    ropes: list[Rope] = field(default_factory=list)
    windows: list[int | None] = field(default_factory=list)

    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention, at: str) -> Value:
        """Query heads of one kv head lie one below the other, so that no key is repeated."""
        spec, graphs, tokens = self.spec, self.graphs, self.window.tokens
        groups, share = spec.kv_heads, spec.heads // spec.kv_heads
        flat = (1, groups, share * tokens, spec.head_width)
        heads = (1, spec.heads, tokens, self.window.total)
        keys = self._cached(graphs.turned(self._apart(k), (0, 1, 3, 2)), "key", layer)
        values = self._cached(v, "value", layer)
        scale = graphs.constant(f"{at}.scale", np.array([kind.scale], np.float32))
        scaled = graphs.op("Mul", [graphs.reshaped(q, flat), scale], f"{at}.scaled", flat)
        scores = graphs.op("MatMul", [scaled, keys], f"{at}.scores", (*flat[:3], heads[3]))
        scores = self._capped(scores, kind.cap, at)
        masked = self._masked(graphs.reshaped(scores, heads), kind.window, f"{at}.masked")
        probabilities = graphs.op("Softmax", [masked], f"{at}.softmax", heads, fixed=UNIT, axis=-1)
        grouped = graphs.reshaped(probabilities, (*flat[:3], heads[3]))
        mixed = graphs.op("MatMul", [grouped, values], f"{at}.mixed", flat)
        apart = graphs.reshaped(mixed, (1, spec.heads, tokens, spec.head_width))
        joined = (1, tokens, spec.heads * spec.head_width)
        return graphs.reshaped(graphs.turned(apart, (0, 2, 1, 3)), joined)

    def rotated(self, x: Value, rope: Rope, at: str) -> Value:
        """Rotate-half rope. Both halves get the range of the whole: joining rounds nothing."""
        graphs, half = self.graphs, (*x.shape[:-1], rope.width // 2)
        cos, sin = self._tables(rope)
        widths = [half[-1], half[-1], x.shape[-1] - rope.width]
        a, b, *still = graphs.apart(x, [width for width in widths if width], at)
        terms = (("ac", a, cos), ("bs", b, sin), ("bc", b, cos), ("as", a, sin))
        ac, bs, bc, as_ = (
            graphs.op("Mul", [part, table], f"{at}.{name}", half) for name, part, table in terms
        )
        low = graphs.op("Sub", [ac, bs], f"{at}.low", half, key=at)
        high = graphs.op("Add", [bc, as_], f"{at}.high", half, key=at)
        return graphs.op("Concat", [low, high, *still], at, x.shape, axis=-1)

    def _apart(self, k: Value) -> Value:
        """Keys as they are. Where no rope lies between, ONNX Runtime joins the two turns of keys,
        moves them behind the rounding to the cache, and HTP refuses what comes out (QNN's error
        3110): a shape between them keeps them apart."""
        if self.spec.ropes:
            return k
        one, groups, tokens, width = k.shape
        flat = self.graphs.reshaped(k, (one, groups * tokens, width))
        return self.graphs.reshaped(flat, k.shape)

    def _capped(self, scores: Value, cap: float | None, at: str) -> Value:
        """cap * tanh(scores / cap); the calibrated range of the scores ends as ``.scores`` do."""
        if cap is None:
            return scores
        graphs, shape = self.graphs, scores.shape
        less, more = (
            graphs.constant(f"{at}.{name}", np.array([by], np.float32))
            for name, by in (("less", 1 / cap), ("more", cap))
        )
        share = graphs.op("Mul", [scores, less], f"{at}.share", shape)
        bent = graphs.op("Tanh", [share], f"{at}.tanh", shape, fixed=BOTH_WAYS)
        return graphs.op("Mul", [bent, more], f"{at}.capped.scores", shape)

    def _cached(self, new: Value, part: str, layer: int) -> Value:
        """The new keys or values, given to the host, behind the past that it gives."""
        graphs, spec, past = self.graphs, self.spec, self.window.past
        ranges = graphs.ranges
        encoding = None if ranges is None else symmetric(ranges[new.key], self.contract.cache)
        whole = (
            (*new.shape[:-1], self.window.total)
            if part == "key"
            else (*new.shape[:2], self.window.total, new.shape[3])
        )
        size = (spec.kv_heads, spec.head_width)
        shaped = self.graphs.reshaped(
            new, self.contract.cache_shape(part, *size, self.window.tokens)
        )
        stored = graphs.stored(shaped, f"new_{part}_{layer}", encoding)
        if past:
            name, shape = f"past_{part}_{layer}", self.contract.cache_shape(part, *size, past)
            old = graphs.input(name, shape, encoding, integers=True)
            stored = graphs.op(
                "Concat",
                [old, stored],
                f"all_{part}_{layer}",
                self.contract.cache_shape(part, *size, self.window.total),
                like=stored,
                axis=token_axis(part),
            )
        return self.graphs.reshaped(stored, whole)

    def _masked(self, scores: Value, window: int | None, name: str) -> Value:
        """Scores plus mask. Hidden scores saturate just below every visible one."""
        if window not in self.windows:
            self.windows.append(window)
        shape = (1, 1, self.window.tokens, self.window.total)
        name_in, reach = self.contract.mask_name(window), asymmetric((self.hidden, 0.0))
        mask = self.graphs.input(name_in, shape, reach)
        return self.graphs.op(
            "Add", [scores, mask], name, scores.shape, fixed=self._masked_encoding(scores)
        )

    def _masked_encoding(self, scores: Value) -> Encoding | None:
        if self.graphs.ranges is None:
            return UNIT  # the float form encodes nothing: it only must not ask for a range
        low, high = self.graphs.ranges[scores.key]
        return asymmetric((min(low, 0.0) - ROOM, high))

    def _tables(self, rope: Rope) -> tuple[Value, Value]:
        """cos and sin of these tokens, from the host."""
        if rope not in self.ropes:
            self.ropes.append(rope)
        shape = (1, 1, self.window.tokens, len(rope.frequencies))
        reach = asymmetric((-rope.magnitude, rope.magnitude))
        cos, sin = (
            self.graphs.input(name, shape, reach) for name in rope_names(self.ropes.index(rope))
        )
        return cos, sin


def hidden_score(spans: list[tuple[float, float]]) -> float:
    """What the mask must take off: more than any two scores differ, with room to spare."""
    widest = max((high - low for low, high in spans), default=0.0)
    return float(min(HIDDEN, -np.ceil(widest + ROOM)))
