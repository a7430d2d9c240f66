"""Two streams: an interpreter that runs the float and the quantized model side by side.

Values are lazy. A value is computed for a batch of texts when it is asked for, in either stream, by
the reference; only what is far from the last kept value is kept, in files. So a model whose
activations on all calibration text would fill the memory needs that of a few batches. Workers that
have batches of their own may ask side by side.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from slmkit.interpreters.reference import Cache, Ids, Reference, Weights
from slmkit.interpreters.value_files import Stored, ValueFiles
from slmkit.ops import Attention, Expert, Floats, Ops, Projection, Rope, Routing, Scan
from slmkit.system.cores import shared_out

FLOAT, QUANTIZED = 0, 1  # the streams
BATCH = 1024  # tokens that a worker computes at once
MATRICES = 3  # weights of a stream that stay in memory: those that read one input
T = TypeVar("T")
Make = Callable[[int, int], Any]  # (batch, stream) -> the value's numbers


class Value:
    """A value of both streams, on demand."""

    def __init__(self, owner: TwoStreams, make: Make, cheap: bool = False) -> None:
        self.owner, self.cheap = owner, cheap
        self.make = make
        self.files: dict[tuple[int, int], Stored] = {}
        self.kept: frozenset[int] = frozenset()  # the streams whose numbers go to files

    def at(self, batch: int, stream: int) -> Any:
        """The numbers of a batch of texts, float32."""
        key, memo = (batch, stream), self.owner.memo[batch]
        if key in self.files:
            return self.files[key].read()
        if (self, stream) in memo:
            return memo[self, stream]
        found = memo[self, stream] = self.make(batch, stream)
        if stream in self.kept:
            self._write(key, found)
        return found

    def both(self, batch: int) -> tuple[Any, Any]:
        """The numbers of a batch in the float and the quantized stream."""
        return self.at(batch, FLOAT), self.at(batch, QUANTIZED)

    def compute(self, batches: Iterable[int]) -> None:
        """Compute batches of both streams, for their files."""
        for batch in batches:
            self.both(batch)

    def keep(self, streams: Collection[int] = (FLOAT, QUANTIZED)) -> Value:
        """Write each batch of ``streams`` to a file when it is computed."""
        if not self.cheap:
            self.kept = self.kept.union(streams)
        return self

    def _write(self, key: tuple[int, int], numbers: Floats) -> None:
        self.files[key] = self.owner.files.write(numbers)
        if len(self.files) == self.owner.streams * len(self.owner.batches):
            self.make = _never  # the values that it was made from are not needed any more

    def __del__(self) -> None:
        for file in self.files.values():
            self.owner.files.release(file)


class MappedWeights(Weights, Protocol):
    """Weights that are mapped into memory."""

    def forget(self, tensor: str) -> None:
        """Release a matrix's memory; it is read again on the next access."""
        ...


class Matrices:
    """Weights, of which the matrices that were read last stay in memory, dequantized: all batches
    go through them."""

    def __init__(self, weights: MappedWeights) -> None:
        self.weights = weights
        self.read: OrderedDict[str, Floats] = OrderedDict()
        self.lock = Lock()

    def vector(self, tensor: str) -> Floats:
        """A norm, bias or other vector, flat."""
        return self.weights.vector(tensor)

    def rows(self, tensor: str, rows: Any) -> Floats:
        """Rows ``rows`` of a matrix, (len(rows), in)."""
        found = self.weights.rows(tensor, rows)
        self.weights.forget(tensor)  # of an embedding, some rows here and there
        return found

    def blocks(self, tensor: str) -> Iterator[tuple[int, Floats]]:
        """A matrix, whole."""
        with self.lock:
            if tensor not in self.read:
                blocks = [block for _, block in self.weights.blocks(tensor)]
                self.read[tensor] = np.concatenate(blocks)
                while len(self.read) > MATRICES:
                    self.read.popitem(last=False)
            self.read.move_to_end(tensor)
            found = self.read[tensor]
        yield 0, found

    def forget(self) -> None:
        """Release the matrices in memory."""
        self.read.clear()


def _never(batch: int, stream: int) -> Any:
    raise RuntimeError("every batch is in a file")


class TwoStreams(Ops[Value]):
    """Ops on lazy values. ``fit`` sees each group of linears before their outputs exist.

    ``weights``: of the float stream and of the quantized one, which ``fit`` extends; ``texts``:
    token ids (T,); ``folder``: for files of values.
    """

    streams = 2  # that are computed; 1: the float stream alone

    def __init__(
        self, weights: tuple[MappedWeights, MappedWeights], texts: Sequence[Ids], folder: Path
    ) -> None:
        self.weights = tuple(Matrices(each) for each in weights)
        self.files = ValueFiles(folder)
        self.batches = batches_of(texts)
        self.memo: dict[int, dict[tuple[Value, int], Any]] = defaultdict(dict)  # by batch
        self.stream: Value | None = None  # the residual stream

    def forget(self) -> None:
        """Release the weights in memory."""
        for each in self.weights:
            each.forget()

    def by_workers(self, work: Callable[[Iterator[int]], T]) -> list[T]:
        """The results of ``work`` on each worker's batches, whose values are forgotten in turn."""

        def forgotten(batches: Iterator[int]) -> Iterator[int]:
            for batch in batches:
                yield batch
                self.memo[batch].clear()

        self.files.reuse()  # the values that were read from them are forgotten
        return shared_out(lambda batches: work(forgotten(batches)), len(self.batches))

    def fit(self, x: Value, projections: Sequence[Projection]) -> None:
        """Give the quantized stream the weights of linears that read ``x``."""
        raise NotImplementedError

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

    def silu(self, x: Value) -> Value:
        return self.op("silu", (x,))

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
