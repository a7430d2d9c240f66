"""GPTQ as "nearest plane": codes that lose least in the output of a linear.

The loss of a matrix Q in place of W (N, K) is tr((Q - W) H (Q - W)'), with H = X'X / T of the
inputs X (T, K). GPTQ (Frantar et al. 2022) chooses the codes of one input after another, and moves
what was lost into the inputs that follow. Chen et al. 2025, "The Geometry of LLM Quantization",
show that this is Babai's nearest plane: with H = L L' and the inputs in reverse, the target of an
input is its weight minus the errors so far times a column of L. Neither an inverse of H nor an
update of W is needed, and each input keeps the scale of its own group.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from threadpoolctl import threadpool_limits

from slmkit.ops import Floats
from slmkit.quant.codes import Bytes
from slmkit.quant.grids import Grid

BLOCK = 64  # inputs between two products with the whole matrix of errors
ROWS = 512  # of a weight that are swept at once: a block of their errors fits a core's cache


def damped(hessian: Floats, damping: float) -> Floats:
    """H (K, K) with ``damping`` times the mean of its diagonal added to the diagonal."""
    result = hessian.copy()
    result[np.diag_indices_from(result)] += np.float32(damping) * hessian.diagonal().mean()
    return result


def factorize(hessian: Floats) -> NDArray[np.float64]:
    """The lower Cholesky factor of H (K, K), in float64: one copy of H, factorized in place."""
    factor: NDArray[np.float64] = linalg.cholesky(
        hessian.astype(np.float64, order="F"), lower=True, overwrite_a=True, check_finite=False
    )
    return factor


def nearest_plane(target: Floats, hessian: Floats, grid: Grid) -> tuple[Bytes, Floats]:
    """Codes (K, N), and the error: dequantized minus target, (K, N).

    ``target``: (N, K); ``hessian``: (K, K), damped. Inputs follow each other by falling diagonal.
    """
    order = np.argsort(hessian.diagonal(), kind="stable")  # the first one is the last in the array
    factor = factorize(hessian[np.ix_(order, order)])
    lower = (factor / factor.diagonal()).astype(np.float32)
    del factor
    rows, width = target.shape
    codes, errors = np.empty((width, rows), np.uint8), np.empty((width, rows), np.float32)

    def sweep(part: slice) -> None:
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

    in_parts(sweep, rows)
    return codes, errors


def descend(errors: Floats, codes: Bytes, hessian: Floats, grid: Grid) -> None:
    """One sweep of coordinate descent: each code is chosen again, with all others as they are.

    ``errors``, ``codes``: (K, N), changed in place; ``hessian``: (K, K), damped. The loss never
    grows.
    """
    order = np.argsort(-hessian.diagonal(), kind="stable")
    width, rows = errors.shape

    def sweep(part: slice) -> None:
        own = grid.part(part)
        error = np.ascontiguousarray(errors[:, part][order])
        for start in range(0, width, BLOCK):
            inputs = order[start : start + BLOCK]
            curve = hessian[inputs]
            slope = (curve[:, order] @ error) / curve[range(len(inputs)), inputs][:, None]
            inner = curve[:, inputs] / curve[range(len(inputs)), inputs][:, None]
            for at, name in enumerate(inputs):
                before = own.numbers(int(name), codes[name, part])
                new, nearest = own.nearest(int(name), before - slope[at])
                change = nearest - before
                codes[name, part] = new
                error[start + at] += change
                slope[at + 1 :] += np.outer(inner[at + 1 :, at], change)
        errors[order, part] = error

    in_parts(sweep, rows)


def loss(errors: Floats, hessian: Floats) -> float:
    """tr(D H D') of errors D' (K, N)."""
    return float(np.einsum("kn,kn->", hessian @ errors, errors, dtype=np.float64))


def in_parts(work: Callable[[slice], None], rows: int) -> None:
    """Do some work for all rows, ``ROWS`` at a time, on all cores."""
    parts = [slice(first, min(first + ROWS, rows)) for first in range(0, rows, ROWS)]
    # BLAS's own threads would wait for each other in thousands of small products.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(work, parts))
