"""The vocabulary as MIL operations, as far as both layouts share it: see ``ane`` and ``gpu``."""

from __future__ import annotations

import functools
import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813

from slmkit.backend.partition import unit_of
from slmkit.backend.static_runner import rope_names
from slmkit.ops import Ops, Rope, Routing, Scan
from slmkit_coreml.contract import mask_name
from slmkit_coreml.lowering.inputs import FunctionSignature
from slmkit_coreml.lowering.kv_cache import CacheWriter
from slmkit_coreml.lowering.moe import expert_weights
from slmkit_coreml.lowering.recurrent_states import RecurrentStates
from slmkit_coreml.lowering.scan import add_skip, convolution, scan_by_head, scan_by_number
from slmkit_coreml.lowering.value import NOT_HERE, Value
from slmkit_coreml.lowering.weights import WeightWriter

TAP = "tap_"  # prefix of the outputs of a debug build; Core ML wants identifiers
Method = TypeVar("Method", bound=Callable[..., Any])


def chunk_op(method: Method) -> Method:
    """Decorator of ops: emit an op only in the chunk that holds its layer.

    In other chunks it returns values that are NOT_HERE. A value that a later chunk reads is noted
    as the output of this one.
    """
    op_signature = inspect.signature(method)

    @functools.wraps(method)
    def emit_in_chunk(self: CoremlOps, *args: Any, **kwargs: Any) -> Any:
        arguments = op_signature.bind(self, *args, **kwargs).arguments
        self.unit = _unit_of_call(method.__name__, arguments, self)
        values = {key: value for key, value in arguments.items() if isinstance(value, Value)}
        chunk = self.signature.chunk
        if self.unit > chunk.last:
            for value in values.values():
                self.send(value)
        if not chunk.first <= self.unit <= chunk.last:
            elsewhere = Value(NOT_HERE, ())
            return (elsewhere,) * len(arguments["widths"]) if "widths" in arguments else elsewhere
        arguments |= {key: self.receive(value) for key, value in values.items()}
        return method(**arguments)

    return emit_in_chunk  # type: ignore[return-value]


def _unit_of_call(op: str, arguments: dict[str, Any], ops: CoremlOps) -> int:
    """The layer (or L, for the head) of an op; an op without a weight has that of the op before."""
    if "layer" in arguments:
        return int(arguments["layer"])
    if op in ("embed", "tap") or "name" not in arguments:
        return ops.unit
    return unit_of(arguments["name"], ops.signature.spec.layers)


