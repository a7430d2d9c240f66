"""The vocabulary as MIL operations: what both layouts share. Each layout has a room of its own."""

from __future__ import annotations

import functools
import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813

from slmkit.backend.partition import unit_of
from slmkit.backend.static_runner import rope_names
from slmkit.ops import Ops, Rope, Routing, Scan
from slmkit_coreml.contract import mask_name, state_name
from slmkit_coreml.lowering.inputs import Border, arranged
from slmkit_coreml.lowering.kv_cache import CacheWriter
from slmkit_coreml.lowering.moe import routed
from slmkit_coreml.lowering.scan import convolved, scanned_by_head, scanned_by_number, skipped
from slmkit_coreml.lowering.weights import WeightWriter

TAP = "tap_"  # prefix of the outputs of a debug build; Core ML wants identifiers


@dataclass(frozen=True, eq=False)
class Value:
    """MIL variables that hold the channels of a value one after the other (one, mostly).

    ``shape``: (D,) or (H, d). No variables: the value is made in another chunk.
    """

    parts: tuple[Any, ...]
    shape: tuple[int, ...]

    @property
    def whole(self) -> Any:
        """One variable; only the ``ane`` layout has values in parts, of channels on axis 1."""
        return self.parts[0] if len(self.parts) == 1 else mb.concat(values=self.parts, axis=1)

    def each(self, change: Callable[[Any], Any]) -> Value:
        """Every number by itself: parts stay apart, as logits of a large vocabulary must."""
        return Value(tuple(change(part) for part in self.parts), self.shape)


ELSEWHERE = ()
Word = TypeVar("Word", bound=Callable[..., Any])


