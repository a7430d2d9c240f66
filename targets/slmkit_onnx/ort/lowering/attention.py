"""Attention in ONNX: the fused GroupQueryAttention, or plain ops where its kernel refuses.

Both keep the cache as past_key_values.N.key/value [batch, G, p, d] in, present.N.* out.
"""

from __future__ import annotations

import numpy as np

from slmkit.backend.interface import Spec
from slmkit.ops import Attention, Rope
from slmkit_onnx.graph import MICROSOFT, Graph
from slmkit_onnx.ort.contract import cache_names
from slmkit_onnx.ort.lowering.value import Value

# ONNX Runtime's CPU kernel: "head_size shall be a multiple of 16", and so shall what rotates of it.
FUSED_MULTIPLE = 16
HIDDEN = float(np.finfo(np.float32).min) / 2  # a mask that stays finite when scores are added


def fused(spec: Spec) -> bool:
    """Whether GroupQueryAttention's CPU kernel takes these heads."""
    widths = [spec.head_width, *(rope.width for rope in spec.ropes)]
    return all(width % FUSED_MULTIPLE == 0 for width in widths)


class AttentionWriter:
    """Writes each layer's attention; tables and masks are shared between layers."""

    def __init__(self, graph: Graph, spec: Spec, context_length: int) -> None:
        self.graph = graph
        self.spec = spec
        self.context_length = context_length
        self.shared: dict[str, str] = {}
        self.ropes: list[Rope] = []

    def rope_tables(self, rope: Rope) -> tuple[str, str]:
        """cos and sin for every position of the context, [S, width / 2]."""
        cos, sin = rope.table(range(self.context_length))
        at = self._rope_name(rope)
        return self.graph.floats(f"{at}.cos", cos), self.graph.floats(f"{at}.sin", sin)

    def grouped(
        self, q: Value, k: Value, v: Value, layer: int, rope: Rope | None, kind: Attention
    ) -> str:
        """GroupQueryAttention with its own rotary embedding; q, k, v [batch, T, heads * d]."""
        past, present = cache_names(layer)
        output = f"layer.{layer}.attention"
        self.graph.nodes_out(
            "GroupQueryAttention",
            [
                *self._packed(q, k, v),
                *past,
                *self._lengths(),
                *(self.rope_tables(rope) if rope else ()),
            ],
            [output, *present],
            MICROSOFT,
            num_heads=self.spec.heads,
            kv_num_heads=self.spec.kv_heads,
            scale=kind.scale,
            do_rotary=int(rope is not None),
            rotary_interleaved=0,
            local_window_size=kind.window or -1,
            softcap=kind.cap or 0.0,
        )
        return output

    def plain(self, q: Value, k: Value, v: Value, layer: int, kind: Attention) -> str:
        """softmax(q.k^T * scale + mask).v from basic ops; q and k are already rotated."""
        graph, spec, at = self.graph, self.spec, f"layer.{layer}"
        (past_k, past_v), (present_k, present_v) = cache_names(layer)
        for new, past, present in ((k, past_k, present_k), (v, past_v, present_v)):
            turned = graph.node("Transpose", [new.name], f"{present}.new", perm=[0, 2, 1, 3])
            graph.node("Concat", [past, turned], present, axis=2)
        turned = graph.node("Transpose", [q.name], f"{at}.q", perm=[0, 2, 1, 3])
        share, d = spec.heads // spec.kv_heads, spec.head_width
        split = graph.constant(f"split.{share}", [0, spec.kv_heads, share, -1, d])
        q5 = graph.node("Reshape", [turned, split], f"{at}.q5")  # [b, G, H/G, T, d]
        axis = graph.constant("axis.2", [2])
        k5 = graph.node("Unsqueeze", [present_k, axis], f"{at}.k5")
        k5 = graph.node("Transpose", [k5], f"{at}.k5t", perm=[0, 1, 2, 4, 3])
        v5 = graph.node("Unsqueeze", [present_v, axis], f"{at}.v5")
        scale = graph.constant(f"scale.{kind.scale:.9g}", kind.scale, np.float32)
        scores = graph.node("MatMul", [graph.node("Mul", [q5, scale], f"{at}.qs"), k5], f"{at}.qk")
        scores = self._capped(scores, kind.cap, f"{at}.capped")
        masked = graph.node("Add", [scores, self._mask(kind.window)], f"{at}.masked")
        weights = graph.node("Softmax", [masked], f"{at}.weights", axis=-1)
        mixed = graph.node("MatMul", [weights, v5], f"{at}.mixed")
        mixed = graph.node("Transpose", [mixed], f"{at}.mixed.t", perm=[0, 3, 1, 2, 4])
        join = graph.constant("join.heads", [0, 0, spec.heads * d])
        return graph.node("Reshape", [mixed, join], f"{at}.attention")

    def rotate(self, x: Value, rope: Rope, output: str) -> str:
        """Rotate-half rope from basic ops. [batch, T, heads, d]"""
        graph = self.graph
        cos, sin = self._at_positions(rope)
        a, b = f"{output}.a", f"{output}.b"
        still = x.shape[-1] - rope.width
        sizes = [rope.width // 2, rope.width // 2, *([still] if still else [])]
        parts = [a, b, *([f"{output}.still"] if still else [])]
        widths = graph.constant(f"widths.{'.'.join(map(str, sizes))}", sizes)
        graph.nodes_out("Split", [x.name, widths], parts, axis=-1)
        product = {}
        for name, (half, table) in {
            "ac": (a, cos),
            "bs": (b, sin),
            "bc": (b, cos),
            "as": (a, sin),
        }.items():
            product[name] = graph.node("Mul", [half, table], f"{output}.{name}")
        low = graph.node("Sub", [product["ac"], product["bs"]], f"{output}.low")
        high = graph.node("Add", [product["bc"], product["as"]], f"{output}.high")
        return graph.node("Concat", [low, high, *parts[2:]], output, axis=-1)

    def _packed(self, q: Value, k: Value, v: Value) -> list[str]:
        """The three inputs: one tensor that holds q, k and v side by side, if there is one."""
        parts = [each.part for each in (q, k, v)]
        whole = parts[0][0]
        if whole and parts == [(whole, 0), (whole, 1), (whole, 2)]:
            return [whole, "", ""]
        return [self._flat(each) for each in (q, k, v)]

    def _flat(self, x: Value) -> str:
        """[batch, T, heads, d] -> [batch, T, heads * d]"""
        if x.flat:
            return x.flat
        shape = self.graph.constant(f"flat.{x.shape[0]}", [0, 0, x.shape[0] * x.shape[1]])
        return self.graph.node("Reshape", [x.name, shape], f"{x.name}.flat")

    def _lengths(self) -> list[str]:
        """seqlens_k = sum(mask) - 1 per sequence, and the total length, both int32."""
        if "lengths" not in self.shared:
            graph, one = self.graph, self.graph.constant("one", [1])
            total = graph.node("ReduceSum", ["attention_mask", one], "mask.sum", keepdims=1)
            last = graph.node("Sub", [total, one], "mask.last")
            graph.node("Cast", [last], "seqlens_k", to=6)
            graph.node("Cast", [self._size("attention_mask", 1)], "total_sequence_length", to=6)
            self.shared["lengths"] = "seqlens_k"
        return ["seqlens_k", "total_sequence_length"]

    def _positions(self) -> tuple[str, str]:
        """Positions of these T tokens and of all S tokens, int64 [T] and [S]."""
        if "positions" not in self.shared:
            graph = self.graph
            total, now = self._size("attention_mask", 1), self._size("input_ids", 1)
            zero, one = graph.constant("scalar.0", 0), graph.constant("scalar.1", 1)
            graph.node("Range", [zero, total, one], "positions.all")
            first = graph.node("Sub", [total, now], "positions.first")
            graph.node("Range", [first, total, one], "positions.now")
            self.shared["positions"] = "positions.now"
        return "positions.now", "positions.all"

    def _at_positions(self, rope: Rope) -> tuple[str, str]:
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
        """A name for what is made of a rope; the first one's is short."""
        if rope not in self.ropes:
            self.ropes.append(rope)
        return f"rope{self.ropes.index(rope) or ''}"

    def _capped(self, scores: str, cap: float | None, name: str) -> str:
        if cap is None:
            return scores
        graph, limit = self.graph, self.graph.constant(f"cap.{cap:.9g}", cap, np.float32)
        share = graph.node("Div", [scores, limit], f"{name}.share")
        return graph.node("Mul", [graph.node("Tanh", [share], f"{name}.tanh"), limit], name)

    def _mask(self, window: int | None) -> str:
        """0 where a token may look, a very small number elsewhere, [T, S]."""
        name = f"mask.{window or 'all'}"
        if name not in self.shared:
            graph, (now, every) = self.graph, self._positions()
            rows = graph.node("Unsqueeze", [now, graph.constant("one", [1])], f"{name}.rows")
            distance = graph.node("Sub", [rows, every], f"{name}.distance")
            zero = graph.constant("scalar.0", 0)
            hidden = graph.node("Less", [distance, zero], f"{name}.future")
            if window is not None:
                limit = graph.constant(f"window.{window}", window)
                far = graph.node("GreaterOrEqual", [distance, limit], f"{name}.far")
                hidden = graph.node("Or", [hidden, far], f"{name}.hidden")
            nothing = graph.constant("float.0", 0.0, np.float32)
            much = graph.constant("float.hidden", HIDDEN, np.float32)
            self.shared[name] = graph.node("Where", [hidden, much, nothing], name)
        return self.shared[name]

    def _size(self, tensor: str, axis: int) -> str:
        """One dimension of an input as an int64 scalar."""
        name = f"{tensor}.size.{axis}"
        if name not in self.shared:
            shape = self.graph.node("Shape", [tensor], f"{name}.shape")
            index = self.graph.constant(f"scalar.{axis}", axis)
            self.shared[name] = self.graph.node("Gather", [shape, index], name, axis=0)
        return name
