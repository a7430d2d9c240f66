"""Calibrated quantization: GPTQ with a float target, one group of linears after another.

While the float and the quantized model run side by side on calibration text, each group of linears
that read the same input gets its codes before its outputs exist. Its target is not the float
weight, but what gives the float stream's output on the quantized stream's input, so that each
linear repairs what those before it lost. That is known as asymmetric calibration: GPTAQ (Li et al.
2025), QEP (Arai et al. 2025) and Qronos (Zhang et al. 2025) publish it in other words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.checkpoint.scaled_weights import Source
from slmkit.interpreters.dataflow import dataflow
from slmkit.interpreters.reference import Ids
from slmkit.interpreters.two_streams import FLOAT, QUANTIZED, TwoStreams, Value
from slmkit.interpreters.value_files import Stored
from slmkit.models import registry
from slmkit.models.spec import Spec
from slmkit.ops import Floats, Projection
from slmkit.quant.codes import CodesFile
from slmkit.quant.files import FILE, metadata, write
from slmkit.quant.linear_group import FITS, NORM, STREAM, LinearGroup, fits_to_json
from slmkit.quant.moments import Moments
from slmkit.recipe.calibration import Calibration
from slmkit.recipe.scheme import Scheme
from slmkit.system.cache import Cache, key_of
from slmkit.system.cores import blas_threads
from slmkit.system.process_memory import kept_for_reuse


@dataclass(frozen=True)
class Task:
    """All that decides calibrated codes, beside the text."""

    source: Source  # float weights, with their factors
    plain: CodesFile  # vectors, and the matrices that are not calibrated
    spec: Spec  # with the scale of the residual stream
    schemes: Mapping[str, Scheme]  # of the matrices to calibrate
    method: Calibration
    key: str  # content address of the codes
    cache: Cache  # each group's codes, for a run that goes on


def calibrate(
    task: Task, texts: Sequence[Ids], folder: Path, advance: Callable[[int], None]
) -> list[CodesFile]:
    """The codes of a model: the plain ones of ``task``, then a file for each group of linears.

    ``texts``: token ids (T,); ``folder``: for files of activations, at most 8 bytes for each token
    and input of the widest linear, and 12 for each of the residual stream; ``advance``: gets the
    elements done since the last call. Groups that an interrupted run has finished come out of the
    cache. Raises CheckpointError for a matrix that codes cannot hold.
    """
    calibrator = Calibrator(task, texts, folder, advance)
    with blas_threads(1), kept_for_reuse():
        registry.run(calibrator, task.spec)
    return calibrator.quantized.files


class QuantizedWeights:
    """Weights of the quantized stream: the calibrated ones, over those that are not."""

    def __init__(self, plain: CodesFile) -> None:
        self.files = [plain]
        self.owners: dict[str, CodesFile] = {}  # of matrices and biases

    def add(self, codes: CodesFile) -> None:
        """Add calibrated matrices."""
        self.files.append(codes)
        self.owners |= dict.fromkeys(codes.file.entries, codes)
        self.owners |= {f"{name}.weight": codes for name in codes.schemes}

    def vector(self, tensor: str) -> Floats:
        """A norm's weight or a bias, (width,) float32."""
        return self.owners.get(tensor, self.files[0]).vector(tensor)

    def rows(self, tensor: str, rows: Any) -> Floats:
        """``rows`` of a matrix, dequantized. (len(rows), K)"""
        return self.owners.get(tensor, self.files[0]).rows(tensor, rows)

    def blocks(self, tensor: str) -> Iterator[tuple[int, Floats]]:
        """A matrix in consecutive blocks of rows, dequantized: (first row, block)."""
        return self.owners.get(tensor, self.files[0]).blocks(tensor)

    def forget(self, tensor: str) -> None:
        """Release a matrix's memory-mapped pages."""
        self.owners.get(tensor, self.files[0]).forget(tensor.removesuffix(".weight"))


