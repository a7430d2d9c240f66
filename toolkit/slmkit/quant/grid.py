"""A grid: the numbers that one matrix can hold under its scheme, with its scales or palettes."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slmkit.ops import Floats
from slmkit.quant.codes import Bytes

BLOCK = 128  # inputs whose codes are chosen before a product tells the others of them
Inputs = int | NDArray[np.int64]  # an input, or some (n,)
Arrays = dict[str, NDArray[Any]]  # what a codes file holds beside the codes, by ending of the name


def in_blocks(diagonal: Floats) -> list[NDArray[np.int64]]:
    """All inputs by falling ``diagonal`` (K,) of the Hessian, ``BLOCK`` at a time."""
    order = np.argsort(-diagonal, kind="stable")
    return np.array_split(order, range(BLOCK, len(order), BLOCK))


class Grid(Protocol):
    """Codes of N rows and K inputs, chosen an input at a time, or several."""

    def nearest(self, at: Inputs, numbers: Floats) -> tuple[Bytes, Floats]:
        """The codes next to ``numbers`` (N,) of input ``at``, and what they stand for.

        Of several inputs (n,), ``numbers`` is (n, N).
        """
        ...

    def numbers(self, at: Inputs, codes: Bytes) -> Floats:
        """The numbers that codes (N,) of input ``at``, or (n, N) of several, stand for."""
        ...

    def part(self, rows: slice) -> Grid:
        """The grid of some rows."""
        ...

    def blocks(self, diagonal: Floats) -> list[NDArray[np.int64]]:
        """The inputs of a sweep in their order, in blocks; ``diagonal``: of the Hessian, (K,)."""
        ...

    def move(
        self, inputs: NDArray[np.int64], codes: Bytes, slope: Floats, hessian: Floats
    ) -> Floats | None:
        """Change the scales of a block's inputs (n,) so that the same codes (n, N) lose less.

        ``slope``: the Hessian times the errors (n, N); ``hessian``: of these inputs (n, n). Returns
        the change of what the codes stand for (n, N), or None: no scale moves here.
        """
        ...

    def refit(self, error: Floats, hessian: Floats, codes: Bytes) -> None:
        """Change palettes after a sweep so that the same codes lose less.

        ``error``: dequantized minus wanted (K, N); ``hessian``: (K, K); ``codes``: (K, N). The
        first and the last are changed in place.
        """
        ...

    def arrays(self) -> Arrays:
        """Scales, zero points or palettes, as a codes file holds them."""
        ...

    def fillers(self) -> Bytes:
        """The codes (N,) that pad rows to whole groups."""
        ...
