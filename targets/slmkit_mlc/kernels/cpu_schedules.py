"""CPU schedules for parity: matrix products and dequantization, tiled by output rows.

A tile of weights is dequantized once and multiplied with every token while it is in the CPU's
cache, in vector instructions; tiles run in parallel on the cores. No dequantized weight is ever
stored as a whole. A product whose rows no tile size divides keeps its plain loops: correct, but
slow.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx

Module = Any
Pass = Any
Schedule = Any
Block = Any
PRODUCTS = ("matmul", "grown", "shrunk")  # names of blocks that sum over the inputs of a row
MAX_TILE = 64  # rows
LANES = 16  # float32 numbers in a vector


@tvm.transform.module_pass(opt_level=0)
class TileProducts:
    """A TVM pass that tiles every product of a module."""

    def transform_module(self, mod: Module, _: Any) -> Module:
        """Tile each function's product, if it has one."""
        for global_var, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc):
                mod[global_var] = tile_product(function)
        return mod


def tile_product(function: Any) -> Any:
    """Tile the product of a PrimFunc; return it unchanged if it has none or no tile fits."""
    schedule = s_tir.Schedule(function)
    product, weight = _find_block(schedule, *PRODUCTS), _find_block(schedule, "dequantize")
    if product is None:
        return function
    rows, width = (int(schedule.get(loop).extent) for loop in schedule.get_loops(product)[-2:])
    tile = _tile_size(rows)
    if _rows_are_contiguous(schedule, product):
        if tile > 1:
            _tile_k_major(schedule, weight, product, tile)
    elif width % LANES == 0:
        _tile_n_major(schedule, weight, product, tile)
    return schedule.mod["main"]


def _rows_are_contiguous(schedule: Schedule, product: Block) -> bool:
    """Whether a product's weight is K-major: its last index is the output row. A tied head is
    N-major, as the embedding whose rows are looked up, in every layout."""
    block = schedule.get(product)
    row = block.iter_vars[-2].var
    return any(read.region[-1].min.same_as(row) for read in block.reads)


def _tile_size(rows: int) -> int:
    """The largest divisor up to MAX_TILE that is a multiple of 8; else the largest divisor."""
    divisors = [size for size in range(1, MAX_TILE + 1) if rows % size == 0]
    return max(divisors, key=lambda size: (size % 8 == 0, size))


def _find_block(schedule: Schedule, *names: str) -> Block | None:
    """The first block that has one of these names."""
    for name in names:
        try:
            return schedule.get_sblock(name)
        except s_tir.ScheduleError:
            continue
    return None


def _tile_k_major(schedule: Schedule, weight: Block | None, product: Block, tile: int) -> None:
    """Vectorize over the rows of a tile: in K-major weights they are contiguous."""
    *tokens, row, k = schedule.get_loops(product)
    outer, inner = schedule.split(row, [None, tile])
    schedule.reorder(outer, *tokens, k, inner)
    schedule.parallel(outer)
    if weight is not None:
        schedule.compute_at(weight, outer)
        schedule.vectorize(schedule.get_loops(weight)[-1])
    schedule.vectorize(inner)
    schedule.decompose_reduction(product, k)


def _tile_n_major(schedule: Schedule, weight: Block | None, product: Block, tile: int) -> None:
    """Vectorize over the inputs of a row, which are contiguous in N-major weights.

    Each vector lane keeps its own partial sum; the lanes are added at the end.
    """
    *tokens, row, k = schedule.get_loops(product)
    outer, inner = schedule.split(row, [None, tile])
    steps, lanes = schedule.split(k, [None, LANES])
    schedule.reorder(outer, inner, *tokens, steps, lanes)
    schedule.parallel(outer)
    sums = schedule.rfactor(lanes, len(tokens) + 1)
    _, row, *tokens, steps, lanes = schedule.get_loops(sums)
    if weight is not None:
        schedule.compute_at(weight, row)
        _, weight_lanes = schedule.split(schedule.get_loops(weight)[-1], [None, LANES])
        schedule.vectorize(weight_lanes)
    schedule.reverse_compute_at(product, tokens[-1])
    schedule.vectorize(lanes)
    schedule.decompose_reduction(sums, steps)