def word(method: Word) -> Word:
    """A word of the vocabulary: spoken in the chunk that holds its layer, silent in the others."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def spoken(self: CoremlOps, *said: Any, **more: Any) -> Any:
        arguments = signature.bind(self, *said, **more).arguments
        self.unit = _unit(method.__name__, arguments, self)
        values = {key: each for key, each in arguments.items() if isinstance(each, Value)}
        if self.unit > self.border.chunk.last:
            for value in values.values():
                self.leave(value)
        if not self.border.chunk.first <= self.unit <= self.border.chunk.last:
            nothing = Value(ELSEWHERE, ())
            return (nothing,) * len(arguments["widths"]) if "widths" in arguments else nothing
        arguments |= {key: self.enter(value) for key, value in values.items()}
        return method(**arguments)

    return spoken  # type: ignore[return-value]


def _unit(name: str, arguments: dict[str, Any], ops: CoremlOps) -> int:
    """The layer (or L, for the head) that a word belongs to; without a name, that of the last."""
    if "layer" in arguments:
        return int(arguments["layer"])
    if name in ("embed", "tap") or "name" not in arguments:
        return ops.unit
    return unit_of(arguments["name"], ops.border.spec.layers)


class CoremlOps(Ops[Value]):
    """Writes one function of one chunk; the builder's current function takes every operation."""

    def __init__(
        self, weights: WeightWriter, border: Border, given: dict[str, Any], debug: bool = False
    ) -> None:
        form = border.form
        self.weights, self.border, self.given, self.debug = weights, border, given, debug
        self.cache = CacheWriter(
            border.spec, form.layout, border.window, form.cache, given, border.attention_layers
        )
        self.unit = 0
        self.table = ""  # the embedding's name
        self.taps: list[Any] = []
        self.kept: list[Any] = []  # states of layers without attention
        self.tapped: dict[str, str] = {}  # output -> what was tapped
        self.entered: Value | None = None  # the value of the chunk before that this one reads
        self.hidden: Value | None = None  # the same, here
        self.left: Value | None = None  # what the next chunk reads

    def enter(self, value: Value) -> Value:
        """A value of this chunk; one of the chunk before is the input ``hidden``."""
        if value.parts != ELSEWHERE:
            return value
        if self.hidden is None:
            self.entered = value
            self.hidden = Value((self.given["hidden"],), (self.border.spec.width,))
        if value is not self.entered:
            raise ValueError("more than one value passes from chunk to chunk")
        return self.hidden

    def leave(self, value: Value) -> None:
        """Note what a later chunk reads."""
        if value.parts != ELSEWHERE:
            if value is not (self.left or value):
                raise ValueError("more than one value passes from chunk to chunk")
            self.left = value

    @abstractmethod
    def channels(self, shape: tuple[int, ...]) -> int:
        """The axis of the last number of a value's shape."""

    @abstractmethod
    def upright(self, x: Value) -> Any:
        """(D,) as [1, D, 1, T]."""

    @abstractmethod
    def lying(self, x: Any) -> Any:
        """[1, D, 1, T] as the layout has it."""

    @abstractmethod
    def table_label(self, name: str) -> str:
        """The constant that a table inside the package is."""

    @word
    def embed(self, name: str, rows: int, width: int) -> Value:
        self.table = name
        if "embeds" in self.given:
            return Value((self.given["embeds"],), (width,))
        table = self.weights.matrix(name, slice(0, rows), self.table_label(name))
        ids = mb.reshape(x=self.given["ids"], shape=[self.border.window.tokens])
        looked_up = mb.gather(x=table, indices=ids, axis=0)
        return Value((arranged(looked_up, self.border.form.layout.rows),), (width,))

    @word
    def rms_norm(self, x: Value, name: str, eps: float) -> Value:
        """Layer norm of [x, -x], whose mean is 0: the sum of squares cannot overflow float16.

        eps is float32, as iOS 17's op allows: 1e-6 would be 1.3 % off in float16.
        """
        axis, whole = self.channels(x.shape), x.whole
        both = mb.concat(values=[whole, mb.mul(x=whole, y=np.float16(-1))], axis=axis)
        normed = mb.layer_norm(x=both, axes=[axis], epsilon=np.float32(eps))
        half = mb.slice_by_size(x=normed, begin=[0] * whole.rank, size=list(whole.shape))
        gain = self.weights.vector(f"{name}.weight", slice(0, None), whole.rank - 1 - axis)
        return Value((mb.mul(x=half, y=gain),), x.shape)

    @word
    def rope(self, x: Value, rope: Rope) -> Value:
        """Rotate-half."""
        number = self.border.spec.ropes.index(rope)
        cos, sin = (self.given[name] for name in rope_names(number))
        axis, half = self.channels(x.shape), rope.width // 2
        widths = [half, half, x.shape[-1] - rope.width]
        a, b, *still = _slices(x.whole, axis, [width for width in widths if width])
        low = mb.sub(x=mb.mul(x=a, y=cos), y=mb.mul(x=b, y=sin))
        high = mb.add(x=mb.mul(x=b, y=cos), y=mb.mul(x=a, y=sin))
        return Value((mb.concat(values=[low, high, *still], axis=axis),), x.shape)

    @word
    def split(self, x: Value, widths: Sequence[int]) -> tuple[Value, ...]:
        parts = _slices(x.whole, self.channels(x.shape), widths)
        return tuple(Value((part,), (width,)) for part, width in zip(parts, widths, strict=True))

    @word
    def add(self, x: Value, y: Value) -> Value:
        return Value((mb.add(x=x.whole, y=y.whole),), x.shape)

    @word
    def mul(self, x: Value, y: Value) -> Value:
        return Value((mb.mul(x=x.whole, y=y.whole),), x.shape)

    @word
    def scale(self, x: Value, by: float) -> Value:
        return x.each(lambda part: times(part, by))

    @word
    def sigmoid(self, x: Value) -> Value:
        return x.each(lambda part: mb.sigmoid(x=part))

    @word
    def tanh(self, x: Value) -> Value:
        return x.each(lambda part: mb.tanh(x=part))

    @word
    def gelu_tanh(self, x: Value) -> Value:
        return x.each(lambda part: mb.gelu(x=part, mode="TANH_APPROXIMATION"))

    @word
    def route(self, scores: Value, routing: Routing) -> Value:
        return Value((routed(scores.whole, self.channels(scores.shape), routing),), scores.shape)

    @word
    def scale_by_column(self, x: Value, weights: Value, number: int) -> Value:
        axis, whole = self.channels(weights.shape), weights.whole
        begin = [number if at == axis else 0 for at in range(whole.rank)]
        size = [1 if at == axis else length for at, length in enumerate(whole.shape)]
        column = mb.slice_by_size(x=whole, begin=begin, size=size)
        return Value((mb.mul(x=x.whole, y=column),), x.shape)

    @word
    def add_bias(self, x: Value, name: str) -> Value:
        axis, whole = self.channels(x.shape), x.whole
        term = self.weights.vector(name, slice(0, None), whole.rank - 1 - axis)
        return Value((mb.add(x=whole, y=term),), x.shape)

    @word
    def softplus(self, x: Value) -> Value:
        return x.each(lambda part: mb.softplus(x=part))

    @word
    def conv(self, x: Value, name: str, kernel: int, layer: int, bias: bool) -> Value:
        weight = self.weights.codes.vector(f"{name}.weight").reshape(-1, kernel)
        before = self.given[f"past_{state_name('conv', layer)}"]
        found, kept = convolved(self.upright(x), weight, before, f"{name}.weight")
        self.keep("conv", layer, kept)
        given = Value((self.lying(found),), x.shape)
        return self.add_bias(given, f"{name}.bias") if bias else given

    @word
    def scan(self, x: Value, step: Value, b: Value, c: Value, layer: int, kind: Scan) -> Value:
        decay, skip = (self.weights.codes.vector(f"{kind.at}.{name}") for name in ("A_log", "D"))
        x_up, step_up, b_up, c_up = (self.upright(each) for each in (x, step, b, c))
        state, label = self.given[f"past_{state_name('scan', layer)}"], f"{kind.at}.A_log"
        if kind.by_number:
            decay = decay.reshape(kind.heads, kind.state)
            found, kept = scanned_by_number(x_up, step_up, b_up, c_up, decay, state, label)
        else:
            found, kept = scanned_by_head(x_up, step_up, b_up, c_up, decay, state, label)
        self.keep("scan", layer, kept)
        whole = np.repeat(skip, x.shape[0] // kind.heads)
        return Value((self.lying(skipped(x_up, found, whole, f"{kind.at}.D")),), x.shape)

    def keep(self, kind: str, layer: int, state: Any) -> None:
        """Give the host a layer's new state."""
        self.kept.append(mb.identity(x=state, name=f"new_{state_name(kind, layer)}"))

    @word
    def tap(self, x: Value, name: str) -> Value:
        if self.debug:
            output = TAP + identifier(name)
            self.taps.append(mb.identity(x=x.whole, name=output))
            self.tapped[output] = name
        return x

    def mask(self, window: int | None) -> Any:
        """The mask of layers with this sliding window."""
        return self.given[mask_name(window)]


def identifier(name: str) -> str:
    """A weight's name as Core ML wants names."""
    return name.replace(".", "_")


def _slices(x: Any, axis: int, widths: Sequence[int]) -> list[Any]:
    """Parts of these widths, one after the other along an axis."""
    found, first = [], 0
    for width in widths:
        begin = [first if at == axis else 0 for at in range(x.rank)]
        size = [width if at == axis else length for at, length in enumerate(x.shape)]
        found.append(mb.slice_by_size(x=x, begin=begin, size=size))
        first += width
    return found


def times(x: Any, by: float) -> Any:
    """x * by, with more digits of ``by`` than float16 has."""
    factors = [np.float16(by)] if float(np.float16(by)) == by else list(scale_factors(by))
    for factor in factors:
        x = mb.mul(x=x, y=factor)
    return x


def scale_factors(scale: float) -> tuple[np.float16, np.float16]:
    """Two float16 numbers with the scale as their product, to 1e-6.

    1 / sqrt(d) is no float16 for d = 32 or 128: rounded alone it would be 1e-4 off.
    """
    start = np.float16(2.0 ** math.floor(math.log2(math.sqrt(scale))))
    candidates = start * (1 + np.arange(1024) / 1024)
    partners = (scale / candidates).astype(np.float16)
    best = int(np.argmin(np.abs(candidates * partners.astype(np.float64) - scale)))
    return np.float16(candidates[best]), partners[best]
