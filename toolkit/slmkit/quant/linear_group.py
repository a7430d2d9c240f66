"""Linears that read the same input: what calibration text says about it, and their codes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.scaled_weights import Source
from slmkit.ops import Floats, Projection
from slmkit.quant.affine_grid import AffineGrid
from slmkit.quant.codes import Bytes, CodesFile
from slmkit.quant.files import packed, refuse_lost, to_float16
from slmkit.quant.grid import Grid
from slmkit.quant.moments import Moments, correction
from slmkit.quant.nearest_plane import (
    Sweep,
    damped,
    descend,
    factorize,
    loss,
    nearest_plane,
)
from slmkit.quant.palette_grid import PaletteGrid
from slmkit.recipe.calibration import Calibration
from slmkit.recipe.scheme import Scheme
from slmkit.snr import decibels
from slmkit.system.cores import in_parts, product, side_by_side

INPUTS = 32  # whose numbers are rounded at once
FEWEST = 1.0  # tokens per input: with fewer a Hessian says little, and codes are rounded to nearest
FEWEST_FOR_FLOAT = 4.0  # tokens per input: with fewer, a float target is fitted to their noise
STREAM, NORM = "stream", "norm"  # what a linear's output is added to, or read by
FITS = "fits"  # in a codes file's metadata
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Fit:
    """How the codes of one matrix were found."""

    name: str
    tokens_per_input: float
    target: str  # float, own, or nearest: too few tokens
    loss: float  # of the energy on calibration text of (some) outputs, the share that codes lose
    rounded_loss: float  # the same of codes that are rounded to nearest


class LinearGroup:
    """Linears with the same input.

    ``destination``: of a single linear, ``STREAM`` if its output is added to the residual stream,
    ``NORM`` if an RMS norm reads it. Then a token counts by the size of what a norm reads next,
    which divides by it: the first token of a text, with activations a thousand times larger than
    those of all others, would else be all that codes are made for.

    ``tokens``: at most, of the text.
    """

    def __init__(
        self,
        source: Source,
        linears: Sequence[Projection],
        destination: str | None,
        method: Calibration,
        tokens: int,
    ) -> None:
        self.source, self.linears, self.method = source, linears, method
        self.weights: dict[str, Floats] = {}
        for each in linears:
            self.weights[each.name] = source.rows(f"{each.name}.weight", slice(None))
            source.forget(f"{each.name}.weight")
        first = self.weights[linears[0].name]
        # The drift of an output costs less than that of the input where there are fewer of them.
        self.by_output = len(linears) == 1 and len(first) <= first.shape[1]
        self.destination = destination if self.by_output else None
        self.for_float = _target(method, tokens / first.shape[1]) == "float"

    def sums(self) -> Moments:
        """Sums over no tokens yet."""
        rows, width = self.weights[self.linears[0].name].shape
        return Moments.zeros(width, rows if self.by_output else width, self.for_float)

    def add(
        self,
        sums: Moments,
        floats: Floats,
        quantized: Floats,
        residuals: tuple[Floats, Floats] | None = None,
    ) -> Floats | None:
        """Add tokens: the input (T, K) in either stream, and what the output (T, N) is added to.

        Returns the output in the float stream, without a bias, if it had to be computed.
        """
        if not self.by_output:
            sums.add(quantized, floats)
            return None
        # Of all tokens at once, as the reference multiplies: BLAS rounds a part's differently, and
        # a run that goes on after an interruption has these outputs from the reference.
        output: Floats = floats @ self.weights[self.linears[0].name].T
        wanted, result, weights = output, output, None
        if self.destination:
            if residuals is not None:
                wanted, result = output + (residuals[0] - residuals[1]), output + residuals[0]
            weights = 1 / np.maximum(np.square(result).mean(axis=1), np.float32(1e-20))
        sums.add(quantized, wanted, weights)
        return output

    def quantize(self, sums: Moments, schemes: Mapping[str, Scheme]) -> tuple[Arrays, list[Fit]]:
        """Tensors of a codes file, and how each matrix was found.

        Raises CheckpointError for a matrix that is lost in its codes.
        """
        arrays, fits = Arrays(), list[Fit]()
        tokens = sums.tokens / len(sums.hessian)
        target = _target(self.method, tokens)
        change, sweep, hessian = self._solved(sums.means(), target)
        for each in self.linears:
            weight = self.weights.pop(each.name)
            wanted = weight
            if change is not None:
                wanted = weight + (change if self.by_output else product(weight, change))
            palette = schemes[each.name].encoding == "palette"
            counts = hessian.diagonal() if palette else sweep.variances
            grid = grid_of(schemes[each.name], wanted, counts)
            codes, errors = _nearest(wanted, grid)
            energy = max(loss(wanted.T, hessian), 1e-30)
            rounded = loss(errors, hessian) / energy
            if target != "nearest":
                codes, errors = nearest_plane(wanted, sweep, grid)
                for _ in range(self.method.sweeps):
                    descend(errors, codes, hessian, grid)
                    grid.refit(errors, hessian, codes)
            fit = Fit(each.name, tokens, target, loss(errors, hessian) / energy, rounded)
            refuse_lost(each.name, schemes[each.name], decibels(1.0, fit.loss))
            fits.append(fit)
            arrays |= _arrays(each.name, schemes[each.name], grid, codes)
            if each.bias:
                arrays[f"{each.name}.bias"] = self._bias(each, sums, weight, wanted, errors)
        return arrays, fits

    def _solved(self, sums: Moments, target: str) -> tuple[Floats | None, Sweep, Floats]:
        """The change of weights for a float target, the sweep, and its damped Hessian."""
        if target == "nearest":  # all inputs count alike
            hessian = np.eye(len(sums.hessian), dtype=np.float32)
            return None, Sweep.of(hessian), hessian
        hessian = damped(sums.hessian, self.method.damping)
        if target != "float":
            return None, Sweep.of(hessian), hessian
        factor, sweep = side_by_side(
            lambda: factorize(lambda: damped(sums.hessian, self.method.ridge)),
            lambda: Sweep.of(hessian),
        )
        weight = self.weights[self.linears[0].name] if self.by_output else None
        return correction(sums.drift(weight), factor), sweep, hessian

    def _bias(
        self, linear: Projection, sums: Moments, weight: Floats, wanted: Floats, errors: Floats
    ) -> NDArray[np.float16]:
        """The bias (N,) with which the mean output is the float stream's."""
        tensor = f"{linear.name}.bias"
        bias = self.source.vector(tensor).copy()
        if sums.tokens:
            output = sums.wanted if self.by_output else weight @ sums.wanted
            bias += output - (wanted + errors.T) @ sums.mean
        return to_float16(tensor, bias)


