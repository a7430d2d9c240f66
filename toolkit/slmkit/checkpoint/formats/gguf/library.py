"""The package ``gguf``, imported at use: types of tensors, their blocks, names of tensors."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from slmkit.errors import MissingPackageError
from slmkit.system.installing import own_requirement


def library(module: str = "gguf") -> Any:
    """A module of the package. Raises MissingPackageError."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingPackageError(
            "GGUF files need the package gguf", f"pip install {own_requirement(['gguf'])}"
        ) from None


@cache
def kinds() -> dict[int, tuple[str, int, int]]:
    """Types of tensors by number: name, numbers in a block, bytes of it."""
    sizes = library("gguf.constants").GGML_QUANT_SIZES
    return {int(kind): (kind.name, numbers, size) for kind, (numbers, size) in sizes.items()}


@cache
def numbers() -> dict[str, int]:
    """Types of tensors by name."""
    return {name: kind for kind, (name, _, _) in kinds().items()}


@cache
def readable() -> frozenset[str]:
    """Names of the types that become floats."""
    found = {kind.name for kind in library("gguf.quants")._type_traits}
    return frozenset(found | {"F16", "F32", "F64"})
