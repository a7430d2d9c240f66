"""How much each input of a linear counts for codes that GPTQ chooses.

GPTQ moves what rounding one input loses into the inputs that follow it. What is left is in
proportion to the part of the input that those that follow cannot replace: its variance, given
theirs (``slmkit.quant.nearest_plane``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.safetensors import SafetensorsFile, SafetensorsWriter
from slmkit.interpreters.recorder import Model
from slmkit.interpreters.reference import Ids
from slmkit.interpreters.two_streams import FLOAT, MappedWeights, TwoStreams, Value
from slmkit.models import registry
from slmkit.ops import Floats, Projection
from slmkit.quant import blas
from slmkit.quant.moments import mirror
from slmkit.quant.nearest_plane import conditional_variances, damped
from slmkit.system.cores import blas_threads
from slmkit.system.process_memory import kept_for_reuse

VERSION = 1  # of the measurement and its file; part of the content address
TOKENS = 4096  # of all texts: half a token for each input was as good as ten
WAITING = 3  # groups to be solved: a layer has one that is far larger than the others
Report = Callable[[int], None]  # called with the linears done since the last call
Variances = dict[str, Floats]  # (K,) of a linear's inputs, by weight name


def input_variances(
    weights: MappedWeights,
    model: Model,
    names: Collection[str],
    texts: Sequence[Ids],
    damping: float,
    folder: Path,
    report: Report,
) -> Variances:
    """The conditional variances of the inputs of some linears, in the float model.

    ``names``: of the linears; ``texts``: token ids (T,), whose first tokens are left out (massive
    activations); ``damping``: as in GPTQ; ``folder``: for files of activations, 4 bytes for each
    token and input of the widest linear and 8 for each of the residual stream. A linear that no
    token reached, such as an expert's, has none.
    """
    summed = _Energies((weights, weights), texts, folder)
    summed.wanted, summed.damping, summed.report = set(names), damping, report
    with blas_threads(1), kept_for_reuse(), ThreadPoolExecutor(1) as summed.solver:
        registry.run(summed, model.spec)
        summed.collect()
    return summed.found


class _Energies(TwoStreams):
    """Sums up x x' of each group of linears that read one input x, in the float stream."""

    streams = 1
    damping: float
    report: Report
    solver: ThreadPoolExecutor  # solves one group while the next ones are summed up

    def __init__(
        self, weights: tuple[MappedWeights, MappedWeights], texts: Sequence[Ids], folder: Path
    ) -> None:
        super().__init__(weights, texts, folder)
        self.wanted: set[str] = set()
        self.found: Variances = {}
        self.solving: deque[Future[None]] = deque()

    def fit(self, x: Value, projections: Sequence[Projection]) -> None:
        names = self.wanted.intersection(each.name for each in projections)
        self.wanted -= names
        if not names:
            return
        x.keep((FLOAT,))
        parts = self.by_workers(lambda batches: self._sum_up(x, batches))
        self.forget()
        tokens = sum(tokens for _, tokens in parts)
        if tokens:
            energy, *others = (part for part, own in parts if own)
            while others:
                energy += others.pop()
            energy /= np.float32(tokens)
            mirror(energy)
            self.collect(WAITING)
            self.solving.append(self.solver.submit(self._solve, names, energy))
        self.report(len(names))

    def collect(self, most: int = 0) -> None:
        """Wait until at most so many groups are still to be solved."""
        while len(self.solving) > most:
            self.solving.popleft().result()

    def _solve(self, names: Collection[str], energy: Floats) -> None:
        self.found |= dict.fromkeys(names, conditional_variances(damped(energy, self.damping)))

    def _sum_up(self, x: Value, batches: Iterator[int]) -> tuple[Floats, int]:
        """The upper triangle of the sum of x x' (K, K), and how many tokens it is of."""
        sums, tokens = np.zeros((0, 0), np.float32), 0
        for batch in batches:
            values = self._without_first(batch, x.at(batch, FLOAT))
            if not tokens:
                sums = np.zeros((values.shape[1],) * 2, np.float32)
            blas.add_squares(sums, np.ascontiguousarray(values))
            tokens += len(values)
        return sums, tokens

    def _others(self, batch: int) -> NDArray[np.bool_]:
        """Which tokens of a batch are not the first ones of their texts. (T,)"""
        return np.concatenate([np.arange(len(ids)) > 0 for ids in self.batches[batch]])

    def _without_first(self, batch: int, values: Floats) -> Floats:
        """Values of all tokens, or of those that chose an expert, which have no first ones."""
        others = self._others(batch)
        return values[others] if len(values) == len(others) else values

    def _chosen(self, x: Value, weights: Value, number: int) -> Value:
        """As in ``TwoStreams``, without the first tokens."""

        def make(batch: int, stream: int) -> Floats:
            chose = weights.at(batch, FLOAT)[:, number] != 0
            chosen: Floats = x.at(batch, stream)[chose & self._others(batch)]
            return chosen

        return Value(self, make, cheap=True)


def save_variances(found: Variances, path: Path) -> None:
    """Write to a safetensors file; ``load_variances`` is the inverse."""
    with SafetensorsWriter(path, {name: ("F32", each.shape) for name, each in found.items()}) as to:
        for name, each in found.items():
            to.put(name, each)


def load_variances(path: Path) -> Variances:
    """Read a file that ``save_variances`` wrote."""
    file = SafetensorsFile(path)
    return {name: file.floats(name) for name in file.entries}
