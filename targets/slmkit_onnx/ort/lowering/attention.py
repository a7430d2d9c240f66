"""Attention in ONNX: the fused GroupQueryAttention, or basic ops for widths its kernel refuses.

Both read the KV cache as past_key_values.N.key/value [batch, G, past, d] and return it, these
tokens included, as present.N.key/value.
"""

from __future__ import annotations

import numpy as np

from slmkit.backend.interface import Spec
from slmkit.ops import Attention, Rope
from slmkit_onnx.graph import MICROSOFT, Graph
from slmkit_onnx.ort.contract import cache_names
from slmkit_onnx.ort.integer_cache import ATTRIBUTES, SCALES, Steps
from slmkit_onnx.ort.lowering.value import Value

# ONNX Runtime's CPU kernel: "head_size shall be a multiple of 16"; so shall the rotated width.
FUSED_WIDTH_MULTIPLE = 16
MASKED = float(np.finfo(np.float32).min) / 2  # stays finite when a score is added


def supports_fused_attention(spec: Spec) -> bool:
    """True if GroupQueryAttention's CPU kernel takes these head and rope widths."""
    widths = [spec.head_width, *(rope.width for rope in spec.ropes)]
    return all(width % FUSED_WIDTH_MULTIPLE == 0 for width in widths)


