"""Attention over the host's KV cache, in forms that HTP computes exactly enough."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from slmkit.backend.interface import Spec
from slmkit.backend.static_runner import Window, rope_names
from slmkit.ops import NO_ROPE, Attention, Rope
from slmkit_onnx.hexagon.contract import MAX_MASK_VALUE, ROOM, Contract, token_axis
from slmkit_onnx.hexagon.lowering.encodings import (
    MINUS_ONE_TO_ONE,
    ZERO_TO_ONE,
    Encoding,
    Range,
    asymmetric,
    symmetric,
)
from slmkit_onnx.hexagon.lowering.static_graph import Shape, StaticGraphs, Value


@dataclass
class AttentionWriter:
    """Write attention and rope, with cache, tables and masks as inputs from the host."""

    graphs: StaticGraphs
    spec: Spec
    window: Window
    contract: Contract
    mask_value: float  # the mask's value for keys that a token must not see
    ropes: list[Rope] = field(default_factory=list)  # found so far: they number the inputs
    windows: list[int | None] = field(default_factory=list)  # sliding windows found so far

    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention, at: str) -> Value:
        """softmax(q.k^T * scale + mask).v. [1, H, T, d], [1, G, T, d] twice -> [1, T, H * d]

        The query heads of one kv head are concatenated along the tokens, so that no key is
        repeated.
        """
        spec, graphs, tokens = self.spec, self.graphs, self.window.tokens
        groups, group_size = spec.kv_heads, spec.heads // spec.kv_heads
        grouped = (1, groups, group_size * tokens, spec.head_width)
        grouped_scores = (*grouped[:3], self.window.total)
        by_head = (1, spec.heads, tokens, self.window.total)
        transposed_k = graphs.transpose(self._separate_transposes(k, layer), (0, 1, 3, 2))
        keys = self._append_to_cache(transposed_k, "key", layer)
        values = self._append_to_cache(v, "value", layer)
        scale = graphs.constant(f"{at}.scale", np.array([kind.scale], np.float32))
        scaled = graphs.op("Mul", [graphs.reshape(q, grouped), scale], f"{at}.scaled", grouped)
        scores = graphs.op("MatMul", [scaled, keys], f"{at}.scores", grouped_scores)
        scores = self._soft_cap(scores, kind.cap, at)
        masked = self._add_mask(graphs.reshape(scores, by_head), kind.window, f"{at}.masked")
        probabilities = graphs.op(
            "Softmax", [masked], f"{at}.softmax", by_head, encoding=ZERO_TO_ONE, axis=-1
        )
        probabilities = graphs.reshape(probabilities, grouped_scores)
        output = graphs.op("MatMul", [probabilities, values], f"{at}.mixed", grouped)
        output = graphs.reshape(output, (1, spec.heads, tokens, spec.head_width))
        output = graphs.transpose(output, (0, 2, 1, 3))
        return graphs.reshape(output, (1, tokens, spec.heads * spec.head_width))

    def apply_rope(self, x: Value, rope: Rope, at: str) -> Value:
        """Rotate-half rope. [1, H, T, d]

        Both halves use the range of the whole result, so that their concatenation is exact.
        """
        graphs, half = self.graphs, (*x.shape[:-1], rope.width // 2)
        cos, sin = self._rope_tables(rope)
        widths = [half[-1], half[-1], x.shape[-1] - rope.width]
        a, b, *rest = graphs.split(x, [width for width in widths if width], at)
        a_cos = graphs.op("Mul", [a, cos], f"{at}.ac", half)
        b_sin = graphs.op("Mul", [b, sin], f"{at}.bs", half)
        b_cos = graphs.op("Mul", [b, cos], f"{at}.bc", half)
        a_sin = graphs.op("Mul", [a, sin], f"{at}.as", half)
        low = graphs.op("Sub", [a_cos, b_sin], f"{at}.low", half, range_key=at)
        high = graphs.op("Add", [b_cos, a_sin], f"{at}.high", half, range_key=at)
        return graphs.op("Concat", [low, high, *rest], at, x.shape, axis=-1)

    def _separate_transposes(self, k: Value, layer: int) -> Value:
        """Put a reshape between the two transposes of keys, in layers without rope.

        Otherwise ONNX Runtime merges the transposes and moves them behind the quantization of the
        cache, and HTP refuses the result (QNN's error 3110).
        """
        if self.spec.rope_at(layer) != NO_ROPE:
            return k
        one, groups, tokens, width = k.shape
        flat = self.graphs.reshape(k, (one, groups * tokens, width))
        return self.graphs.reshape(flat, k.shape)

    def _soft_cap(self, scores: Value, cap: float | None, at: str) -> Value:
        """cap * tanh(scores / cap). Its name ends in ``.scores`` as that of uncapped scores."""
        if cap is None:
            return scores
        graphs, shape = self.graphs, scores.shape
        inverse = graphs.constant(f"{at}.less", np.array([1 / cap], np.float32))
        factor = graphs.constant(f"{at}.more", np.array([cap], np.float32))
        ratio = graphs.op("Mul", [scores, inverse], f"{at}.share", shape)
        tanh = graphs.op("Tanh", [ratio], f"{at}.tanh", shape, encoding=MINUS_ONE_TO_ONE)
        return graphs.op("Mul", [tanh, factor], f"{at}.capped.scores", shape)

    def _append_to_cache(self, new: Value, part: str, layer: int) -> Value:
        """Concatenate the past keys or values (an input) and the new ones (also an output).

        ``part``: "key", [1, G, d, T] -> [1, G, d, S], or "value", [1, G, T, d] -> [1, G, S, d].
        """
        ranges, contract, window = self.graphs.ranges, self.contract, self.window
        encoding = None if ranges is None else symmetric(ranges[new.range_key], contract.cache)
        reshaped = self.graphs.reshape(new, self._cache_shape(part, window.tokens))
        cache = self.graphs.quantized_output(reshaped, f"new_{part}_{layer}", encoding)
        if window.past:
            shape = self._cache_shape(part, window.past)
            past = self.graphs.input(f"past_{part}_{layer}", shape, encoding, integers=True)
            cache = self.graphs.op(
                "Concat",
                [past, cache],
                f"all_{part}_{layer}",
                self._cache_shape(part, window.total),
                like=cache,
                axis=token_axis(part),
            )
        full_shape = list(new.shape)
        full_shape[3 if part == "key" else 2] = window.total
        return self.graphs.reshape(cache, tuple(full_shape))

    def _cache_shape(self, part: str, tokens: int) -> Shape:
        return self.contract.cache_shape(part, self.spec.kv_heads, self.spec.head_width, tokens)

    def _add_mask(self, scores: Value, window: int | None, name: str) -> Value:
        """Scores plus mask; masked scores saturate just below every visible one."""
        if window not in self.windows:
            self.windows.append(window)
        shape = (1, 1, self.window.tokens, self.window.total)
        encoding = asymmetric((self.mask_value, 0.0))
        mask = self.graphs.input(self.contract.mask_name(window), shape, encoding)
        return self.graphs.op(
            "Add", [scores, mask], name, scores.shape, encoding=self._masked_encoding(scores)
        )

    def _masked_encoding(self, scores: Value) -> Encoding | None:
        """The range of the scores, extended by ROOM below the lowest."""
        if self.graphs.ranges is None:
            return ZERO_TO_ONE  # the float form ignores it; it marks that no range is recorded
        low, high = self.graphs.ranges[scores.range_key]
        return asymmetric((min(low, 0.0) - ROOM, high))

    def _rope_tables(self, rope: Rope) -> tuple[Value, Value]:
        """cos and sin at the tokens' positions, from the host. [1, 1, T, d/2] each"""
        if rope not in self.ropes:
            self.ropes.append(rope)
        shape = (1, 1, self.window.tokens, len(rope.frequencies))
        encoding = asymmetric((-rope.magnitude, rope.magnitude))
        cos_name, sin_name = rope_names(self.ropes.index(rope))
        cos = self.graphs.input(cos_name, shape, encoding)
        sin = self.graphs.input(sin_name, shape, encoding)
        return cos, sin


def mask_value_for(score_ranges: list[Range]) -> float:
    """The mask's value for keys that a token must not see.

    It exceeds the difference of any two scores by ROOM, and is at most HIDDEN.
    """
    widest = max((high - low for low, high in score_ranges), default=0.0)
    return float(min(MAX_MASK_VALUE, -np.ceil(widest + ROOM)))
