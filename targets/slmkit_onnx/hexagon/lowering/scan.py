"""Causal convolutions and selective scans of a whole chunk, in forms exact enough on HTP.

The sums of a scan differ a hundredfold from token to token and from channel to channel: 16-bit
integers of one scale kept 41 to 57 dB of a state, and 15 to 36 dB of tiny models' logits. So steps,
scans and what is computed from them are ``unquantized``: float16 on HTP. There 1 - loss keeps the
digits of a slow decay that e^x would lose.

Chunks are never padded: a padding token would enter the state like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray

from slmkit.ops import Floats
from slmkit_onnx.hexagon.contract import state_names, state_shape
from slmkit_onnx.hexagon.lowering.encodings import symmetric
from slmkit_onnx.hexagon.lowering.static_graph import Shape, StaticGraphs, Value

MIN_EXPONENT = -30.0  # e^-30 is 0 in float16; below -88 HTP's Exp gives -131072
LONG_STEP = 1000.0  # a step after which nothing of a state is left
# log(1 + z) = z * LOG1P_SERIES(z) to 3e-7 for z up to 1
LOG1P_SERIES = Chebyshev.interpolate(lambda z: np.log1p(z) / z, 7, domain=[0, 1]).convert(
    kind=Polynomial
)


@dataclass
class ScanWriter:
    """Write convolutions and scans, with their states as inputs and outputs of the graph.

    ``at`` prefixes the names of an operation's tensors.
    """

    graphs: StaticGraphs

    def softplus(self, x: Value, at: str) -> Value:
        """max(x, 0) + log(1 + z), z = e^-|x|. HTP's own Softplus gives 29 to 46 dB, its Div 65."""
        size = self._float("Abs", [x], f"{at}.size", x.shape)
        minus = self._float("Neg", [size], f"{at}.minus", x.shape)
        z = self._bounded_exp(minus, f"{at}.exp")
        first, *rest, last = LOG1P_SERIES.coef.tolist()
        total = self._multiply(z, last, f"{at}.power.{len(rest) + 1}")
        for power, coefficient in zip(range(len(rest), 0, -1), reversed(rest), strict=True):
            total = self._add(total, coefficient, f"{at}.sum.{power}")
            total = self._float("Mul", [total, z], f"{at}.power.{power}", x.shape)
        total = self._add(total, first, f"{at}.sum.0")
        total = self._float("Mul", [total, z], f"{at}.logarithm", x.shape)
        positive = self._float("Relu", [x], f"{at}.positive", x.shape)
        return self._float("Add", [positive, total], at, x.shape)

    def convolution(self, x: Value, weight: Floats, layer: int, at: str) -> Value:
        """Causal depthwise convolution. [1, T, D], (D, K) -> [1, T, D]

        The K inputs of each output are gathered, multiplied by the weights and summed: 76 dB; HTP's
        Conv gives 70. The host's int16 and uint16 around 32768 are the same numbers; only with
        uint16 does HTP multiply in integers.
        """
        graphs, (_, tokens, width), kernel = self.graphs, x.shape, weight.shape[1]
        ranges, (past, new) = graphs.ranges, state_names("conv", layer)
        host_encoding = None if ranges is None else symmetric(ranges[x.range_key])
        encoding = None if ranges is None else symmetric(ranges[x.range_key], "uint16")
        shape = state_shape("conv", (width, kernel - 1))
        state = graphs.input(past, shape, host_encoding, True)
        state = graphs.requantize(state, f"{past}.centered", encoding)
        new_inputs = graphs.requantize(x, f"{at}.now", encoding)
        length = kernel - 1 + tokens
        line_shape = (1, length, width)
        line = graphs.op(
            "Concat", [state, new_inputs], f"{at}.line", line_shape, new_inputs, axis=1
        )
        new_state = self._slice_tokens(line, tokens, length)
        graphs.quantized_output(new_state, new, host_encoding)
        positions = np.arange(tokens)[:, None] + np.arange(kernel)
        neighbours = self._gather_tokens(line, positions, f"{at}.near")
        kernel_first = np.ascontiguousarray(weight.T)[None, None]
        factors = [neighbours, graphs.constant(f"{at}.weight", kernel_first)]
        products = graphs.op("Mul", factors, f"{at}.products", neighbours.shape)
        axes = graphs.graph.constant("axes.2", [2])
        return graphs.op("ReduceSum", [products, axes], at, x.shape, keepdims=0)

    def scan_by_number(
        self, x: Value, step: Value, b: Value, c: Value, rate: Floats, layer: int, at: str
    ) -> Value:
        """Scan with a decay per number of the state.

        x and step [1, T, D], b and c [1, T, N], rate (D, N) -> [1, T, D]
        """
        graphs, (_, tokens, width), size = self.graphs, x.shape, b.shape[-1]
        row, column, full = (1, tokens, 1, width), (1, tokens, size, 1), (1, tokens, size, width)
        rate = np.ascontiguousarray(rate.T)[None, None]
        step_times_x = self._float("Mul", [step, x], f"{at}.weighed", x.shape)
        factors = [graphs.reshape(step_times_x, row), graphs.reshape(b, column)]
        gain = self._float("Mul", factors, f"{at}.gain", full)
        past = self._read_state(layer, (1, size, width))
        state, step = graphs.reshape(past, (1, 1, size, width)), graphs.reshape(step, row)
        loss = self._one_minus_exp(self._slice_tokens(step, 0, 1), rate, at, state.shape)
        decayed = self._subtract_fraction(state, loss, f"{at}.held", state.shape)
        states = self._prefix_scan(gain, decayed, step, rate, at)
        last = self._slice_tokens(states, tokens - 1, tokens)
        self._write_state(graphs.reshape(last, past.shape), layer)
        query = graphs.reshape(c, (1, tokens, 1, size))
        output = self._float("MatMul", [query, states], f"{at}.given", row)
        return graphs.reshape(output, x.shape)

    def _prefix_scan(
        self, gain: Value, decayed: Value, step: Value, rate: Floats, at: str
    ) -> Value:
        """The states after each token: s[t] = decay[t] * s[t - 1] + gain[t].

        gain [1, T, N, D], the past state after the first token's decay [1, 1, N, D],
        step [1, T, 1, D], rate (1, 1, N, D) -> [1, T, N, D]. Each state is combined with those
        1, 2, 4, ... tokens before (Hillis and Steele 1986). The decay over several tokens is
        computed from the sum of their steps, not as a product of their decays.
        """
        shape, tokens = gain.shape, gain.shape[1]
        if tokens == 1:
            return self._float("Add", [gain, decayed], f"{at}.states.1", shape)
        first = np.zeros((1, tokens, 1, 1), np.float32)
        first[0, 0] = 1
        mask = self.graphs.constant(f"first.{tokens}", first, unquantized=True)
        entered = self._float("Mul", [decayed, mask], f"{at}.entered", shape)
        states = self._float("Add", [gain, entered], f"{at}.states.1", shape)
        # Nothing precedes the first token: a long step makes what is gathered there decay to 0.
        long_steps = self.graphs.constant(f"ages.{tokens}", first * LONG_STEP, unquantized=True)
        steps = self._float("Add", [step, long_steps], f"{at}.steps.1", step.shape)
        rates = self.graphs.constant(f"{at}.rate", rate, unquantized=True)
        distance = 1
        while distance < tokens:
            positions = np.maximum(np.arange(tokens) - distance, 0)
            name = f"{at}.states.{2 * distance}"
            exponent = self._float("Mul", [steps, rates], f"{name}.exponent", shape)
            decay = self._bounded_exp(exponent, f"{name}.left")
            earlier = self._gather_tokens(states, positions, f"{name}.earlier")
            decayed = self._float("Mul", [earlier, decay], f"{name}.held", shape)
            states = self._float("Add", [states, decayed], name, shape)
            if 2 * distance < tokens:
                name = f"{at}.steps.{distance}.earlier"
                earlier_steps = self._gather_tokens(steps, positions, name)
                terms = [steps, earlier_steps]
                steps = self._float("Add", terms, f"{at}.steps.{2 * distance}", step.shape)
            distance *= 2
        return states

    def scan_by_head(
        self, x: Value, step: Value, b: Value, c: Value, rate: Floats, layer: int, at: str
    ) -> Value:
        """Scan with one decay per head. x [1, T, H * P], step [1, T, H], b, c [1, T, N], rate (H,)

        Returns [1, T, H * P]: what each token reads of the chunk's tokens plus of the past state.
        """
        graphs, (_, tokens, heads), size = self.graphs, step.shape, b.shape[-1]
        flat, width = x.shape, x.shape[-1] // heads
        by_head, per_head = (1, tokens, heads, width), (1, tokens, heads, 1)
        state_by_head = (1, size, heads, width)
        factors = [graphs.reshape(x, by_head), graphs.reshape(step, per_head)]
        step_times_x = self._float("Mul", factors, f"{at}.weighed", by_head)
        past = self._read_state(layer, (1, size, flat[-1]))
        if tokens == 1:
            loss = self._one_minus_exp(step, rate, at, step.shape)
            loss = graphs.reshape(loss, per_head)
            past_by_head = graphs.reshape(past, state_by_head)
            decayed = self._subtract_fraction(past_by_head, loss, f"{at}.held", state_by_head)
            gains = step_times_x
        else:
            past_decay, decay = self._decay_matrix(step, rate, at)
            total_decay = self._slice_tokens(past_decay, tokens - 1, tokens)
            factors = [graphs.reshape(past, state_by_head), total_decay]
            decayed = self._float("Mul", factors, f"{at}.held", state_by_head)
            last = self._slice_tokens(decay, tokens - 1, tokens, 3)
            last = graphs.transpose(last, (0, 2, 1, 3))
            gains = self._float("Mul", [step_times_x, last], f"{at}.gains", by_head)
        pair = [graphs.transpose(b, (0, 2, 1)), graphs.reshape(gains, flat)]
        gained = self._float("MatMul", pair, f"{at}.gained", past.shape)
        terms = [graphs.reshape(decayed, past.shape), gained]
        new_state = self._float("Add", terms, f"{at}.states", past.shape)
        self._write_state(new_state, layer)
        if tokens == 1:
            return self._float("MatMul", [c, new_state], f"{at}.given", flat)
        from_past = self._float("MatMul", [c, past], f"{at}.before", flat)
        factors = [graphs.reshape(from_past, by_head), past_decay]
        from_past = self._float("Mul", factors, f"{at}.old", by_head)
        from_chunk = self._read_chunk(decay, step_times_x, b, c, at)
        total = self._float("Add", [from_chunk, from_past], f"{at}.given", by_head)
        return graphs.reshape(total, flat)

    def _decay_matrix(self, step: Value, rate: Floats, at: str) -> tuple[Value, Value]:
        """Decay of the past state until each token, and of token s's gain until each token t.

        [1, T, H] -> [1, T, H, 1], [1, H, s, t]; 1 where t lies before s. The decay of gain s until
        t is exp(sum of step * rate from s + 1 to t): a triangle, as in attention (Dao and Gu 2024,
        section 6). Each sum is computed by itself: a difference of two prefix sums would keep the
        rounding of both.
        """
        graphs, (_, tokens, heads) = self.graphs, step.shape
        square = (1, heads, tokens + 1, tokens)
        upper = np.triu(np.ones((tokens + 1, tokens), np.float32))
        later = graphs.constant(f"later.{tokens}", upper[None, None], unquantized=True)
        until = graphs.constant(f"until.{tokens}", upper[:tokens], unquantized=True)
        rates = graphs.constant(f"{at}.rate", rate, unquantized=True)
        exponent = self._float("Mul", [step, rates], f"{at}.exponent", step.shape)
        by_head = graphs.transpose(exponent, (0, 2, 1))
        by_head = graphs.reshape(by_head, (1, heads, 1, tokens))
        later_steps = self._float("Mul", [by_head, later], f"{at}.after", square)
        sums = self._float("MatMul", [later_steps, until], f"{at}.total", square)
        decay = self._bounded_exp(sums, f"{at}.left")
        of_past, of_gains = graphs.split(decay, (1, tokens), f"{at}.left", 2)
        return graphs.transpose(of_past, (0, 3, 1, 2)), of_gains

    def _read_chunk(self, decay: Value, step_times_x: Value, b: Value, c: Value, at: str) -> Value:
        """The sum that each token reads of the chunk's tokens up to itself. -> [1, T, H, P]"""
        graphs, (_, tokens, heads, width) = self.graphs, step_times_x.shape
        square = (1, tokens, tokens)
        products = [b, graphs.transpose(c, (0, 2, 1))]
        scores = self._float("MatMul", products, f"{at}.met", square)
        upper = np.triu(np.ones((tokens, tokens), np.float32))
        mask = graphs.constant(f"until.{tokens}", upper, unquantized=True)
        causal = self._float("Mul", [scores, mask], f"{at}.past", square)
        pair = [decay, graphs.reshape(causal, (1, *square))]
        weights = self._float("Mul", pair, f"{at}.shares", decay.shape)
        pair = [graphs.transpose(step_times_x, (0, 2, 3, 1)), weights]
        output = self._float("MatMul", pair, f"{at}.seen", (1, heads, width, tokens))
        return graphs.transpose(output, (0, 3, 1, 2))

    def _bounded_exp(self, exponent: Value, name: str) -> Value:
        """e^x for x <= 0; x is bounded below, because HTP's Exp is wrong for large negative x."""
        bound = np.array([MIN_EXPONENT], np.float32)
        least = self.graphs.constant("number.faded", bound, unquantized=True)
        bounded = self._float("Max", [exponent, least], f"{name}.bounded", exponent.shape)
        return self._float("Exp", [bounded], name, exponent.shape)

    def _one_minus_exp(self, step: Value, rate: Floats, at: str, shape: Shape) -> Value:
        """1 - e^x for x = step * rate, as 2 t / (1 + t) with t = tanh(-x / 2)."""
        half_rate = rate * np.float32(-0.5)
        half_rates = self.graphs.constant(f"{at}.half", half_rate, unquantized=True)
        half = self._float("Mul", [step, half_rates], f"{at}.halves", shape)
        tangent = self._float("Tanh", [half], f"{at}.tanh", shape)
        numerator = self._multiply(tangent, 2.0, f"{at}.twice")
        denominator = self._add(tangent, 1.0, f"{at}.more")
        return self._float("Div", [numerator, denominator], f"{at}.loss", shape)

    def _subtract_fraction(self, x: Value, fraction: Value, name: str, shape: Shape) -> Value:
        """x - fraction * x"""
        lost = self._float("Mul", [x, fraction], f"{name}.lost", shape)
        return self._float("Sub", [x, lost], name, shape)

    def _read_state(self, layer: int, shape: Shape) -> Value:
        """The past state of a scan, from the host."""
        return self.graphs.input(state_names("scan", layer)[0], shape, None)

    def _write_state(self, state: Value, layer: int) -> None:
        """Return the new state of a scan to the host."""
        self.graphs.float_output(state, state_names("scan", layer)[1])

    def _float(
        self, op: str, inputs: Sequence[Value | str], name: str, shape: Shape, **attributes: Any
    ) -> Value:
        """An unquantized op."""
        return self.graphs.op(op, inputs, name, shape, unquantized=True, **attributes)

    def _multiply(self, x: Value, factor: float, name: str) -> Value:
        return self._float("Mul", [x, self._number(factor)], name, x.shape)

    def _add(self, x: Value, term: float, name: str) -> Value:
        return self._float("Add", [x, self._number(term)], name, x.shape)

    def _number(self, value: float) -> Value:
        array = np.array([value], np.float32)
        return self.graphs.constant(f"number.{value:.9g}", array, unquantized=True)

    def _slice_tokens(self, x: Value, first: int, end: int, axis: int = 1) -> Value:
        """Tokens ``first`` to ``end`` - 1; the encoding is unchanged."""
        if (first, end) == (0, x.shape[axis]):
            return x
        ends = (("start", first), ("end", end), ("axis", axis))
        bounds = [self.graphs.graph.constant(f"cut.{name}.{at}", [at]) for name, at in ends]
        shape = (*x.shape[:axis], end - first, *x.shape[axis + 1 :])
        return self.graphs.op("Slice", [x, *bounds], f"{x.name}.{first}.{end}", shape, like=x)

    def _gather_tokens(self, x: Value, positions: NDArray[np.int64], name: str) -> Value:
        """Tokens at the positions, in their shape; the encoding is unchanged."""
        label = f"places.{'x'.join(map(str, positions.shape))}.{positions.flat[-1]}"
        indices = self.graphs.graph.constant(label, positions)
        shape = (1, *positions.shape, *x.shape[2:])
        return self.graphs.op("Gather", [x, indices], name, shape, like=x, axis=1)