class AttentionWriter:
    """Write each layer's attention; rope tables and masks are shared between layers."""

    def __init__(
        self,
        graph: Graph,
        spec: Spec,
        context_length: int,
        cache_steps: Steps | None = None,
    ) -> None:
        self.graph = graph
        self.cache_steps = cache_steps  # where keys and values are kept as integers
        self.spec = spec
        self.context_length = context_length
        self.shared: dict[str, str] = {}  # name of a shared value -> tensor
        self.ropes: list[Rope] = []

    def rope_tables(self, rope: Rope) -> tuple[str, str]:
        """cos and sin for every position of the context, [S, rotated width / 2] each."""
        cos, sin = rope.table(range(self.context_length))
        at = self._rope_name(rope)
        return self.graph.float_tensor(f"{at}.cos", cos), self.graph.float_tensor(f"{at}.sin", sin)

    def fused_attention(
        self, q: Value, k: Value, v: Value, layer: int, rope: Rope | None, kind: Attention
    ) -> str:
        """GroupQueryAttention; it rotates q and k itself if there is a ``rope``. [b, T, H * d]"""
        past, present = cache_names(layer)
        output = f"layer.{layer}.attention"
        inputs = [*self._qkv_inputs(q, k, v), *past, *self._sequence_lengths()]
        inputs += self.rope_tables(rope) if rope else ()
        if self.cache_steps:
            inputs += [""] * (SCALES.start - len(inputs))  # those between are left out
            for name, step in zip(past, self.cache_steps[layer], strict=True):
                inputs.append(self.graph.constant(f"{name}.step", step, np.float32))
        self.graph.multi_output_node(
            "GroupQueryAttention",
            inputs,
            [output, *present],
            MICROSOFT,
            num_heads=self.spec.heads,
            kv_num_heads=self.spec.kv_heads,
            scale=kind.scale,
            do_rotary=int(rope is not None),
            rotary_interleaved=0,
            local_window_size=kind.window or -1,
            softcap=kind.cap or 0.0,
            **(ATTRIBUTES if self.cache_steps else {}),
        )
        return output

    def decomposed_attention(
        self, q: Value, k: Value, v: Value, layer: int, kind: Attention
    ) -> str:
        """softmax(q.k^T * scale + mask).v from basic ops; q and k are rotated. -> [b, T, H * d]"""
        graph, spec, at = self.graph, self.spec, f"layer.{layer}"
        (past_k, past_v), (present_k, present_v) = cache_names(layer)
        for new, past, present in ((k, past_k, present_k), (v, past_v, present_v)):
            heads_first = graph.node("Transpose", [new.name], f"{present}.new", perm=[0, 2, 1, 3])
            graph.node("Concat", [past, heads_first], present, axis=2)
        heads_first = graph.node("Transpose", [q.name], f"{at}.q", perm=[0, 2, 1, 3])
        group, d = spec.heads // spec.kv_heads, spec.head_width  # query heads of one kv head
        split = graph.constant(f"split.{group}", [0, spec.kv_heads, group, -1, d])
        q5 = graph.node("Reshape", [heads_first, split], f"{at}.q5")  # [b, G, H/G, T, d]
        axis = graph.constant("axis.2", [2])
        k5 = graph.node("Unsqueeze", [present_k, axis], f"{at}.k5")
        k5 = graph.node("Transpose", [k5], f"{at}.k5t", perm=[0, 1, 2, 4, 3])
        v5 = graph.node("Unsqueeze", [present_v, axis], f"{at}.v5")
        scale = graph.constant(f"scale.{kind.scale:.9g}", kind.scale, np.float32)
        scaled = graph.node("Mul", [q5, scale], f"{at}.qs")
        scores = graph.node("MatMul", [scaled, k5], f"{at}.qk")
        scores = self._soft_cap(scores, kind.cap, f"{at}.capped")
        masked = graph.node("Add", [scores, self._mask(kind.window)], f"{at}.masked")
        probabilities = graph.node("Softmax", [masked], f"{at}.weights", axis=-1)
        output = graph.node("MatMul", [probabilities, v5], f"{at}.mixed")
        output = graph.node("Transpose", [output], f"{at}.mixed.t", perm=[0, 3, 1, 2, 4])
        join = graph.constant("join.heads", [0, 0, spec.heads * d])
        return graph.node("Reshape", [output, join], f"{at}.attention")

    def apply_rope(self, x: Value, rope: Rope, output: str) -> str:
        """Rotate-half rope from basic ops on the first ``rope.width`` of d. [batch, T, heads, d]"""
        graph = self.graph
        cos, sin = self._rope_rows(rope)
        a, b = f"{output}.a", f"{output}.b"
        sizes, parts = [rope.width // 2, rope.width // 2], [a, b]
        if rope.width < x.shape[-1]:
            sizes.append(x.shape[-1] - rope.width)
            parts.append(f"{output}.still")
        widths = graph.constant(f"widths.{'.'.join(map(str, sizes))}", sizes)
        graph.multi_output_node("Split", [x.name, widths], parts, axis=-1)
        a_cos = graph.node("Mul", [a, cos], f"{output}.ac")
        b_sin = graph.node("Mul", [b, sin], f"{output}.bs")
        b_cos = graph.node("Mul", [b, cos], f"{output}.bc")
        a_sin = graph.node("Mul", [a, sin], f"{output}.as")
        low = graph.node("Sub", [a_cos, b_sin], f"{output}.low")
        high = graph.node("Add", [b_cos, a_sin], f"{output}.high")
        return graph.node("Concat", [low, high, *parts[2:]], output, axis=-1)

    def _qkv_inputs(self, q: Value, k: Value, v: Value) -> list[str]:
        """q, k and v as the kernel's inputs: the one tensor that they are slices of, or three."""
        slices = [each.slice_of for each in (q, k, v)]
        qkv = slices[0][0]
        if qkv and slices == [(qkv, 0), (qkv, 1), (qkv, 2)]:
            return [qkv, "", ""]
        return [self._flatten_heads(each) for each in (q, k, v)]

    def _flatten_heads(self, x: Value) -> str:
        """[batch, T, heads, d] -> [batch, T, heads * d]"""
        if x.flat:
            return x.flat
        shape = self.graph.constant(f"flat.{x.shape[0]}", [0, 0, x.shape[0] * x.shape[1]])
        return self.graph.node("Reshape", [x.name, shape], f"{x.name}.flat")

    def _sequence_lengths(self) -> list[str]:
        """seqlens_k = sum(mask) - 1 per sequence, and the total length, both int32."""
        if "lengths" not in self.shared:
            graph, one = self.graph, self.graph.constant("one", [1])
            total = graph.node("ReduceSum", ["attention_mask", one], "mask.sum", keepdims=1)
            last = graph.node("Sub", [total, one], "mask.last")
            graph.node("Cast", [last], "seqlens_k", to=6)
            graph.node(
                "Cast", [self._dimension("attention_mask", 1)], "total_sequence_length", to=6
            )
            self.shared["lengths"] = "seqlens_k"
        return ["seqlens_k", "total_sequence_length"]

    def _positions(self) -> tuple[str, str]:
        """Positions of these T tokens and of all S tokens, int64 [T] and [S]."""
        if "positions" not in self.shared:
            graph = self.graph
            total, new = self._dimension("attention_mask", 1), self._dimension("input_ids", 1)
            zero, one = graph.constant("scalar.0", 0), graph.constant("scalar.1", 1)
            graph.node("Range", [zero, total, one], "positions.all")
            first = graph.node("Sub", [total, new], "positions.first")
            graph.node("Range", [first, total, one], "positions.now")
            self.shared["positions"] = "positions.now"
        return "positions.now", "positions.all"

    def _rope_rows(self, rope: Rope) -> tuple[str, str]:
        """cos and sin of these tokens, [T, 1, width / 2]."""
        at = self._rope_name(rope)
        if at not in self.shared:
            graph, (now, _) = self.graph, self._positions()
            axis = graph.constant("one", [1])
            for part, table in zip(("cos", "sin"), self.rope_tables(rope), strict=True):
                rows = graph.node("Gather", [table, now], f"{at}.{part}.rows", axis=0)
                graph.node("Unsqueeze", [rows, axis], f"{at}.{part}.now")
            self.shared[at] = f"{at}.cos.now"
        return f"{at}.cos.now", f"{at}.sin.now"

    def _rope_name(self, rope: Rope) -> str:
        """Name prefix of a rope's tensors: rope, rope1, rope2, ..."""
        if rope not in self.ropes:
            self.ropes.append(rope)
        return f"rope{self.ropes.index(rope) or ''}"

    def _soft_cap(self, scores: str, cap: float | None, name: str) -> str:
        """cap * tanh(scores / cap)"""
        if cap is None:
            return scores
        graph, limit = self.graph, self.graph.constant(f"cap.{cap:.9g}", cap, np.float32)
        share = graph.node("Div", [scores, limit], f"{name}.share")
        return graph.node("Mul", [graph.node("Tanh", [share], f"{name}.tanh"), limit], name)

    def _mask(self, window: int | None) -> str:
        """0 where a token may look, MASKED elsewhere, [T, S]; ``window``: how many tokens back."""
        name = f"mask.{window or 'all'}"
        if name not in self.shared:
            graph, (now, every) = self.graph, self._positions()
            rows = graph.node("Unsqueeze", [now, graph.constant("one", [1])], f"{name}.rows")
            distance = graph.node("Sub", [rows, every], f"{name}.distance")
            zero = graph.constant("scalar.0", 0)
            invisible = graph.node("Less", [distance, zero], f"{name}.future")
            if window is not None:
                limit = graph.constant(f"window.{window}", window)
                far = graph.node("GreaterOrEqual", [distance, limit], f"{name}.far")
                invisible = graph.node("Or", [invisible, far], f"{name}.hidden")
            zero_score = graph.constant("float.0", 0.0, np.float32)
            masked_score = graph.constant("float.hidden", MASKED, np.float32)
            self.shared[name] = graph.node("Where", [invisible, masked_score, zero_score], name)
        return self.shared[name]

    def _dimension(self, tensor: str, axis: int) -> str:
        """One dimension of an input as an int64 scalar."""
        name = f"{tensor}.size.{axis}"
        if name not in self.shared:
            shape = self.graph.node("Shape", [tensor], f"{name}.shape")
            index = self.graph.constant(f"scalar.{axis}", axis)
            self.shared[name] = self.graph.node("Gather", [shape, index], name, axis=0)
        return name