class Calibrator(TwoStreams):
    """Chooses the codes of linears as the two streams reach them."""

    def __init__(
        self, task: Task, texts: Sequence[Ids], folder: Path, advance: Callable[[int], None]
    ) -> None:
        self.quantized = QuantizedWeights(task.plain)
        super().__init__((task.source, self.quantized), texts, folder)
        self.task, self.advance = task, advance
        self.destinations = _destinations(task.spec)
        self.tokens = sum(map(len, texts))
        self.outputs: dict[int, Stored] = {}  # by batch: of the linear that was fitted, in floats
        self.behind: list[Value] = []  # inputs of groups out of the cache, which nobody computed

    def linear(self, x: Value, name: str, width: int, bias: bool = False) -> Value:
        found = super().linear(x, name, width, bias)
        if not bias:
            found.files |= {(batch, FLOAT): file for batch, file in self.outputs.items()}
            self.outputs = {}
        return found

    def fit(self, x: Value, projections: Sequence[Projection]) -> None:
        done = self.quantized.owners
        wanted = [
            each
            for each in projections
            if each.name in self.task.schemes and f"{each.name}.weight" not in done
        ]
        if not wanted:
            return
        key = key_of([self.task.key, [each.name for each in wanted]])
        cache = self.task.cache
        if cache.find("linears", key) is None:
            self._catch_up()
            self._fit_anew(x, wanted, key)
        else:
            self.behind.append(x.keep())
        codes = CodesFile(cache.entry("linears", key) / FILE)
        self.quantized.add(codes)
        self.advance(sum(rows * width for rows, width in codes.shapes.values()))

    def _catch_up(self) -> None:
        """Compute the inputs of the groups before, in their order: all at once, on demand, they
        would hold the values of so many layers together."""
        while self.behind:
            self.by_workers(self.behind.pop(0).compute)

    def _fit_anew(self, x: Value, linears: Sequence[Projection], key: str) -> None:
        task = self.task
        self.outputs = {}
        destination = self.destinations.get(linears[0].name)
        group = LinearGroup(task.source, linears, destination, task.method, self.tokens)
        # The float stream goes on from the output of a linear that is fitted by it.
        x.keep((QUANTIZED,) if group.by_output and not linears[0].bias else (FLOAT, QUANTIZED))

        def sum_up(batches: Iterator[int]) -> Moments:
            sums = group.sums()
            for batch in batches:
                self._sum_up(group, sums, x, batch)
            return sums

        sums, *others = self.by_workers(sum_up)
        while others:
            sums.merge(others.pop())
        self.forget()
        shapes = {name: weight.shape for name, weight in group.weights.items()}
        arrays, fits = group.quantize(sums, task.schemes)
        facts = metadata(shapes, task.schemes, key, task.plain.stream_scale)
        with task.cache.making("linears", key) as making:
            write(making / FILE, arrays, {**facts, FITS: fits_to_json(fits)})

    def _sum_up(self, group: LinearGroup, sums: Moments, x: Value, batch: int) -> None:
        floats, quantized = x.both(batch)
        residuals = None
        if group.destination == STREAM and self.stream is not None:
            residuals = self.stream.both(batch)
            by = np.float32(1 / self.task.spec.residual_scale)
            if by != 1:  # in the units of the linear's output, before the model scales it
                residuals = residuals[FLOAT] * by, residuals[QUANTIZED] * by
        output = group.add(sums, floats, quantized, residuals)
        if output is not None and not group.linears[0].bias:
            self.outputs[batch] = self.files.write(output)


def _destinations(spec: Spec) -> dict[str, str]:
    """The residual stream or norm that takes each linear's output, if one does; by weight name."""
    flow, found = dataflow(spec), {}
    for node in flow.nodes:
        output = node
        if node.op == "linear" and node.only_reader and node.only_reader.op == "scale":
            output = node.only_reader
        if node.op == "linear" and output in flow.updates:
            found[node.name] = STREAM
        elif node.op == "linear" and node.only_reader and node.only_reader.op == "rms_norm":
            found[node.name] = NORM
    return found