def grid_of(scheme: Scheme, floats: Floats, weights: Floats) -> Grid:
    """The grid of a weight (N, K) under a scheme; ``weights`` (K,): how much inputs count."""
    if scheme.encoding == "palette":
        return PaletteGrid.clustered(scheme, floats, weights)
    return AffineGrid.searched(scheme, floats, weights)


def _target(method: Calibration, tokens_per_input: float) -> str:
    if tokens_per_input < FEWEST:
        return "nearest"
    return method.target if tokens_per_input >= FEWEST_FOR_FLOAT else "own"


def _nearest(wanted: Floats, grid: Grid) -> tuple[Bytes, Floats]:
    """Codes and errors (K, N) of rounding to nearest."""
    codes, errors = np.empty(wanted.T.shape, np.uint8), np.empty(wanted.T.shape, np.float32)

    def nearest(rows: slice) -> None:
        own, target = grid.part(rows), np.ascontiguousarray(wanted[rows].T)
        for first in range(0, len(target), INPUTS):
            inputs = np.arange(first, min(first + INPUTS, len(target)))
            codes[inputs, rows], found = own.nearest(inputs, target[inputs])
            errors[inputs, rows] = found - target[inputs]

    in_parts(nearest, len(wanted))
    return codes, errors


def _arrays(name: str, scheme: Scheme, grid: Grid, codes: Bytes) -> Arrays:
    rows = np.ascontiguousarray(codes.T)
    arrays: Arrays = {f"{name}.codes": packed(rows, scheme, grid.fillers())}
    return arrays | {f"{name}.{ending}": array for ending, array in grid.arrays().items()}


def fits_to_json(fits: Sequence[Fit]) -> str:
    """For a codes file's metadata."""
    return json.dumps([asdict(fit) for fit in fits])


def fits_of(codes: CodesFile) -> list[Fit]:
    """How the matrices of a codes file were found; empty if without text."""
    return [Fit(**facts) for facts in json.loads(codes.file.metadata.get(FITS, "[]"))]
