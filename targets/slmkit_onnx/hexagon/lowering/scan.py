"""Layers that scan, all tokens of a chunk at once, in the forms that HTP computes exactly enough.

What a scan adds up differs a hundredfold from token to token and from channel to channel: 16-bit
integers of one scale kept 41 to 57 dB of a state, and 15 to 36 dB of tiny models' logits. So steps,
scans and what is made of them are ``real``, float16 on HTP. There 1 - loss keeps of a slow decay
what e^x would lose.

Chunks are whole: a token that only fills a chunk up would go into the state like any other.
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
from slmkit_onnx.hexagon.lowering.static_graph import StaticGraphs, Value

Shape = tuple[int, ...]
FADED = -30.0  # e^-30 is 0 in float16; below -88 HTP's Exp gives -131072
AGES = 1000.0  # a step after which nothing is left
# log(1 + z) = z * SERIES(z) to 3e-7 for z up to 1
SERIES = Chebyshev.interpolate(lambda z: np.log1p(z) / z, 7, domain=[0, 1]).convert(kind=Polynomial)


@dataclass
class ScanWriter:
    """Writes convolutions and scans, and the states that pass between them and the host."""

    graphs: StaticGraphs

    def softplus(self, x: Value, at: str) -> Value:
        """max(x, 0) + log(1 + z), z = e^-|x|. HTP's own Softplus gives 29 to 46 dB, its Div 65."""
        size = self._real("Abs", [x], f"{at}.size", x.shape)
        minus = self._real("Neg", [size], f"{at}.minus", x.shape)
        z = self._left(minus, f"{at}.exp")
        first, *rest, last = SERIES.coef.tolist()
        total = self._times(z, last, f"{at}.power.{len(rest) + 1}")
        for power, number in zip(range(len(rest), 0, -1), reversed(rest), strict=True):
            total = self._plus(total, number, f"{at}.sum.{power}")
            total = self._real("Mul", [total, z], f"{at}.power.{power}", x.shape)
        total = self._plus(total, first, f"{at}.sum.0")
        total = self._real("Mul", [total, z], f"{at}.logarithm", x.shape)
        positive = self._real("Relu", [x], f"{at}.positive", x.shape)
        return self._real("Add", [positive, total], at, x.shape)

    def convolved(self, x: Value, weight: Floats, layer: int, at: str) -> Value:
        """Causal, each channel by itself. [1, T, D], (D, K) -> [1, T, D]

        The K tokens that a place reads, side by side, times weights, summed: 76 dB; HTP's Conv
        gives 70. The host's int16 and uint16 around 32768 are the same numbers; only with uint16
        does HTP multiply in integers.
        """
        graphs, (_, tokens, width), kernel = self.graphs, x.shape, weight.shape[1]
        ranges, (past, new) = graphs.ranges, state_names("conv", layer)
        host = None if ranges is None else symmetric(ranges[x.key])
        grid = None if ranges is None else symmetric(ranges[x.key], "uint16")
        shape = state_shape("conv", (width, kernel - 1))
        before = graphs.regridded(graphs.input(past, shape, host, True), f"{past}.centered", grid)
        now = graphs.regridded(x, f"{at}.now", grid)
        length = kernel - 1 + tokens
        line = graphs.op("Concat", [before, now], f"{at}.line", (1, length, width), now, axis=1)
        graphs.stored(self._tokens(line, tokens, length), new, host)
        places = np.arange(tokens)[:, None] + np.arange(kernel)
        near = self._gathered(line, places, f"{at}.near")
        turned = np.ascontiguousarray(weight.T)[None, None]
        factors = [near, graphs.constant(f"{at}.weight", turned)]
        product = graphs.op("Mul", factors, f"{at}.products", near.shape)
        axes = graphs.graph.constant("axes.2", [2])
        return graphs.op("ReduceSum", [product, axes], at, x.shape, keepdims=0)

    def scanned_by_number(
        self, x: Value, step: Value, b: Value, c: Value, decay: Floats, layer: int, at: str
    ) -> Value:
        """Each number of the state fades by itself. [1, T, D] twice, [1, T, N] twice, (D, N)"""
        graphs, (_, tokens, width), size = self.graphs, x.shape, b.shape[-1]
        row, column, whole = (1, tokens, 1, width), (1, tokens, size, 1), (1, tokens, size, width)
        decay = np.ascontiguousarray(decay.T)[None, None]
        weighed = self._real("Mul", [step, x], f"{at}.weighed", x.shape)
        factors = [graphs.reshaped(weighed, row), graphs.reshaped(b, column)]
        gain = self._real("Mul", factors, f"{at}.gain", whole)
        past = self._past(layer, (1, size, width))
        before, step = graphs.reshaped(past, (1, 1, size, width)), graphs.reshaped(step, row)
        loss = self._loss(self._tokens(step, 0, 1), decay, at, before.shape)
        held = self._less(before, loss, f"{at}.held", before.shape)
        states = self._joined(gain, held, step, decay, at)
        last = self._tokens(states, tokens - 1, tokens)
        self._keep(graphs.reshaped(last, past.shape), layer)
        query = graphs.reshaped(c, (1, tokens, 1, size))
        given = self._real("MatMul", [query, states], f"{at}.given", row)
        return graphs.reshaped(given, x.shape)

    def _joined(self, gain: Value, held: Value, step: Value, decay: Floats, at: str) -> Value:
        """The states after each token. [1, T, N, D], [1, 1, N, D], [1, T, 1, D], (1, 1, N, D)

        s[t] = fading[t] * s[t - 1] + gain[t] is joined with what lies 1, 2, 4, ... tokens before
        (Hillis and Steele 1986). What is left over so many tokens is made from the sum of their
        steps, and not from the product of what is left over each.
        """
        shape, tokens = gain.shape, gain.shape[1]
        if tokens == 1:
            return self._real("Add", [gain, held], f"{at}.states.1", shape)
        first = np.zeros((1, tokens, 1, 1), np.float32)
        first[0, 0] = 1
        mask = self.graphs.constant(f"first.{tokens}", first, real=True)
        entered = self._real("Mul", [held, mask], f"{at}.entered", shape)
        states = self._real("Add", [gain, entered], f"{at}.states.1", shape)
        # Nothing lies before the first token any more: whatever is read there has faded.
        ages = self.graphs.constant(f"ages.{tokens}", first * AGES, real=True)
        steps = self._real("Add", [step, ages], f"{at}.steps.1", step.shape)
        rate = self.graphs.constant(f"{at}.rate", decay, real=True)
        distance = 1
        while distance < tokens:
            places = np.maximum(np.arange(tokens) - distance, 0)
            name = f"{at}.states.{2 * distance}"
            exponent = self._real("Mul", [steps, rate], f"{name}.exponent", shape)
            left = self._left(exponent, f"{name}.left")
            earlier = self._gathered(states, places, f"{name}.earlier")
            held = self._real("Mul", [earlier, left], f"{name}.held", shape)
            states = self._real("Add", [states, held], name, shape)
            if 2 * distance < tokens:
                more = self._gathered(steps, places, f"{at}.steps.{distance}.earlier")
                steps = self._real("Add", [steps, more], f"{at}.steps.{2 * distance}", step.shape)
            distance *= 2
        return states

    def scanned_by_head(
        self, x: Value, step: Value, b: Value, c: Value, decay: Floats, layer: int, at: str
    ) -> Value:
        """A head's state fades as a whole. [1, T, H * P], [1, T, H], [1, T, N] twice, (H,)"""
        graphs, (_, tokens, heads), size = self.graphs, step.shape, b.shape[-1]
        flat, share = x.shape, x.shape[-1] // heads
        apart, one_each, split = (
            (1, tokens, heads, share),
            (1, tokens, heads, 1),
            (1, size, heads, share),
        )
        factors = [graphs.reshaped(x, apart), graphs.reshaped(step, one_each)]
        weighed = self._real("Mul", factors, f"{at}.weighed", apart)
        past = self._past(layer, (1, size, flat[-1]))
        if tokens == 1:
            loss = graphs.reshaped(self._loss(step, decay, at, step.shape), one_each)
            held = self._less(graphs.reshaped(past, split), loss, f"{at}.held", split)
            gains = weighed
        else:
            reach, left = self._triangle(step, decay, at)
            whole = self._tokens(reach, tokens - 1, tokens)
            held = self._real("Mul", [graphs.reshaped(past, split), whole], f"{at}.held", split)
            last = graphs.turned(self._tokens(left, tokens - 1, tokens, 3), (0, 2, 1, 3))
            gains = self._real("Mul", [weighed, last], f"{at}.gains", apart)
        pair = [graphs.turned(b, (0, 2, 1)), graphs.reshaped(gains, flat)]
        gained = self._real("MatMul", pair, f"{at}.gained", past.shape)
        terms = [graphs.reshaped(held, past.shape), gained]
        states = self._real("Add", terms, f"{at}.states", past.shape)
        self._keep(states, layer)
        if tokens == 1:
            return self._real("MatMul", [c, states], f"{at}.given", flat)
        before = self._real("MatMul", [c, past], f"{at}.before", flat)
        old = self._real("Mul", [graphs.reshaped(before, apart), reach], f"{at}.old", apart)
        new = self._seen(left, weighed, b, c, at)
        return graphs.reshaped(self._real("Add", [new, old], f"{at}.given", apart), flat)

    def _triangle(self, step: Value, decay: Floats, at: str) -> tuple[Value, Value]:
        """What is left after each token: of the state before, of each token's gain.

        [1, T, H] -> [1, T, H, 1], [1, H, s, t]; 1 where t lies before s. What token s gave is there
        at t as exp(sum of step * A from s + 1 to t): a triangle, as in attention (Dao and Gu 2024,
        section 6). Each sum is made by itself: a difference of two keeps the rounding of both.
        """
        graphs, (_, tokens, heads) = self.graphs, step.shape
        square = (1, heads, tokens + 1, tokens)
        upper = np.triu(np.ones((tokens + 1, tokens), np.float32))
        later = graphs.constant(f"later.{tokens}", upper[None, None], real=True)
        until = graphs.constant(f"until.{tokens}", upper[:tokens], real=True)
        rate = graphs.constant(f"{at}.rate", decay, real=True)
        exponent = self._real("Mul", [step, rate], f"{at}.exponent", step.shape)
        turned = graphs.reshaped(graphs.turned(exponent, (0, 2, 1)), (1, heads, 1, tokens))
        after = self._real("Mul", [turned, later], f"{at}.after", square)
        total = self._real("MatMul", [after, until], f"{at}.total", square)
        left = self._left(total, f"{at}.left")
        first, rest = graphs.apart(left, (1, tokens), f"{at}.left", 2)
        return graphs.turned(first, (0, 3, 1, 2)), rest

    def _seen(self, left: Value, weighed: Value, b: Value, c: Value, at: str) -> Value:
        """What the tokens see of those in the chunk. -> [1, T, H, P]"""
        graphs, (_, tokens, heads, share) = self.graphs, weighed.shape
        square = (1, tokens, tokens)
        met = self._real("MatMul", [b, graphs.turned(c, (0, 2, 1))], f"{at}.met", square)
        upper = np.triu(np.ones((tokens, tokens), np.float32))
        mask = graphs.constant(f"until.{tokens}", upper, real=True)
        past = self._real("Mul", [met, mask], f"{at}.past", square)
        pair = [left, graphs.reshaped(past, (1, *square))]
        shares = self._real("Mul", pair, f"{at}.shares", left.shape)
        pair = [graphs.turned(weighed, (0, 2, 3, 1)), shares]
        seen = self._real("MatMul", pair, f"{at}.seen", (1, heads, share, tokens))
        return graphs.turned(seen, (0, 3, 1, 2))

    def _left(self, exponent: Value, name: str) -> Value:
        """e^x for x of 0 or less; HTP's Exp is wrong far below."""
        most = self.graphs.constant("number.faded", np.array([FADED], np.float32), real=True)
        held = self._real("Max", [exponent, most], f"{name}.bounded", exponent.shape)
        return self._real("Exp", [held], name, exponent.shape)

    def _loss(self, step: Value, decay: Floats, at: str, shape: Shape) -> Value:
        """1 - e^x for x = step * decay, as 2 t / (1 + t) with t = tanh(-x / 2)."""
        rate = self.graphs.constant(f"{at}.half", decay * np.float32(-0.5), real=True)
        half = self._real("Mul", [step, rate], f"{at}.halves", shape)
        tangent = self._real("Tanh", [half], f"{at}.tanh", shape)
        pair = self._times(tangent, 2.0, f"{at}.twice"), self._plus(tangent, 1.0, f"{at}.more")
        return self._real("Div", pair, f"{at}.loss", shape)

    def _less(self, x: Value, loss: Value, name: str, shape: Shape) -> Value:
        """x - loss * x"""
        lost = self._real("Mul", [x, loss], f"{name}.lost", shape)
        return self._real("Sub", [x, lost], name, shape)

    def _past(self, layer: int, shape: Shape) -> Value:
        """A scan's state, from the host."""
        return self.graphs.input(state_names("scan", layer)[0], shape, None)

    def _keep(self, state: Value, layer: int) -> None:
        """A scan's state, to the host."""
        self.graphs.final(state, state_names("scan", layer)[1])

    def _real(
        self, op: str, inputs: Sequence[Value | str], name: str, shape: Shape, **facts: Any
    ) -> Value:
        return self.graphs.op(op, inputs, name, shape, real=True, **facts)

    def _times(self, x: Value, by: float, name: str) -> Value:
        factor = self.graphs.constant(f"number.{by:.9g}", np.array([by], np.float32), real=True)
        return self._real("Mul", [x, factor], name, x.shape)

    def _plus(self, x: Value, term: float, name: str) -> Value:
        other = self.graphs.constant(f"number.{term:.9g}", np.array([term], np.float32), real=True)
        return self._real("Add", [x, other], name, x.shape)

    def _tokens(self, x: Value, first: int, end: int, axis: int = 1) -> Value:
        """Some of the tokens; the same numbers."""
        if (first, end) == (0, x.shape[axis]):
            return x
        ends = (("start", first), ("end", end), ("axis", axis))
        bounds = [self.graphs.graph.constant(f"cut.{name}.{at}", [at]) for name, at in ends]
        shape = (*x.shape[:axis], end - first, *x.shape[axis + 1 :])
        return self.graphs.op("Slice", [x, *bounds], f"{x.name}.{first}.{end}", shape, like=x)

    def _gathered(self, x: Value, places: NDArray[np.int64], name: str) -> Value:
        """The tokens at some places; the same numbers."""
        label = f"places.{'x'.join(map(str, places.shape))}.{places.flat[-1]}"
        rows = self.graphs.graph.constant(label, places)
        shape = (1, *places.shape, *x.shape[2:])
        return self.graphs.op("Gather", [x, rows], name, shape, like=x, axis=1)
