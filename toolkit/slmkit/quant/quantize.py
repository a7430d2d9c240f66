"""Quantize a checkpoint: every weight, a block of rows at a time, into a codes file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.safetensors import SafetensorsWriter, row_blocks
from slmkit.checkpoint.scaled_weights import CodedSource, Source
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import Weight
from slmkit.ops import Floats
from slmkit.quant.codes import Codes, PaletteCodes, group_of, pack, padded_width
from slmkit.quant.files import layout, metadata, packed, refuse_lost, to_float16
from slmkit.quant.kept import scales_in
from slmkit.quant.palette import cluster
from slmkit.quant.round_to_nearest import encode, search_scales
from slmkit.recipe.scheme import Scheme
from slmkit.snr import decibels

VERSION = 9  # of the codes and their file format; part of the content address
BLOCK = 1 << 18  # elements quantized at a time: 1 MB as float32, within a core's cache
Arrays = dict[str, NDArray[Any]]
Progress = Callable[[int], None]  # called with the elements done since the last call


@dataclass
class Energy:
    """Energy of a weight and of its quantization error, for the signal-to-noise ratio."""

    signal: float = 0.0  # sum of squares of the weight
    noise: float = 0.0  # sum of squares of the error

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio in dB; see ``slmkit.snr.decibels``."""
        return decibels(self.signal, self.noise)


