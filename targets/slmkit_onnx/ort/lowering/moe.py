"""Mixture of experts by ONNX Runtime's QMoE, which reads the weights of the chosen experts only.

Its kernel for x86 and ARM takes symmetric 4-bit codes in blocks, rows of gate and up interleaved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.ops import Expert, Routing
from slmkit.quant.codes import CodesFile
from slmkit_onnx.graph import MICROSOFT, Graph

Array = NDArray[Any]
Read = Callable[[str], Array]  # rows of a weight: packed codes, or scales


class ExpertWriter:
    """Write the experts of a layer as one operation."""

    def __init__(self, graph: Graph, codes: CodesFile, accuracy_level: int) -> None:
        self.graph, self.codes, self.accuracy_level = graph, codes, accuracy_level

    def supports(self, experts: Sequence[Expert]) -> bool:
        """True if the kernel takes these weights: one symmetric 4-bit scheme, whole groups."""
        names = [name for each in experts for name in (*each.gate_up, each.down)]
        schemes = [self.codes.schemes[name] for name in names]
        first, sizes = schemes[0], (experts[0].width, experts[0].feed_forward)
        if first.bits != 4 or not first.symmetric or not first.group_size:
            return False
        if any(size % first.group_size for size in sizes):
            return False
        return all(scheme == first for scheme in schemes)

    def write(
        self, x: str, weights: str, routing: Routing, experts: Sequence[Expert], output: str
    ) -> str:
        """x [b, T, D], weights [b, T, E], 0 for experts that are not chosen -> [b, T, D]."""
        graph, count, width = self.graph, len(experts), experts[0].width
        feed_forward = experts[0].feed_forward
        flat = graph.constant(f"experts.{count}", [-1, count])
        rows = graph.node("Reshape", [weights, flat], f"{output}.rows")
        block = self.codes.schemes[experts[0].down].group_size or width
        stem = experts[0].down.rpartition(".")[0]
        gate_up_shape, down_shape = (2 * feed_forward, width), (width, feed_forward)
        gate_up = self._tensors(
            f"{stem}.gate_up", experts, gate_up_shape, block, self._interleave_gate_and_up
        )
        down = self._tensors(f"{stem}.down", experts, down_shape, block, self._down_rows)
        return graph.node(
            "QMoE",
            [x, rows, *gate_up, "", *down, "", "", "", "", "", "", "", rows],
            output,
            MICROSOFT,
            k=routing.chosen,
            activation_type="swiglu",
            swiglu_fusion=1,
            activation_alpha=1.0,
            activation_beta=0.0,
            expert_weight_bits=4,
            block_size=block,
            normalize_routing_weights=0,
            accuracy_level=self.accuracy_level,
        )

    def _tensors(
        self,
        name: str,
        experts: Sequence[Expert],
        shape: tuple[int, int],
        block: int,
        rows: Callable[[Expert, Read], Array],
    ) -> list[str]:
        """Add codes [E, N, K / 2] and scales [E, N, K / block] of all experts; return the names."""
        count, (outputs, inputs) = len(experts), shape

        def chunks(read: Read) -> Iterator[Array]:
            for each in experts:
                yield rows(each, read)
                for weight in (*each.gate_up, each.down):
                    self.codes.forget(weight)

        scales = (count, outputs, inputs // block)
        return [
            self.graph.external(
                f"{name}.codes",
                "uint8",
                (count, outputs, inputs // 2),
                f"{name}.codes",
                lambda: chunks(self.codes.packed),
            ),
            self.graph.external(
                f"{name}.scales",
                "float32",
                scales,
                f"{name}.scales",
                lambda: chunks(self.codes.scales),
            ),
        ]

    @staticmethod
    def _interleave_gate_and_up(expert: Expert, read: Read) -> Array:
        """Row 2 i is row i of gate, row 2 i + 1 row i of up."""
        both = np.concatenate([read(name) for name in expert.gate_up])
        return np.ascontiguousarray(both.reshape(2, len(both) // 2, -1).swapaxes(0, 1))

    @staticmethod
    def _down_rows(expert: Expert, read: Read) -> Array:
        return read(expert.down)
