"""Routines of BLAS and LAPACK that work in place and let other threads go on.

NumPy has no product that is added to what is there. SciPy has one, and solves in place, but holds
Python's lock meanwhile, so that workers would wait for each other. The routines are therefore
called at the addresses that SciPy's ``cython_blas`` and ``cython_lapack`` export.

They read matrices by columns. One of rows is the transpose to them, with the other triangle.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from scipy import linalg
from scipy.linalg import cython_blas, cython_lapack

from slmkit.ops import Floats


def add_squares(sums: Floats, x: Floats) -> None:
    """Add x' x of ``x`` (T, K) to the upper triangle of ``sums`` (K, K)."""
    width, tokens = len(sums), len(x)
    if tokens:
        _call(cython_blas, "ssyrk", b"L", b"N", width, tokens, 1.0, x, width, 1.0, sums, width)


def add_products(sums: Floats, y: Floats, x: Floats) -> None:
    """Add y' x of ``y`` (T, N) and ``x`` (T, K) to ``sums`` (N, K)."""
    rows, width = sums.shape
    if len(x):
        numbers = (width, rows, len(x), 1.0, x, width, y, rows, 1.0, sums, width)
        _call(cython_blas, "sgemm", b"N", b"T", *numbers)


def factorize(symmetric: Floats) -> None:
    """Replace the upper triangle of a positive definite matrix H (K, K) by R, with H = R' R.

    Raises LinAlgError where float32 cannot do that; what the matrix holds then is undefined.
    """
    info = ctypes.c_int()
    _call(cython_lapack, "spotrf", b"L", len(symmetric), symmetric, len(symmetric), info)
    if info.value:
        raise linalg.LinAlgError(f"the first {info.value} inputs are not positive definite")


def solve(factor: Floats, rows: Floats) -> None:
    """Replace each row b (K,) of ``rows`` (N, K) by b H^-1, with H = R' R of ``factorize``."""
    width, count = len(factor), len(rows)
    numbers = (width, count, factor, width, rows, width, ctypes.c_int())
    _call(cython_lapack, "spotrs", b"L", *numbers)


def _call(library: Any, name: str, *arguments: Any) -> None:
    _routine(library, name)(*map(_reference, arguments))


def _reference(argument: Any) -> Any:
    """By reference, as Fortran wants all arguments."""
    if isinstance(argument, np.ndarray):
        if argument.dtype != np.float32 or not argument.flags.c_contiguous:
            raise ValueError(f"not rows of float32: {argument.dtype}, strides {argument.strides}")
        return ctypes.c_void_p(argument.ctypes.data)
    if isinstance(argument, bytes):
        return ctypes.c_char_p(argument)
    if isinstance(argument, int):
        return ctypes.byref(ctypes.c_int(argument))
    if isinstance(argument, float):
        return ctypes.byref(ctypes.c_float(argument))
    return ctypes.byref(argument)


@cache
def _routine(library: Any, name: str) -> Callable[..., None]:
    """The routine; without argument types: ``_reference`` makes them."""
    capsule, kind = library.__pyx_capi__[name], ctypes.py_object
    signature_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, kind)(("PyCapsule_GetName", ctypes.pythonapi))
    signature = signature_of(capsule)
    if b", int *" not in signature:
        raise RuntimeError(f"SciPy's {name} has other integers than C's int: {signature!r}")
    address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, kind, ctypes.c_char_p)
    address = address_of(("PyCapsule_GetPointer", ctypes.pythonapi))(capsule, signature)
    return ctypes.CFUNCTYPE(None)(address)
