"""The interpreter that only listens: text, op inventory and weight table of an architecture."""

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
    """One value of the recording: its number in the text, and its shape after T."""

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
    """One tensor that the architecture names."""

    name: str  # without ".weight" or ".bias"
    kind: str  # table, linear, norm, bias, conv or plain (a vector whose name has no ending)
    shape: tuple[int, ...]
    stored: tuple[int, ...] = ()  # its shape in the checkpoint, if that is another

    @property
    def tensor(self) -> str:
        """The tensor's name in the checkpoint."""
        if self.kind == "plain":
            return self.name
        return f"{self.name}.bias" if self.kind == "bias" else f"{self.name}.weight"

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class State:
    """What a layer keeps from token to token, of one size whatever the sequence's length."""

    layer: int
    kind: str  # conv: (D, K - 1), the last tokens' values; scan: (H, N, P)
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """One model as recorded: its ops, weights and state. Recorded once, then handed on."""

    spec: Spec
    ops: Mapping[str, int]  # how often each word of the vocabulary is said
    shapes: Mapping[str, tuple[int, ...]]  # matrices by name, vectors by tensor
    multiplied: frozenset[str]  # matrices of a linear
    looked_up: frozenset[str]  # tables of an embed; a tied one is both
    attention_layers: tuple[int, ...] = ()  # layers with a KV cache
    states: tuple[State, ...] = ()  # of the other layers
    moe_layers: tuple[tuple[Expert, ...], ...] = ()  # the experts of each layer that has some
    weights: Mapping[str, Weight] = field(default_factory=dict)  # by tensor
    cached: int = 0  # numbers per token that the KV cache of all layers holds
    widest: int = 0  # most numbers per token that one op reads and writes

    def at_context(self, context: int) -> Model:
        """The same model in a context of this many tokens, which may decide its rope."""
        return replace(self, spec=self.spec.at_context(context))

    def run(self, o: Ops[V]) -> V:
        """Interpret the architecture with ``o``. -> logits (T, V)"""
        return registry.run(o, self.spec)

    @property
    def matrices(self) -> tuple[str, ...]:
        """Names of all matrices: the weights that have a scheme."""
        return tuple(name for name, shape in self.shapes.items() if len(shape) == 2)

    @property
    def parameters(self) -> int:
        """How many numbers all weights hold."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def vector_numbers(self) -> int:
        """How many of them are of norms, biases and other vectors."""
        return sum(shape[0] for shape in self.shapes.values() if len(shape) == 1)


@dataclass
class Recorder(Ops[RecordedValue]):
    """Writes down each op; computes nothing. ``taps`` are kept as lines too."""

    lines: list[str] = field(default_factory=list)
    inventory: Counter[str] = field(default_factory=Counter)
    weights: dict[str, Weight] = field(default_factory=dict)
    multiplied: set[str] = field(default_factory=set)  # matrices that a linear reads
    looked_up: set[str] = field(default_factory=set)  # tables that an embed reads
    attention_layers: list[int] = field(default_factory=list)  # layers with a KV cache
    states: list[State] = field(default_factory=list)
    moe_layers: list[tuple[Expert, ...]] = field(default_factory=list)
    cached: int = 0  # numbers per token that the KV cache of all layers holds
    widest: int = 0  # most numbers per token that one op reads and writes

    def embed(self, name: str, rows: int, width: int) -> RecordedValue:
        self._weight(Weight(name, "table", (rows, width)))
        self.looked_up.add(name)
        return self._say("embed", (), (width,), name)

    def linear(self, x: RecordedValue, name: str, width: int, bias: bool = False) -> RecordedValue:
        self._weight(Weight(name, "linear", (width, x.shape[-1])))
        self.multiplied.add(name)
        if bias:
            self._weight(Weight(name, "bias", (width,)))
        return self._say("linear", (x,), (width,), name + (" +bias" if bias else ""))

    def rms_norm(self, x: RecordedValue, name: str, eps: float) -> RecordedValue:
        self._weight(Weight(name, "norm", (x.shape[-1],)))
        return self._say("rms_norm", (x,), x.shape, f"{name} eps={eps:g}")

    def split(self, x: RecordedValue, widths: Sequence[int]) -> tuple[RecordedValue, ...]:
        return tuple(
            self._say("split", (x,), (width,), f"part={number} of {len(widths)}")
            for number, width in enumerate(widths)
        )

    def split_heads(self, x: RecordedValue, heads: int) -> RecordedValue:
        return self._say("split_heads", (x,), (heads, x.shape[-1] // heads))

    def rope(self, x: RecordedValue, rope: Rope) -> RecordedValue:
        return self._say("rope", (x,), x.shape, _rope_text(rope))

    def attend(
        self, q: RecordedValue, k: RecordedValue, v: RecordedValue, layer: int, kind: Attention
    ) -> RecordedValue:
        self.attention_layers.append(layer)
        self.cached += k.size + v.size
        shape = (q.shape[0] * q.shape[1],)
        return self._say("attend", (q, k, v), shape, f"layer={layer} {_attention_text(kind)}")

    def add(self, x: RecordedValue, y: RecordedValue) -> RecordedValue:
        return self._say("add", (x, y), x.shape)

    def mul(self, x: RecordedValue, y: RecordedValue) -> RecordedValue:
        return self._say("mul", (x, y), x.shape)

    def scale(self, x: RecordedValue, by: float) -> RecordedValue:
        return self._say("scale", (x,), x.shape, f"by={by:.6g}")

    def sigmoid(self, x: RecordedValue) -> RecordedValue:
        return self._say("sigmoid", (x,), x.shape)

    def tanh(self, x: RecordedValue) -> RecordedValue:
        return self._say("tanh", (x,), x.shape)

    def gelu_tanh(self, x: RecordedValue) -> RecordedValue:
        return self._say("gelu_tanh", (x,), x.shape)

    def silu(self, x: RecordedValue) -> RecordedValue:
        return self._say("silu", (x,), x.shape)

    def route(self, scores: RecordedValue, routing: Routing) -> RecordedValue:
        kind = "normalized" if routing.normalized else "as they are"
        return self._say("route", (scores,), scores.shape, f"chosen={routing.chosen} {kind}")

    def scale_by_column(
        self, x: RecordedValue, weights: RecordedValue, number: int
    ) -> RecordedValue:
        return self._say("scale_by_column", (x, weights), x.shape, f"column={number}")

    def experts(
        self, x: RecordedValue, scores: RecordedValue, routing: Routing, experts: Sequence[Expert]
    ) -> RecordedValue:
        self.moe_layers.append(tuple(experts))
        return super().experts(x, scores, routing, experts)

    def add_bias(self, x: RecordedValue, name: str) -> RecordedValue:
        self._weight(Weight(name, "plain", x.shape))
        return self._say("add_bias", (x,), x.shape, name)

    def softplus(self, x: RecordedValue) -> RecordedValue:
        return self._say("softplus", (x,), x.shape)

    def conv(
        self, x: RecordedValue, name: str, kernel: int, layer: int, bias: bool
    ) -> RecordedValue:
        channels = x.shape[-1]
        self._weight(Weight(name, "conv", (channels * kernel,), (channels, 1, kernel)))
        if bias:
            self._weight(Weight(name, "bias", (channels,)))
        self.states.append(State(layer, "conv", (channels, kernel - 1)))
        note = f"{name} kernel={kernel} layer={layer}{' +bias' if bias else ''}"
        return self._say("conv", (x,), x.shape, note)

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
        self._weight(Weight(f"{kind.at}.A_log", "plain", (math.prod(stored),), stored))
        self._weight(Weight(f"{kind.at}.D", "plain", (kind.heads,)))
        size = (kind.heads, kind.state, x.shape[-1] // kind.heads)
        self.states.append(State(layer, "scan", size))
        return self._say("scan", (x, step, b, c), x.shape, f"{kind.at} layer={layer} state={size}")

    def tap(self, x: RecordedValue, name: str) -> RecordedValue:
        self.lines.append(f"tap {x} {name}")
        return x

    def _weight(self, weight: Weight) -> None:
        """Keep the first mention: a tied table is heard as a table, then as a linear."""
        self.weights.setdefault(weight.tensor, weight)

    def _say(
        self, op: str, inputs: tuple[RecordedValue, ...], shape: tuple[int, ...], note: str = ""
    ) -> RecordedValue:
        self.inventory[op] += 1
        recorded = RecordedValue(sum(self.inventory.values()), shape)
        self.widest = max(self.widest, sum(each.size for each in (*inputs, recorded)))
        width = ", ".join(map(str, ("T", *shape)))
        said = " ".join([op, *map(str, inputs), note]).rstrip()
        self.lines.append(f"{recorded} = {said} -> ({width})")
        return recorded


def record(spec: Spec) -> Recorder:
    """Listen to the architecture of ``spec`` once."""
    recorder = Recorder()
    registry.run(recorder, spec)
    return recorder


def summarize(spec: Spec) -> Model:
    """What the architecture of ``spec`` says, as a backend wants to know it."""
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
