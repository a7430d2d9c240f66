"""Count the loads of each byte of a weight in the loops of scheduled kernels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir import SBlockRealize


def loads_of(mod: Any) -> dict[str, float]:
    """By kernel: bytes that it loads of its first weight, divided by the weight's bytes."""
    ratios = {}
    for own, function in mod.functions_items():
        if isinstance(function, tirx.PrimFunc) and "dequantize_matmul" in own.name_hint:
            weights = [each for each in function.params if str(each.dtype) == "uint32"]
            counted: Counter[str] = Counter()
            if weights and _count(function.body, 1, counted):
                size = int(np.prod([int(length) for length in weights[0].shape]))
                ratios[own.name_hint] = round(counted[weights[0].name] / size, 3)
    return ratios


def _count(statement: Any, times: int, counted: Counter[str]) -> bool:
    """Add the loads of each buffer to ``counted``; False if a loop's length is unknown."""
    if isinstance(statement, tirx.For):
        if not isinstance(statement.extent, tirx.IntImm):
            return False
        return _count(statement.body, times * int(statement.extent), counted)
    if isinstance(statement, SBlockRealize):
        block = statement.block
        parts = [block.body] + ([block.init] if block.init is not None else [])
        return all(_count(part, times, counted) for part in parts)
    if isinstance(statement, tirx.SeqStmt):
        return all(_count(part, times, counted) for part in statement.seq)
    if isinstance(statement, tirx.BufferStore):

        def count_load(load: Any) -> Any:
            counted[load.source.name] += times
            return load

        tvm_ffi.structural_map(statement.value, (tvm.ir.TensorLoad, count_load))
        return True
    return False
