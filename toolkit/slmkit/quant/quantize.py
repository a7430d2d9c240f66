"""Quantize a checkpoint: each named weight once, a block of rows at a time, into the codes file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.safetensors import SafetensorsWriter, row_blocks
from slmkit.checkpoint.shards import Shards
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import Weight
from slmkit.ops import Floats
from slmkit.quant.codes import PaletteCodes, group_of, pack, padded_width
from slmkit.quant.palette import cluster
from slmkit.quant.round_to_nearest import encode, search
from slmkit.recipe.scheme import Scheme
from slmkit.snr import decibels

VERSION = 2  # of codes and their file; part of the content address
BLOCK = 1 << 18  # numbers searched at a time: stays in a core's cache
LOST_DB = 3.0  # below this a weight is mostly noise
Arrays = dict[str, NDArray[Any]]
Progress = Callable[[int], None]  # numbers done since the last call


@dataclass
class Energy:
    """Signal and noise of one weight, for its signal-to-noise ratio."""

    signal: float = 0.0
    noise: float = 0.0

    @property
    def snr_db(self) -> float:
        """In decibels, as ``slmkit.snr`` has it."""
        return decibels(self.signal, self.noise)


def quantize(
    shards: Shards,
    weights: Mapping[str, Weight],
    schemes: Mapping[str, Scheme],
    path: Path,
    key: str,
    progress: Progress,
) -> dict[str, float]:
    """Write the codes of all ``weights`` to ``path``; returns each weight's SNR in dB.

    Peak memory is a few blocks, whatever the model's size. Raises CheckpointError for a weight
    that holds NaN or infinity, or that its scheme would lose.
    """
    matrices = {weight.name: weight for weight in weights.values() if len(weight.shape) == 2}
    vectors = {weight.tensor: weight for weight in weights.values() if len(weight.shape) == 1}
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, weight in matrices.items():
        tensors |= _layout(name, weight.shape[0], weight.shape[1], schemes[name])
    tensors |= {tensor: ("F16", weight.shape) for tensor, weight in vectors.items()}
    metadata = {"key": key, "weights": _facts(matrices, schemes)}
    result = {}
    with SafetensorsWriter(path, tensors, metadata) as writer:
        for tensor in vectors:
            writer.put(tensor, _rounded(tensor, shards.vector(tensor)))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for name, weight in matrices.items():
                energy = _one(shards, weight, schemes[name], writer, pool, progress)
                result[name] = energy.snr_db
                _refuse_lost(name, schemes[name], energy)
    return result


def _one(
    shards: Shards,
    weight: Weight,
    scheme: Scheme,
    writer: SafetensorsWriter,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> Energy:
    def work(block: slice) -> tuple[slice, Arrays, Energy]:
        floats = shards.rows(weight.tensor, block)
        arrays, energy = quantize_rows(weight.name, floats, scheme)
        return block, arrays, energy

    total = Energy()
    rows, width = weight.shape
    blocks = row_blocks(rows, width, max(BLOCK, 64 * width), multiple=32)  # of every group_rows
    for batch in _batches(blocks, 64):
        for block, arrays, energy in pool.map(work, batch):
            for name, array in arrays.items():
                share = scheme.group_rows if name.endswith(".palettes") else None
                writer.put(name, array, block.start // (share or 1))
            total.signal += energy.signal
            total.noise += energy.noise
            progress((block.stop - block.start) * width)
        shards.where[weight.tensor].forget(weight.tensor)
    return total


def quantize_rows(name: str, floats: Floats, scheme: Scheme) -> tuple[Arrays, Energy]:
    """Codes of some rows, as the tensors of the codes file. (N, K) float32 in."""
    if scheme.encoding == "float16":
        return _halves(name, floats)
    if scheme.encoding == "palette":
        return _palettes(name, floats, scheme)
    rows, width = floats.shape
    padded, bits = padded_width(scheme, width), scheme.bits or 8
    group = padded if scheme.encoding == "per-channel" else group_of(scheme, width)
    filled = np.pad(floats, ((0, 0), (0, padded - width))) if padded > width else floats
    columns = np.ascontiguousarray(filled.reshape(-1, group).T)
    found = search(columns, rows, scheme)
    codes = encode(columns, found.scales, found.zero_points, bits, np.empty_like(columns))
    error = (codes - found.zero_points) * found.scales - columns
    energy = Energy(_energy(columns), _energy(error))
    packed = pack(codes.T.astype(np.uint8).reshape(rows, padded), bits)
    arrays: Arrays = {f"{name}.codes": packed}
    if found.channel_scales is not None and found.multipliers is not None:
        arrays[f"{name}.channel_scales"] = found.channel_scales.astype(np.float16)
        arrays[f"{name}.multipliers"] = found.multipliers
    else:
        arrays[f"{name}.scales"] = found.scales.astype(np.float16).reshape(rows, -1)
    if not scheme.symmetric:
        arrays[f"{name}.zero_points"] = found.zero_points.astype(np.uint8).reshape(rows, -1)
    return arrays, energy


def _palettes(name: str, floats: Floats, scheme: Scheme) -> tuple[Arrays, Energy]:
    """Whole groups of rows at once, then a smaller last one. (N, K) float32 in."""
    rows, width = floats.shape
    group, bits = scheme.group_rows or rows, scheme.bits or 8
    whole = rows // group * group
    parts = [part for part in (floats[:whole], floats[whole:]) if len(part)]
    found = [cluster(part.reshape(-1, min(group, len(part)) * width), bits) for part in parts]
    codes = np.concatenate([codes.reshape(-1, width) for _, codes in found])
    palettes = np.concatenate([palettes for palettes, _ in found])
    meant = PaletteCodes(codes, palettes, np.arange(rows) // group).dequantize()
    filled = np.pad(codes, ((0, 0), (0, padded_width(scheme, width) - width)))
    arrays: Arrays = {
        f"{name}.codes": pack(filled, bits),
        f"{name}.palettes": palettes.astype(np.float16),
    }
    return arrays, Energy(_energy(floats), _energy(meant - floats))


def _halves(name: str, floats: Floats) -> tuple[Arrays, Energy]:
    halves = _rounded(f"{name}.weight", floats)
    energy = Energy(_energy(floats), _energy(halves.astype(np.float32) - floats))
    return {f"{name}.weight": halves}, energy


def _rounded(tensor: str, floats: Floats) -> NDArray[np.float16]:
    """float16 numbers. Norms and biases too: so every backend, some of which know nothing wider,
    holds the same ones."""
    with np.errstate(over="ignore"):
        halves = floats.astype(np.float16)
    if not np.isfinite(halves).all():
        raise CheckpointError(
            f"tensor {tensor} holds {np.abs(floats).max():g}, beyond float16's 65504",
            "a matrix can be quantized (int8, int4): its scales reach further; a norm or bias of "
            "this size comes from a damaged checkpoint",
        )
    return halves


def _energy(values: Floats) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _refuse_lost(name: str, scheme: Scheme, energy: Energy) -> None:
    if energy.snr_db < LOST_DB and energy.signal > 0:
        raise CheckpointError(
            f"tensor {name}.weight is lost in {scheme}: {energy.snr_db:.1f} dB of signal to noise",
            "its numbers are too small for float16 scales, or of very unequal size: "
            "give it encoding float16 or 8 bits in the recipe",
        )


def _layout(
    name: str, rows: int, width: int, scheme: Scheme
) -> dict[str, tuple[str, tuple[int, ...]]]:
    if scheme.encoding == "float16":
        return {f"{name}.weight": ("F16", (rows, width))}
    padded = padded_width(scheme, width)
    groups = -(-width // group_of(scheme, width))
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {
        f"{name}.codes": ("U8", (rows, padded * (scheme.bits or 8) // 8))
    }
    if scheme.encoding == "palette":
        palettes = -(-rows // (scheme.group_rows or rows))
        tensors[f"{name}.palettes"] = ("F16", (palettes, 1 << (scheme.bits or 8)))
    elif scheme.scales == "two-level":
        tensors[f"{name}.channel_scales"] = ("F16", (rows,))
        tensors[f"{name}.multipliers"] = ("U8", (rows, groups))
    else:
        tensors[f"{name}.scales"] = ("F16", (rows, groups))
    if not scheme.symmetric:
        tensors[f"{name}.zero_points"] = ("U8", (rows, groups))
    return tensors


def stored_bytes(weight: Weight, scheme: Scheme) -> int:
    """What a matrix takes under a scheme: codes, float16 scales or palettes, zero points."""
    rows, width = weight.shape
    tensors = _layout(weight.name, rows, width, scheme).values()
    return sum(math.prod(shape) * (2 if dtype == "F16" else 1) for dtype, shape in tensors)


def _facts(matrices: Mapping[str, Weight], schemes: Mapping[str, Scheme]) -> str:
    facts = {
        name: {"scheme": schemes[name].model_dump(exclude_none=True), "shape": weight.shape}
        for name, weight in matrices.items()
    }
    return json.dumps(facts, separators=(",", ":"), sort_keys=True)


def _batches(blocks: Iterator[slice], size: int) -> Iterator[list[slice]]:
    batch: list[slice] = []
    for block in blocks:
        batch.append(block)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