class CoremlOps(Ops[Value]):
    """Write one function of one chunk into the builder's current function."""

    def __init__(
        self,
        weights: WeightWriter,
        signature: FunctionSignature,
        inputs: dict[str, Any],
        debug: bool = False,
    ) -> None:
        form = signature.form
        self.weights, self.signature, self.inputs, self.debug = weights, signature, inputs, debug
        self.cache = CacheWriter(
            signature.spec,
            form.layout,
            signature.window,
            form.cache,
            inputs,
            signature.attention_layers,
        )
        self.states = RecurrentStates(signature.model, form.stateful, inputs)
        self.unit = 0
        self.embedding_name = ""  # weight of the table
        self.taps: list[Any] = []
        self.tap_names: dict[str, str] = {}  # output -> tap
        self.incoming: Value | None = None  # the previous chunk's value that this one reads
        self.hidden: Value | None = None  # the same as the input ``hidden``
        self.outgoing: Value | None = None  # the value that the next chunk reads

    def receive(self, value: Value) -> Value:
        """A value in this chunk; one of the previous chunk becomes the input ``hidden``.

        Raises ValueError if there are several.
        """
        if value.parts != NOT_HERE:
            return value
        if self.hidden is None:
            self.incoming = value
            self.hidden = Value((self.inputs["hidden"],), (self.signature.spec.width,))
        if value is not self.incoming:
            raise ValueError("more than one value passes from chunk to chunk")
        return self.hidden

    def send(self, value: Value) -> None:
        """Note the value that a later chunk reads. Raises ValueError if there are several."""
        if value.parts != NOT_HERE:
            if value is not (self.outgoing or value):
                raise ValueError("more than one value passes from chunk to chunk")
            self.outgoing = value

    @abstractmethod
    def channel_axis(self, shape: tuple[int, ...]) -> int:
        """The axis of the last dimension of ``Value.shape`` in the variable."""

    @abstractmethod
    def to_channels_first(self, x: Value) -> Any:
        """A (D,) value as [1, D, 1, T]."""

    @abstractmethod
    def from_channels_first(self, x: Any) -> Any:
        """[1, D, 1, T] in this layout."""

    @abstractmethod
    def look_up(self, name: str, rows: int) -> Any:
        """The embeddings of the input ``ids``, in this layout; a tied head has the same weights."""

    @chunk_op
    def embed(self, name: str, rows: int, width: int) -> Value:
        self.embedding_name = name
        if "embeds" in self.inputs:
            return Value((self.inputs["embeds"],), (width,))
        return Value((self.look_up(name, rows),), (width,))

    @chunk_op
    def rms_norm(self, x: Value, name: str, eps: float) -> Value:
        """RMSNorm as the layer norm of [x, -x], whose mean is 0.

        Its sum of squares cannot overflow float16. eps is float32, as iOS 17's op allows: 1e-6
        would be 1.3 % off in float16.
        """
        axis, variable = self.channel_axis(x.shape), x.variable
        both = mb.concat(values=[variable, mb.mul(x=variable, y=np.float16(-1))], axis=axis)
        normed = mb.layer_norm(x=both, axes=[axis], epsilon=np.float32(eps))
        half = mb.slice_by_size(x=normed, begin=[0] * variable.rank, size=list(variable.shape))
        gain = self.weights.vector(f"{name}.weight", slice(0, None), variable.rank - 1 - axis)
        return Value((mb.mul(x=half, y=gain),), x.shape)

    @chunk_op
    def rope(self, x: Value, rope: Rope) -> Value:
        """Rotate-half rope."""
        number = self.signature.spec.ropes.index(rope)
        cos, sin = (self.inputs[name] for name in rope_names(number))
        axis, half = self.channel_axis(x.shape), rope.width // 2
        widths = [half, half, x.shape[-1] - rope.width]
        a, b, *rest = _split(x.variable, axis, [width for width in widths if width])
        low = mb.sub(x=mb.mul(x=a, y=cos), y=mb.mul(x=b, y=sin))
        high = mb.add(x=mb.mul(x=b, y=cos), y=mb.mul(x=a, y=sin))
        return Value((mb.concat(values=[low, high, *rest], axis=axis),), x.shape)

    @chunk_op
    def split(self, x: Value, widths: Sequence[int]) -> tuple[Value, ...]:
        parts = _split(x.variable, self.channel_axis(x.shape), widths)
        return tuple(Value((part,), (width,)) for part, width in zip(parts, widths, strict=True))

    @chunk_op
    def add(self, x: Value, y: Value) -> Value:
        return Value((mb.add(x=x.variable, y=y.variable),), x.shape)

    @chunk_op
    def mul(self, x: Value, y: Value) -> Value:
        return Value((mb.mul(x=x.variable, y=y.variable),), x.shape)

    @chunk_op
    def scale(self, x: Value, by: float) -> Value:
        return x.map_parts(lambda part: multiply(part, by))

    @chunk_op
    def sigmoid(self, x: Value) -> Value:
        return x.map_parts(lambda part: mb.sigmoid(x=part))

    @chunk_op
    def tanh(self, x: Value) -> Value:
        return x.map_parts(lambda part: mb.tanh(x=part))

    @chunk_op
    def gelu_tanh(self, x: Value) -> Value:
        return x.map_parts(lambda part: mb.gelu(x=part, mode="TANH_APPROXIMATION"))

    @chunk_op
    def route(self, scores: Value, routing: Routing) -> Value:
        axis = self.channel_axis(scores.shape)
        return Value((expert_weights(scores.variable, axis, routing),), scores.shape)

    @chunk_op
    def scale_by_column(self, x: Value, weights: Value, number: int) -> Value:
        axis, variable = self.channel_axis(weights.shape), weights.variable
        begin, size = [0] * variable.rank, list(variable.shape)
        begin[axis], size[axis] = number, 1
        column = mb.slice_by_size(x=variable, begin=begin, size=size)
        return Value((mb.mul(x=x.variable, y=column),), x.shape)

    @chunk_op
    def add_bias(self, x: Value, name: str) -> Value:
        axis, variable = self.channel_axis(x.shape), x.variable
        term = self.weights.vector(name, slice(0, None), variable.rank - 1 - axis)
        return Value((mb.add(x=variable, y=term),), x.shape)

    @chunk_op
    def softplus(self, x: Value) -> Value:
        return x.map_parts(lambda part: mb.softplus(x=part))

    @chunk_op
    def conv(self, x: Value, name: str, kernel: int, layer: int, bias: bool) -> Value:
        weight = self.weights.codes.vector(f"{name}.weight").reshape(-1, kernel)
        state = self.states.read("conv", layer)
        channels = self.to_channels_first(x)
        output, new_state = convolution(channels, weight, state, f"{name}.weight")
        self.states.write("conv", layer, new_state)
        value = Value((self.from_channels_first(output),), x.shape)
        return self.add_bias(value, f"{name}.bias") if bias else value

    @chunk_op
    def scan(self, x: Value, step: Value, b: Value, c: Value, layer: int, kind: Scan) -> Value:
        label = f"{kind.at}.A_log"
        rate = self.weights.codes.vector(label)
        x_in, step_in, b_in, c_in = (self.to_channels_first(value) for value in (x, step, b, c))
        state = self.states.read("scan", layer)
        if kind.by_number:
            rate = rate.reshape(kind.heads, kind.state)
            output, new_state = scan_by_number(x_in, step_in, b_in, c_in, rate, state, label)
        else:
            output, new_state = scan_by_head(x_in, step_in, b_in, c_in, rate, state, label)
        self.states.write("scan", layer, new_state)
        skip = np.repeat(self.weights.codes.vector(f"{kind.at}.D"), x.shape[0] // kind.heads)
        output = add_skip(x_in, output, skip, f"{kind.at}.D")
        return Value((self.from_channels_first(output),), x.shape)

    @chunk_op
    def tap(self, x: Value, name: str) -> Value:
        if self.debug:
            output = TAP + identifier(name)
            self.taps.append(mb.identity(x=x.variable, name=output))
            self.tap_names[output] = name
        return x

    def mask(self, window: int | None) -> Any:
        """The mask of layers with this sliding window."""
        return self.inputs[mask_name(window)]


def identifier(name: str) -> str:
    """A weight's name as a Core ML identifier."""
    return name.replace(".", "_")


def _split(x: Any, axis: int, widths: Sequence[int]) -> list[Any]:
    """Split a variable along an axis into parts of these widths."""
    parts, first = [], 0
    for width in widths:
        begin, size = [0] * x.rank, list(x.shape)
        begin[axis], size[axis] = first, width
        parts.append(mb.slice_by_size(x=x, begin=begin, size=size))
        first += width
    return parts


def multiply(x: Any, by: float) -> Any:
    """x * by; a factor that float16 cannot hold is applied as two factors, exact to 1e-6."""
    factors = [np.float16(by)] if float(np.float16(by)) == by else list(scale_factors(by))
    for factor in factors:
        x = mb.mul(x=x, y=factor)
    return x


def scale_factors(scale: float) -> tuple[np.float16, np.float16]:
    """Two float16 numbers whose product is the scale, to 1e-6.

    1 / sqrt(d) is no float16 number for d = 32 or 128: a single one would be 1e-4 off.
    """
    start = np.float16(2.0 ** math.floor(math.log2(math.sqrt(scale))))
    candidates = start * (1 + np.arange(1024) / 1024)
    partners = (scale / candidates).astype(np.float16)
    best = int(np.argmin(np.abs(candidates * partners.astype(np.float64) - scale)))
    return np.float16(candidates[best]), partners[best]
