"""GPTQ as "nearest plane": codes that lose least in the output of a linear.

The loss of a matrix Q in place of W (N, K) is tr((Q - W) H (Q - W)'), with H = X'X / T of the
inputs X (T, K). GPTQ (Frantar et al. 2022) chooses the codes of one input after another, and moves
what was lost into the inputs that follow. Chen et al. 2025, "The Geometry of LLM Quantization",
show that this is Babai's nearest plane: with H = L L' and the inputs in reverse, the target of an
input is its weight minus the errors so far times a column of L. Neither an inverse of H nor an
update of W is needed, and each input keeps the scale of its own group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from slmkit.ops import Floats
from slmkit.quant import blas
from slmkit.quant.codes import Bytes
from slmkit.quant.grid import BLOCK, Grid
from slmkit.system.cores import in_parts

WIDE = 512  # inputs of a product with all errors: fewer read them too often
LOSS_ROWS = 512  # rows of a matrix, at most, whose loss stands for that of all


def damped(hessian: Floats, damping: float) -> Floats:
    """H (K, K) with ``damping`` times the mean of its diagonal added to the diagonal.

    Of inputs that are always 0 all count alike.
    """
    result = hessian.copy()
    mean = hessian.diagonal().mean() or np.float32(1)
    result[np.diag_indices_from(result)] += np.float32(damping) * mean
    return result


def factorize(make: Callable[[], NDArray[Any]]) -> Floats:
    """The Cholesky factor of H (K, K), damped, which ``make`` makes anew: its lower triangle.

    In float32, which is enough for a damped H; in float64 where it is not. BLAS is best with one
    thread: of two each waits for the other; the factor of 4864 inputs took 0.4 s, or 3 s.
    """
    try:
        upper = np.ascontiguousarray(make(), np.float32)
        blas.factorize(upper)
    except linalg.LinAlgError:
        lower = np.linalg.cholesky(make().astype(np.float64))
        upper = np.ascontiguousarray(lower.T, np.float32)
    return upper.T


def _ordered(hessian: Floats) -> tuple[NDArray[np.int64], Floats, Floats]:
    """The order of a sweep, the Cholesky factor of H (K, K) in it, and the variances."""
    order = np.argsort(hessian.diagonal(), kind="stable")
    lower = factorize(lambda: hessian[np.ix_(order, order)])
    variances = np.empty(len(order), np.float32)
    variances[order] = np.square(lower.diagonal())
    return order, lower, variances


def conditional_variances(hessian: Floats) -> Floats:
    """As ``Sweep.variances``, (K,), of H (K, K), damped."""
    return _ordered(hessian)[2]


@dataclass(frozen=True, eq=False)
class Sweep:
    """The order in which inputs get their codes, and H in that order."""

    order: NDArray[np.int64]  # (K,): by rising diagonal; the last one is the first to be chosen
    lower: Floats  # (K, K): the Cholesky factor, each column over its diagonal
    # (K,), in the order of H: what the inputs that follow cannot replace of an input's energy. The
    # loss of codes is the sum of it times the square of what rounding each input by itself loses.
    variances: Floats

    @classmethod
    def of(cls, hessian: Floats) -> Sweep:
        """Of H (K, K), damped."""
        order, lower, variances = _ordered(hessian)
        lower /= lower.diagonal().copy()
        return cls(order, lower, variances)


def nearest_plane(target: Floats, sweep: Sweep, grid: Grid) -> tuple[Bytes, Floats]:
    """Codes (K, N), and the error: dequantized minus target, (K, N).

    ``target``: (N, K).
    """
    order, lower = sweep.order, sweep.lower
    rows, width = target.shape
    codes, errors = np.empty((width, rows), np.uint8), np.empty((width, rows), np.float32)

    def choose(part: slice) -> None:
        own, error = grid.part(part), np.zeros((width, part.stop - part.start), np.float32)
        wanted = np.ascontiguousarray(target[part].T[order])
        for stop in range(width, 0, -BLOCK):
            start = max(0, stop - BLOCK)
            block = wanted[start:stop] - lower[stop:, start:stop].T @ error[stop:]
            for at in range(stop - 1, start - 1, -1):
                numbers = block[at - start]
                if at + 1 < stop:
                    numbers = numbers - lower[at + 1 : stop, at] @ error[at + 1 : stop]
                codes[order[at], part], nearest = own.nearest(int(order[at]), numbers)
                error[at] = nearest - wanted[at]
        errors[order, part] = error

    in_parts(choose, rows)
    return codes, errors


def descend(errors: Floats, codes: Bytes, hessian: Floats, grid: Grid) -> None:
    """One sweep of coordinate descent: each code is chosen again, with all others as they are; and
    so are the scales of a group, after its codes.

    ``errors``, ``codes``: (K, N), changed in place; ``hessian``: (K, K), damped. The loss never
    grows.
    """
    blocks = _together(grid.blocks(hessian.diagonal()))

    def sweep(part: slice) -> None:
        own = grid.part(part)
        error = np.ascontiguousarray(errors[:, part])
        for some in blocks:
            inputs = np.concatenate(some)
            curve = hessian[inputs]
            slope, curve = curve @ error, curve[:, inputs]
            chosen = codes[inputs, part]
            changes, stop = np.empty_like(slope), 0
            for block in some:
                start, stop = stop, stop + len(block)
                here = slice(start, stop)
                changes[here] = _choose(own, block, chosen[here], slope[here], curve[here, here])
                slope[stop:] += curve[stop:, here] @ changes[here]
            codes[inputs, part] = chosen
            error[inputs] += changes
        errors[:, part] = error

    in_parts(sweep, errors.shape[1])


def _together(blocks: Sequence[NDArray[np.int64]]) -> list[list[NDArray[np.int64]]]:
    """Consecutive blocks of up to ``WIDE`` inputs."""
    found: list[list[NDArray[np.int64]]] = []
    for block in blocks:
        if not found or sum(map(len, found[-1])) + len(block) > WIDE:
            found.append([])
        found[-1].append(block)
    return found


def _choose(
    grid: Grid, inputs: NDArray[np.int64], codes: Bytes, slope: Floats, hessian: Floats
) -> Floats:
    """Choose the codes (n, N) of some inputs again, in place, then their scales.

    ``slope``: the Hessian times the errors (n, N); ``hessian``: of these inputs (n, n). Returns the
    changes of what the codes stand for (n, N).
    """
    each = hessian.diagonal()[:, None]
    here, curve = slope / each, hessian / each
    before, changes = grid.numbers(inputs, codes), np.empty_like(slope)
    for at, name in enumerate(inputs.tolist()):
        wanted = before[at] - (here[at] + curve[at, :at] @ changes[:at])
        codes[at], nearest = grid.nearest(name, wanted)
        np.subtract(nearest, before[at], out=changes[at])
    moved = grid.move(inputs, codes, slope + hessian @ changes, hessian)
    return changes if moved is None else changes + moved


def loss(errors: Floats, hessian: Floats) -> float:
    """tr(D H D') of errors D' (K, N); of many rows from some that lie evenly among them."""
    rows = errors.shape[1]
    some = np.ascontiguousarray(errors[:, :: -(-rows // LOSS_ROWS)])
    found = []

    def add(part: slice) -> None:
        own = np.ascontiguousarray(some[:, part])
        for first in range(0, len(own), WIDE):  # H is symmetric: half of it is enough
            block = slice(first, first + WIDE)
            slope = 2 * (hessian[block, :first] @ own[:first])
            slope += hessian[block, block] @ own[block]
            found.append(np.einsum("kn,kn->", slope, own[block], dtype=np.float64))

    in_parts(add, some.shape[1])
    return float(math.fsum(found) * rows / max(1, some.shape[1]))
