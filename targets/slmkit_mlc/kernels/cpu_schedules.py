"""Schedules for the processor that the proof runs on: products of codes, a tile of rows at a time.

A tile's numbers are made once and multiplied with every token while they are in the cache, in
vectors; tiles go to the cores in parallel. So no dequantized weight is ever there as a whole. A
product whose rows no tile divides is left as it is written, which is right, and slow.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx

from slmkit_mlc.params import K_MAJOR

Module = Any
Pass = Any
Schedule = Any
Block = Any
PRODUCTS = ("matmul", "grown", "shrunk")  # blocks that sum over the inputs of a row
TILE = 64  # rows, at most
LANES = 16  # float32 numbers in a vector


def tiles(layout: str) -> Pass:
    """A pass that schedules every product of a program whose matrices have this layout."""

    @tvm.transform.module_pass(opt_level=0)
    def run(mod: Module, _: Any) -> Module:
        for own, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc):
                mod[own] = tiled(function, layout)
        return mod

    return run


def tiled(function: Any, layout: str) -> Any:
    """A function in tiles; as it was if it has no product, or no tile divides its rows."""
    schedule = s_tir.Schedule(function)
    product, weight = _block(schedule, *PRODUCTS), _block(schedule, "dequantize")
    if product is None:
        return function
    rows, width = (int(schedule.get(loop).extent) for loop in schedule.get_loops(product)[-2:])
    tile = _tile(rows)
    if layout == K_MAJOR and tile > 1:
        _by_input(schedule, weight, product, tile)
    elif layout != K_MAJOR and width % LANES == 0:
        _by_row(schedule, weight, product, tile)
    return schedule.mod["main"]


def _tile(rows: int) -> int:
    """The largest divisor that fills vectors of eight, or the largest one."""
    divisors = [each for each in range(1, TILE + 1) if rows % each == 0]
    return max(divisors, key=lambda each: (each % 8 == 0, each))


def _block(schedule: Schedule, *names: str) -> Block | None:
    """The first block with one of these names."""
    for name in names:
        try:
            return schedule.get_sblock(name)
        except s_tir.ScheduleError:
            continue
    return None


def _by_input(schedule: Schedule, weight: Block | None, product: Block, tile: int) -> None:
    """Rows of a tile lie side by side: a vector of them for each input."""
    *tokens, row, at = schedule.get_loops(product)
    outer, inner = schedule.split(row, [None, tile])
    schedule.reorder(outer, *tokens, at, inner)
    schedule.parallel(outer)
    if weight is not None:
        schedule.compute_at(weight, outer)
        schedule.vectorize(schedule.get_loops(weight)[-1])
    schedule.vectorize(inner)
    schedule.decompose_reduction(product, at)


def _by_row(schedule: Schedule, weight: Block | None, product: Block, tile: int) -> None:
    """Inputs of a row lie side by side: as many sums as a vector has lanes, added at last."""
    *tokens, row, at = schedule.get_loops(product)
    outer, inner = schedule.split(row, [None, tile])
    steps, lanes = schedule.split(at, [None, LANES])
    schedule.reorder(outer, inner, *tokens, steps, lanes)
    schedule.parallel(outer)
    sums = schedule.rfactor(lanes, len(tokens) + 1)
    _, row, *tokens, steps, lanes = schedule.get_loops(sums)
    if weight is not None:
        schedule.compute_at(weight, row)
        schedule.vectorize(schedule.split(schedule.get_loops(weight)[-1], [None, LANES])[-1])
    schedule.reverse_compute_at(product, tokens[-1])
    schedule.vectorize(lanes)
    schedule.decompose_reduction(sums, steps)
