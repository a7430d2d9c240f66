"""The dataflow of a model: an interpreter that keeps which op reads which value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from slmkit.models import registry
from slmkit.models.spec import Spec
from slmkit.ops import Attention, Ops, Rope, Routing, Scan


@dataclass(eq=False)
class Node:
    """A value: the op that makes it, and the values that read it."""

    op: str
    inputs: tuple[Node, ...] = ()
    name: str = ""  # of the op's weight
    width: int = 0  # elements per token
    first: int = 0  # of a split's part: its first channel in the whole
    readers: list[Node] = field(default_factory=list)

    @property
    def only_reader(self) -> Node | None:
        """The one value that reads this one; None if there are several, or none."""
        return self.readers[0] if len(self.readers) == 1 else None


class Dataflow(Ops[Node]):
    """Keeps the values in the order in which they are made; computes nothing."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.updates: list[Node] = []  # values that are added to the residual stream

    def embed(self, name: str, rows: int, width: int) -> Node:
        return self._node("embed", (), width, name)

    def linear(self, x: Node, name: str, width: int, bias: bool = False) -> Node:
        return self._node("linear", (x,), width, name)

    def rms_norm(self, x: Node, name: str, eps: float) -> Node:
        return self._node("rms_norm", (x,), x.width, name)

    def add_norm(self, x: Node, y: Node, name: str, eps: float) -> tuple[Node, Node]:
        self.updates.append(y)
        return super().add_norm(x, y, name, eps)

    def split(self, x: Node, widths: Sequence[int]) -> tuple[Node, ...]:
        parts, first = [], 0
        for width in widths:
            parts.append(self._node("split", (x,), width, first=first))
            first += width
        return tuple(parts)

    def split_heads(self, x: Node, heads: int) -> Node:
        return self._node("split_heads", (x,), x.width)

    def rope(self, x: Node, rope: Rope) -> Node:
        return self._node("rope", (x,), x.width)

    def attend(self, q: Node, k: Node, v: Node, layer: int, kind: Attention) -> Node:
        return self._node("attend", (q, k, v), q.width)

    def add(self, x: Node, y: Node) -> Node:
        return self._node("add", (x, y), x.width)

    def mul(self, x: Node, y: Node) -> Node:
        return self._node("mul", (x, y), x.width)

    def scale(self, x: Node, by: float) -> Node:
        return self._node("scale", (x,), x.width)

    def sigmoid(self, x: Node) -> Node:
        return self._node("sigmoid", (x,), x.width)

    def tanh(self, x: Node) -> Node:
        return self._node("tanh", (x,), x.width)

    def gelu_tanh(self, x: Node) -> Node:
        return self._node("gelu_tanh", (x,), x.width)

    def route(self, scores: Node, routing: Routing) -> Node:
        return self._node("route", (scores,), scores.width)

    def scale_by_column(self, x: Node, weights: Node, number: int) -> Node:
        return self._node("scale_by_column", (x, weights), x.width)

    def add_bias(self, x: Node, name: str) -> Node:
        return self._node("add_bias", (x,), x.width, name)

    def softplus(self, x: Node) -> Node:
        return self._node("softplus", (x,), x.width)

    def conv(self, x: Node, name: str, kernel: int, layer: int, bias: bool) -> Node:
        return self._node("conv", (x,), x.width, name)

    def scan(self, x: Node, step: Node, b: Node, c: Node, layer: int, kind: Scan) -> Node:
        return self._node("scan", (x, step, b, c), x.width, kind.at)

    def _node(
        self, op: str, inputs: tuple[Node, ...], width: int, name: str = "", first: int = 0
    ) -> Node:
        node = Node(op, inputs, name, width, first)
        for each in inputs:
            each.readers.append(node)
        self.nodes.append(node)
        return node


def dataflow(spec: Spec) -> Dataflow:
    """Run ``Dataflow`` over the forward pass of ``spec``."""
    flow = Dataflow()
    registry.run(flow, spec)
    return flow


def sources(node: Node) -> Iterator[Node]:
    """The norms and linears whose outputs add up to a value, through sums and factors.

    Raises ValueError for a value that is made otherwise.
    """
    if node.op in ("rms_norm", "linear"):
        yield node
    elif node.op == "add":
        for each in node.inputs:
            yield from sources(each)
    elif node.op in ("scale", "scale_by_column"):
        yield from sources(node.inputs[0])
    else:
        raise ValueError(f"the residual stream is fed by the op {node.op}")
