"""The recorder: an interpreter that lists the ops and weights of an architecture as text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from slmkit.models import registry
from slmkit.models.spec import Spec
from slmkit.ops import Attention, Expert, Ops, Rope, Routing, Scan, V


@dataclass(frozen=True)
class RecordedValue:
    """A value of the recording: its number in the text, and its shape without T."""

    number: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements per token."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"%{self.number}"


@dataclass(frozen=True)
class Weight:
    """A tensor that the architecture uses."""

    name: str  # without ".weight" or ".bias"
    kind: str  # table, linear, norm, bias, conv or plain (a vector whose name has no ending)
    shape: tuple[int, ...]
    stored: tuple[int, ...] = ()  # shape in the checkpoint, if it differs from ``shape``

    @property
    def tensor(self) -> str:
        """The tensor's name in the checkpoint."""
        if self.kind == "plain":
            return self.name
        return f"{self.name}.bias" if self.kind == "bias" else f"{self.name}.weight"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class State:
    """A recurrent state of a layer; its size does not depend on the sequence's length."""

    layer: int
    kind: str  # conv or scan
    shape: tuple[int, ...]  # conv: (D, K - 1), inputs of the last tokens; scan: (H, N, P)


@dataclass(frozen=True)
class Model:
    """One model as recorded: its ops, weights and state. Recorded once, then handed on."""

    spec: Spec
    ops: Mapping[str, int]  # number of uses of each op
    shapes: Mapping[str, tuple[int, ...]]  # of matrices by weight name, of vectors by tensor name
    multiplied: frozenset[str]  # names of the matrices of ``linear``
    looked_up: frozenset[str]  # names of the tables of ``embed``; a tied one is in both sets
    attention_layers: tuple[int, ...] = ()  # layers with a KV cache
    states: tuple[State, ...] = ()  # of layers of convolution and scan
    moe_layers: tuple[tuple[Expert, ...], ...] = ()  # experts of each layer that has them
    weights: Mapping[str, Weight] = field(default_factory=dict)  # by tensor name
    cached: int = 0  # elements per token of the KV cache, all layers
    widest: int = 0  # most elements per token among one op's inputs and output

    def at_context(self, context: int) -> Model:
        """The model with its spec for a context length of ``context`` tokens."""
        return replace(self, spec=self.spec.at_context(context))

    def run(self, o: Ops[V]) -> V:
        """Run the forward pass on the interpreter ``o``. -> logits (T, V)"""
        return registry.run(o, self.spec)

    @property
    def matrices(self) -> tuple[str, ...]:
        """Names of all matrices: the weights that have a scheme."""
        return tuple(name for name, shape in self.shapes.items() if len(shape) == 2)

    @property
    def parameters(self) -> int:
        """Number of elements of all weights."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def vector_numbers(self) -> int:
        """Number of elements of norms, biases and other vectors."""
        return sum(shape[0] for shape in self.shapes.values() if len(shape) == 1)


@dataclass
class Recorder(Ops[RecordedValue]):
    """Writes a line for each op and tap; computes nothing."""

    lines: list[str] = field(default_factory=list)
    inventory: Counter[str] = field(default_factory=Counter)
    weights: dict[str, Weight] = field(default_factory=dict)
    multiplied: set[str] = field(default_factory=set)  # names of the matrices of linear
    looked_up: set[str] = field(default_factory=set)  # names of the tables of embed
    attention_layers: list[int] = field(default_factory=list)  # layers with a KV cache
    states: list[State] = field(default_factory=list)
    moe_layers: list[tuple[Expert, ...]] = field(default_factory=list)
    cached: int = 0  # elements per token of the KV cache, all layers
    widest: int = 0  # most elements per token among one op's inputs and output

    def embed(self, name: str, rows: int, width: int) -> RecordedValue:
        self._add_weight(Weight(name, "table", (rows, width)))
        self.looked_up.add(name)
        return self._record("embed", (), (width,), name)

    def linear(self, x: RecordedValue, name: str, width: int, bias: bool = False) -> RecordedValue:
        self._add_weight(Weight(name, "linear", (width, x.shape[-1])))
        self.multiplied.add(name)
        if bias:
            self._add_weight(Weight(name, "bias", (width,)))
        return self._record("linear", (x,), (width,), name + (" +bias" if bias else ""))

    def rms_norm(self, x: RecordedValue, name: str, eps: float) -> RecordedValue:
        self._add_weight(Weight(name, "norm", (x.shape[-1],)))
        return self._record("rms_norm", (x,), x.shape, f"{name} eps={eps:g}")

    def split(self, x: RecordedValue, widths: Sequence[int]) -> tuple[RecordedValue, ...]:
        return tuple(
            self._record("split", (x,), (width,), f"part={number} of {len(widths)}")
            for number, width in enumerate(widths)
        )

    def split_heads(self, x: RecordedValue, heads: int) -> RecordedValue:
        return self._record("split_heads", (x,), (heads, x.shape[-1] // heads))

    def rope(self, x: RecordedValue, rope: Rope) -> RecordedValue:
        return self._record("rope", (x,), x.shape, _rope_text(rope))

    def attend(
        self, q: RecordedValue, k: RecordedValue, v: RecordedValue, layer: int, kind: Attention
    ) -> RecordedValue:
        self.attention_layers.append(layer)
        self.cached += k.size + v.size
        shape = (q.shape[0] * q.shape[1],)
        return self._record("attend", (q, k, v), shape, f"layer={layer} {_attention_text(kind)}")

    def add(self, x: RecordedValue, y: RecordedValue) -> RecordedValue:
        return self._record("add", (x, y), x.shape)

    def mul(self, x: RecordedValue, y: RecordedValue) -> RecordedValue:
        return self._record("mul", (x, y), x.shape)

    def scale(self, x: RecordedValue, by: float) -> RecordedValue:
        return self._record("scale", (x,), x.shape, f"by={by:.6g}")

    def sigmoid(self, x: RecordedValue) -> RecordedValue:
        return self._record("sigmoid", (x,), x.shape)

    def tanh(self, x: RecordedValue) -> RecordedValue:
        return self._record("tanh", (x,), x.shape)

    def gelu_tanh(self, x: RecordedValue) -> RecordedValue:
        return self._record("gelu_tanh", (x,), x.shape)

    def silu(self, x: RecordedValue) -> RecordedValue:
        return self._record("silu", (x,), x.shape)

    def route(self, scores: RecordedValue, routing: Routing) -> RecordedValue:
        kind = "normalized" if routing.normalized else "as they are"
        return self._record("route", (scores,), scores.shape, f"chosen={routing.chosen} {kind}")

    def scale_by_column(
        self, x: RecordedValue, weights: RecordedValue, number: int
    ) -> RecordedValue:
        return self._record("scale_by_column", (x, weights), x.shape, f"column={number}")

    def experts(
        self, x: RecordedValue, scores: RecordedValue, routing: Routing, experts: Sequence[Expert]
    ) -> RecordedValue:
        self.moe_layers.append(tuple(experts))
        return super().experts(x, scores, routing, experts)

    def add_bias(self, x: RecordedValue, name: str) -> RecordedValue:
        self._add_weight(Weight(name, "plain", x.shape))
        return self._record("add_bias", (x,), x.shape, name)

    def softplus(self, x: RecordedValue) -> RecordedValue:
        return self._record("softplus", (x,), x.shape)

    def conv(
        self, x: RecordedValue, name: str, kernel: int, layer: int, bias: bool
    ) -> RecordedValue:
        channels = x.shape[-1]
        self._add_weight(Weight(name, "conv", (channels * kernel,), (channels, 1, kernel)))
        if bias:
            self._add_weight(Weight(name, "bias", (channels,)))
        self.states.append(State(layer, "conv", (channels, kernel - 1)))
        note = f"{name} kernel={kernel} layer={layer}{' +bias' if bias else ''}"
        return self._record("conv", (x,), x.shape, note)

    def scan(
        self,
        x: RecordedValue,
        step: RecordedValue,
        b: RecordedValue,
        c: RecordedValue,
        layer: int,
        kind: Scan,
    ) -> RecordedValue:
        stored = (kind.heads, kind.state) if kind.by_number else (kind.heads,)
        self._add_weight(Weight(f"{kind.at}.A_log", "plain", (math.prod(stored),), stored))
        self._add_weight(Weight(f"{kind.at}.D", "plain", (kind.heads,)))
        size = (kind.heads, kind.state, x.shape[-1] // kind.heads)
        self.states.append(State(layer, "scan", size))
        return self._record(
            "scan", (x, step, b, c), x.shape, f"{kind.at} layer={layer} state={size}"
        )

    def tap(self, x: RecordedValue, name: str) -> RecordedValue:
        self.lines.append(f"tap {x} {name}")
        return x

    def _add_weight(self, weight: Weight) -> None:
        """Keep the first use: a tied embedding is a table first, then the matrix of a linear."""
        self.weights.setdefault(weight.tensor, weight)

    def _record(
        self, op: str, inputs: tuple[RecordedValue, ...], shape: tuple[int, ...], note: str = ""
    ) -> RecordedValue:
        self.inventory[op] += 1
        recorded = RecordedValue(sum(self.inventory.values()), shape)
        self.widest = max(self.widest, sum(each.size for each in (*inputs, recorded)))
        axes = ", ".join(map(str, ("T", *shape)))
        text = " ".join([op, *map(str, inputs), note]).rstrip()
        self.lines.append(f"{recorded} = {text} -> ({axes})")
        return recorded


def record(spec: Spec) -> Recorder:
    """Run the recorder over the forward pass of ``spec``."""
    recorder = Recorder()
    registry.run(recorder, spec)
    return recorder


def summarize(spec: Spec) -> Model:
    """The ``Model`` of ``spec``: its recording, as backends use it."""
    recorded = record(spec)
    shapes = {
        weight.name if len(weight.shape) == 2 else weight.tensor: weight.shape
        for weight in recorded.weights.values()
    }
    names = frozenset(recorded.multiplied), frozenset(recorded.looked_up)
    return Model(
        spec,
        dict(recorded.inventory),
        shapes,
        *names,
        attention_layers=tuple(recorded.attention_layers),
        states=tuple(recorded.states),
        moe_layers=tuple(recorded.moe_layers),
        weights=recorded.weights,
        cached=recorded.cached,
        widest=recorded.widest,
    )


def _rope_text(rope: Rope) -> str:
    first, last = rope.frequencies[0], rope.frequencies[-1]
    return f"pairs={len(rope.frequencies)} {first:g}..{last:.6g} magnitude={rope.magnitude:g}"


def _attention_text(kind: Attention) -> str:
    window = "" if kind.window is None else f" window={kind.window}"
    cap = "" if kind.cap is None else f" cap={kind.cap:g}"
    return f"scale={kind.scale:.6g}{window}{cap}"
