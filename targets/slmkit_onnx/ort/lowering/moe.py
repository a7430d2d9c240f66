"""Experts as ONNX Runtime's QMoE: one operation that reads the weights of the chosen alone.

Its kernel for x86 and ARM takes symmetric 4-bit codes in blocks, rows of gate and up in turns.
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
    """Puts the experts of a layer into a graph as one operation."""

    def __init__(self, graph: Graph, codes: CodesFile, accuracy_level: int) -> None:
        self.graph, self.codes, self.accuracy_level = graph, codes, accuracy_level

    def takes(self, experts: Sequence[Expert]) -> bool:
        """Whether the kernel reads these weights exactly."""
        names = [name for each in experts for name in (*each.gate_up, each.down)]
        schemes = [self.codes.schemes[name] for name in names]
        block = schemes[0].group_size or 0
        whole = {experts[0].width % block, experts[0].feed_forward % block} if block else {1}
        plain = schemes[0].bits == 4 and schemes[0].symmetric
        return plain and whole == {0} and all(each == schemes[0] for each in schemes)

    def write(
        self, x: str, weights: str, routing: Routing, experts: Sequence[Expert], output: str
    ) -> str:
        """x [b, T, D], weights [b, T, E] with 0 for those not chosen."""
        graph, count, width = self.graph, len(experts), experts[0].width
        wide = experts[0].feed_forward
        flat = graph.constant(f"experts.{count}", [-1, count])
        rows = graph.node("Reshape", [weights, flat], f"{output}.rows")
        block = self.codes.schemes[experts[0].down].group_size or width
        stem = experts[0].down.rpartition(".")[0]
        up = self._stored(f"{stem}.gate_up", experts, (2 * wide, width), block, self._in_turns)
        down = self._stored(f"{stem}.down", experts, (width, wide), block, self._down)
        return graph.node(
            "QMoE",
            [x, rows, *up, "", *down, "", "", "", "", "", "", "", rows],
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

    def _stored(
        self,
        name: str,
        experts: Sequence[Expert],
        shape: tuple[int, int],
        block: int,
        rows: Callable[[Expert, Read], Array],
    ) -> list[str]:
        """Codes [E, N, K / 2] and scales [E, N, K / block] of one of the two products."""
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
    def _in_turns(expert: Expert, read: Read) -> Array:
        """Row 2 i is of gate, row 2 i + 1 of up."""
        both = np.concatenate([read(name) for name in expert.gate_up])
        return np.ascontiguousarray(both.reshape(2, len(both) // 2, -1).swapaxes(0, 1))

    @staticmethod
    def _down(expert: Expert, read: Read) -> Array:
        return read(expert.down)
