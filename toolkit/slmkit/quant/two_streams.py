"""Two streams: an interpreter that runs the float and the quantized model side by side.

Values are lazy. A value is computed for a batch of texts when it is asked for, in either stream, by
the reference; only what is far from the last kept value is kept, in files. So a model whose
activations on all calibration text would fill the memory needs that of one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.interpreters.reference import Cache, Ids, Reference, Weights
from slmkit.ops import Attention, Expert, Floats, Ops, Projection, Rope, Routing, Scan

FLOAT, QUANTIZED = 0, 1  # the streams
BATCH = 2048  # tokens that are computed at once
Make = Callable[[int, int], Any]  # (batch, stream) -> the value's numbers


class Value:
    """A value of both streams, on demand."""

    def __init__(self, owner: TwoStreams, make: Make, cheap: bool = False) -> None:
        self.owner, self.cheap = owner, cheap
        self.make = make
        self.files: dict[tuple[int, int], Path] = {}
        self.kept = False

    def at(self, batch: int, stream: int) -> Any:
        """The numbers of a batch of texts, float32."""
        key = (batch, stream)
        if key in self.files:
            return np.load(self.files[key], mmap_mode="r")
        memo = self.owner.memo
        if (self, *key) in memo:
            return memo[self, *key]
        found = memo[self, *key] = self.make(batch, stream)
        if self.kept:
            self._write(key, found)
        return found

    def keep(self) -> Value:
        """Write each batch to a file when it is computed."""
        self.kept = not self.cheap
        return self

    def _write(self, key: tuple[int, int], numbers: Floats) -> None:
        self.files[key] = self.owner.new_file()
        np.save(self.files[key], numbers)
        if len(self.files) == 2 * len(self.owner.batches):
            self.make = _never  # the values that it was made from are not needed any more

    def __del__(self) -> None:
        for path in self.files.values():
            path.unlink(missing_ok=True)


def _never(batch: int, stream: int) -> Any:
    raise RuntimeError("every batch is in a file")


class TwoStreams(Ops[Value]):
    """Ops on lazy values. ``fit`` sees each group of linears before their outputs exist.

    ``weights``: of the float stream and of the quantized one, which ``fit`` extends; ``texts``:
    token ids (T,); ``folder``: for files of values.
    """

    def __init__(
        self, weights: tuple[Weights, Weights], texts: Sequence[Ids], folder: Path
    ) -> None:
        self.weights, self.folder = weights, folder
        self.batches = batches_of(texts)
        self.memo: dict[tuple[Value, int, int], Any] = {}
        self.stream: Value | None = None  # the residual stream
        self.files = 0

    def fit(self, x: Value, projections: Sequence[Projection]) -> None:
        """Give the quantized stream the weights of linears that read ``x``."""
        raise NotImplementedError

    def new_file(self) -> Path:
        """A path for the numbers of one batch."""
        self.files += 1
        return self.folder / f"{self.files}.npy"

    def op(self, name: str, inputs: Sequence[Value], *facts: Any, cheap: bool = False) -> Value:
        """An op of the reference, on the inputs' numbers."""

        def make(batch: int, stream: int) -> Any:
            texts = self.batches[batch]
            reference = Reference(self.weights[stream], texts, [Cache() for _ in texts])
            return getattr(reference, name)(*(each.at(batch, stream) for each in inputs), *facts)

        return Value(self, make, cheap)

    def embed(self, name: str, rows: int, width: int) -> Value:
        self.stream = self.op("embed", (), name, rows, width, cheap=True)
        return self.stream

    def linear(self, x: Value, name: str, width: int, bias: bool = False) -> Value:
        self.fit(x, [Projection(name, width, bias)])
        return self.op("linear", (x,), name, width, bias)

    def linears(self, x: Value, projections: Sequence[Projection]) -> tuple[Value, ...]:
        self.fit(x, projections)
        return super().linears(x, projections)

    def rms_norm(self, x: Value, name: str, eps: float) -> Value:
        return self.op("rms_norm", (x,), name, eps, cheap=True)

    def add_norm(self, x: Value, y: Value, name: str, eps: float) -> tuple[Value, Value]:
        self.stream, normed = super().add_norm(x, y, name, eps)
        return self.stream, normed

    def split(self, x: Value, widths: Sequence[int]) -> tuple[Value, ...]:
        whole = self.op("split", (x,), widths)

        def part(number: int) -> Value:
            return Value(self, lambda batch, stream: whole.at(batch, stream)[number])

        return tuple(part(number) for number in range(len(widths)))

    def split_heads(self, x: Value, heads: int) -> Value:
        return self.op("split_heads", (x,), heads)

    def rope(self, x: Value, rope: Rope) -> Value:
        return self.op("rope", (x,), rope)

    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention) -> Value:
        return self.op("attend", (q, k, v), layer, kind)

    def add(self, x: Value, y: Value) -> Value:
        return self.op("add", (x, y)).keep()

    def mul(self, x: Value, y: Value) -> Value:
        return self.op("mul", (x, y))

    def scale(self, x: Value, by: float) -> Value:
        return self.op("scale", (x,), by)

    def sigmoid(self, x: Value) -> Value:
        return self.op("sigmoid", (x,))

    def tanh(self, x: Value) -> Value:
        return self.op("tanh", (x,))

    def gelu_tanh(self, x: Value) -> Value:
        return self.op("gelu_tanh", (x,))

    def route(self, scores: Value, routing: Routing) -> Value:
        return self.op("route", (scores,), routing)

    def scale_by_column(self, x: Value, weights: Value, number: int) -> Value:
        return self.op("scale_by_column", (x, weights), number)

    def add_bias(self, x: Value, name: str) -> Value:
        return self.op("add_bias", (x,), name)

    def softplus(self, x: Value) -> Value:
        return self.op("softplus", (x,))

    def conv(self, x: Value, name: str, kernel: int, layer: int, bias: bool) -> Value:
        return self.op("conv", (x,), name, kernel, layer, bias)

    def scan(self, x: Value, step: Value, b: Value, c: Value, layer: int, kind: Scan) -> Value:
        return self.op("scan", (x, step, b, c), layer, kind)

    def experts(
        self, x: Value, scores: Value, routing: Routing, experts: Sequence[Expert]
    ) -> Value:
        """Each expert sees the tokens that chose it in the float model."""
        x.keep()
        weights = self.route(scores, routing)
        for number, expert in enumerate(experts):
            self.expert(self._chosen(x, weights, number), expert)
        return self.op("experts", (x, scores), routing, experts)

    def _chosen(self, x: Value, weights: Value, number: int) -> Value:
        def make(batch: int, stream: int) -> Floats:
            tokens = np.flatnonzero(weights.at(batch, FLOAT)[:, number])
            chosen: Floats = x.at(batch, stream)[tokens]
            return chosen

        return Value(self, make, cheap=True)


def batches_of(texts: Sequence[Ids]) -> list[list[NDArray[np.int64]]]:
    """Texts in batches of about ``BATCH`` tokens."""
    batches: list[list[NDArray[np.int64]]] = []
    size = BATCH
    for ids in texts:
        if size + len(ids) > BATCH:
            batches.append([])
            size = 0
        batches[-1].append(np.asarray(ids, dtype=np.int64))
        size += len(ids)
    return batches