def quantize(
    source: Source,
    weights: Mapping[str, Weight],
    schemes: Mapping[str, Scheme],
    path: Path,
    key: str,
    progress: Progress,
    stream_scale: float = 1.0,
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Write the codes of all ``weights`` to ``path``; returns the SNR of each matrix in dB.

    ``schemes``: by matrix name; ``key``: content address; both are stored in the file, and so are
    ``stream_scale``, the factor on the residual stream that the source's weights hold, and
    ``inputs``, what is known of the inputs of linears (``files.metadata``). Peak memory is a few
    blocks, whatever the model's size. Raises CheckpointError for a weight that holds NaN or
    infinity, or whose SNR is below ``files.LEAST_SNR_DB``.
    """
    matrices = {weight.name: weight for weight in weights.values() if len(weight.shape) == 2}
    vectors = {weight.tensor: weight for weight in weights.values() if len(weight.shape) == 1}
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, weight in matrices.items():
        tensors |= layout(name, weight.shape[0], weight.shape[1], schemes[name])
    tensors |= {tensor: ("F16", weight.shape) for tensor, weight in vectors.items()}
    shapes = {name: weight.shape for name, weight in matrices.items()}
    facts, result = metadata(shapes, schemes, key, stream_scale, inputs), {}
    with SafetensorsWriter(path, tensors, facts) as writer:
        for tensor in vectors:
            writer.put(tensor, to_float16(tensor, source.vector(tensor)))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for name, weight in matrices.items():
                energy = _quantize_matrix(source, weight, schemes[name], writer, pool, progress)
                result[name] = energy.snr_db
                if energy.signal > 0:
                    refuse_lost(name, schemes[name], energy.snr_db)
    return result


def _quantize_matrix(
    source: Source,
    weight: Weight,
    scheme: Scheme,
    writer: SafetensorsWriter,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> Energy:
    def work(block: slice) -> tuple[slice, Arrays, Energy]:
        if scheme.method == "imported" and isinstance(source, CodedSource):
            codes = source.codes(weight.name, block)
            energy = Energy(signal=_energy(codes.dequantize()))
            return block, packed_codes(weight.name, codes, scheme), energy
        floats = source.rows(weight.tensor, block)
        arrays, energy = quantize_rows(weight.name, floats, scheme)
        return block, arrays, energy

    total = Energy()
    rows, width = weight.shape
    # 32 is a multiple of every group_rows, so that no palette is cut.
    blocks = row_blocks(rows, width, max(BLOCK, 64 * width), multiple=32)
    for batch in _batches(blocks, 64):
        for block, arrays, energy in pool.map(work, batch):
            for name, array in arrays.items():
                rows_each = scheme.group_rows if name.endswith(".palettes") else None
                writer.put(name, array, block.start // (rows_each or 1))
            total.signal += energy.signal
            total.noise += energy.noise
            progress((block.stop - block.start) * width)
        source.forget(weight.tensor)
    return total


def quantize_rows(name: str, floats: Floats, scheme: Scheme) -> tuple[Arrays, Energy]:
    """Quantize rows of a matrix, (N, K) float32: tensors of the codes file, and their error."""
    if scheme.encoding == "float16":
        return _quantizeto_float16(name, floats)
    if scheme.encoding == "palette":
        return _quantize_to_palettes(name, floats, scheme)
    rows, width = floats.shape
    padded, bits = padded_width(scheme, width), scheme.bits or 8
    group = padded if scheme.encoding == "per-channel" else group_of(scheme, width)
    whole = np.pad(floats, ((0, 0), (0, padded - width))) if padded > width else floats
    columns = np.ascontiguousarray(whole.reshape(-1, group).T)
    best = search_scales(columns, rows, scheme)
    codes = encode(columns, best.scales, best.zero_points, bits, np.empty_like(columns))
    error = (codes - best.zero_points) * best.scales - columns
    energy = Energy(_energy(columns), _energy(error))
    packed = pack(codes.T.astype(np.uint8).reshape(rows, padded), bits)
    arrays: Arrays = {f"{name}.codes": packed}
    if best.channel_scales is not None and best.multipliers is not None:
        arrays[f"{name}.channel_scales"] = best.channel_scales.astype(np.float16)
        arrays[f"{name}.multipliers"] = best.multipliers
    else:
        arrays[f"{name}.scales"] = best.scales.astype(np.float16).reshape(rows, -1)
    if not scheme.symmetric:
        arrays[f"{name}.zero_points"] = best.zero_points.astype(np.uint8).reshape(rows, -1)
    return arrays, energy


def packed_codes(name: str, codes: Codes, scheme: Scheme) -> Arrays:
    """Tensors of the codes file for codes that a checkpoint brings, as they are.

    Their scales are rounded where ``scheme`` has another form of them (``kept.scales_in``).
    Raises CheckpointError for scales that float16 does not hold.
    """
    arrays: Arrays = {f"{name}.codes": pack(codes.codes, scheme.bits or 8)}
    for ending, values in scales_in(codes, scheme).items():
        held = values if values.dtype == np.uint8 else values.astype(np.float16)
        if not np.array_equal(held.astype(np.float32), values):
            raise CheckpointError(
                f"the scales of {name}, which the checkpoint brings, leave float16",
                "--requantize makes codes of its own out of the weights",
            )
        arrays[f"{name}.{ending}"] = held
    if not scheme.symmetric:
        arrays[f"{name}.zero_points"] = codes.zero_points
    return arrays


def _quantize_to_palettes(name: str, floats: Floats, scheme: Scheme) -> tuple[Arrays, Energy]:
    """Cluster all whole groups of rows at once, then a smaller last group. (N, K) float32"""
    rows, width = floats.shape
    group, bits = scheme.group_rows or rows, scheme.bits or 8
    whole = rows // group * group
    parts = [part for part in (floats[:whole], floats[whole:]) if len(part)]
    clusters = [cluster(part.reshape(-1, min(group, len(part)) * width), bits) for part in parts]
    codes = np.concatenate([codes.reshape(-1, width) for _, codes in clusters])
    palettes = np.concatenate([palettes for palettes, _ in clusters])
    dequantized = PaletteCodes(codes, palettes, np.arange(rows) // group).dequantize()
    arrays: Arrays = {
        f"{name}.codes": packed(codes, scheme, np.zeros(rows, np.uint8)),
        f"{name}.palettes": palettes.astype(np.float16),
    }
    return arrays, Energy(_energy(floats), _energy(dequantized - floats))


def _quantizeto_float16(name: str, floats: Floats) -> tuple[Arrays, Energy]:
    halves = to_float16(f"{name}.weight", floats)
    energy = Energy(_energy(floats), _energy(halves.astype(np.float32) - floats))
    return {f"{name}.weight": halves}, energy


def _energy(values: Floats) -> float:
    """Sum of squares, in float64."""
    return float(np.square(values, dtype=np.float64).sum())


def _batches(blocks: Iterator[slice], size: int) -> Iterator[list[slice]]:
    """Lists of up to ``size`` blocks: as many tasks as are in memory at once."""
    batch: list[slice] = []
    for block in blocks:
        batch.append(block)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
