"""The format of codes files: what lies in one, and several as one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.safetensors import SafetensorsWriter, row_blocks
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import Weight
from slmkit.ops import Floats
from slmkit.quant.codes import Bytes, CodesFile, group_of, pack, padded_width
from slmkit.recipe.scheme import Scheme

Layout = dict[str, tuple[str, tuple[int, ...]]]  # tensor -> (dtype, shape)
FILE = "codes.safetensors"  # in the cache
LEAST_SNR_DB = 3.0  # below this a weight, or its output, is mostly noise
COPIED = 1 << 22  # bytes copied at a time


def layout(name: str, rows: int, width: int, scheme: Scheme) -> Layout:
    """Tensors of the codes file for a matrix."""
    if scheme.encoding == "float16":
        return {f"{name}.weight": ("F16", (rows, width))}
    padded = padded_width(scheme, width)
    groups = -(-width // group_of(scheme, width))
    tensors: Layout = {f"{name}.codes": ("U8", (rows, padded * (scheme.bits or 8) // 8))}
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
    """Bytes of a matrix under a scheme: codes, scales or palettes, zero points."""
    rows, width = weight.shape
    tensors = layout(weight.name, rows, width, scheme).values()
    return sum(math.prod(shape) * (2 if dtype == "F16" else 1) for dtype, shape in tensors)


def metadata(
    matrices: Mapping[str, tuple[int, ...]],
    schemes: Mapping[str, Scheme],
    key: str,
    stream_scale: float,
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Facts of a codes file: scheme and shape (N, K) of each matrix, and for all of them the
    content address, the factor on the residual stream and what is known of the inputs of linears
    (``CodesFile.outliers``, ``CodesFile.input_parts``)."""
    facts = {
        name: {"scheme": schemes[name].model_dump(exclude_none=True), "shape": shape}
        for name, shape in matrices.items()
    }
    weights = json.dumps(facts, separators=(",", ":"), sort_keys=True)
    known = json.dumps(inputs or {}, separators=(",", ":"), sort_keys=True)
    scale = repr(stream_scale)
    return {"key": key, "weights": weights, "stream_scale": scale, "inputs": known}


def packed(codes: Bytes, scheme: Scheme, filler: Bytes) -> Bytes:
    """Codes (N, K) padded to whole groups with the code ``filler`` (N,) of each row, and packed."""
    padding = padded_width(scheme, codes.shape[1]) - codes.shape[1]
    whole = codes
    if padding:
        whole = np.concatenate([codes, np.repeat(filler[:, None], padding, axis=1)], axis=1)
    return pack(whole, scheme.bits or 8)


def to_float16(tensor: str, floats: Floats) -> NDArray[np.float16]:
    """Round to float16. Raises CheckpointError beyond its range.

    Norms and biases are float16 too: some backends have no wider type, and all backends should
    hold the same values.
    """
    with np.errstate(over="ignore"):
        halves = floats.astype(np.float16)
    if not np.isfinite(halves).all():
        raise CheckpointError(
            f"tensor {tensor} holds {np.abs(floats).max():g}, beyond float16's 65504",
            "a matrix can be quantized (int8, int4): its scales reach further; a norm or bias of "
            "this size comes from a damaged checkpoint",
        )
    return halves


def refuse_lost(name: str, scheme: Scheme, snr_db: float) -> None:
    """Raise CheckpointError for a matrix of which a scheme leaves hardly more than noise."""
    if snr_db < LEAST_SNR_DB:
        raise CheckpointError(
            f"tensor {name}.weight is lost in {scheme}: {snr_db:.1f} dB of signal to noise",
            "its numbers are too small for float16 scales, or of very unequal size: "
            "give it encoding float16 or 8 bits in the recipe",
        )


def write(path: Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, str]) -> None:
    """Write a small codes file at once; ``facts``: ``metadata``, and more."""
    kinds = {"float16": "F16", "uint8": "U8"}
    tensors = {name: (kinds[array.dtype.name], array.shape) for name, array in arrays.items()}
    with SafetensorsWriter(path, tensors, facts) as writer:
        for name, array in arrays.items():
            writer.put(name, array)


def join(
    parts: Sequence[CodesFile], path: Path, key: str, more: Mapping[str, str] | None = None
) -> None:
    """Write the tensors and facts of several codes files as one, and ``more`` facts.

    The last part that has a tensor gives it.
    """
    owners = {name: part for part in parts for name in part.file.entries}
    tensors = {
        name: (owner.file.entries[name].dtype, owner.file.entries[name].shape)
        for name, owner in owners.items()
    }
    facts: dict[str, Any] = {}
    for part in parts:
        facts |= json.loads(part.file.metadata["weights"])
    about = {
        **parts[0].file.metadata,
        **(more or {}),
        "key": key,
        "weights": json.dumps(facts, separators=(",", ":"), sort_keys=True),
    }
    with SafetensorsWriter(path, tensors, about) as writer:
        for name, owner in owners.items():
            array = owner.file.array(name)
            for rows in row_blocks(len(array), array.nbytes // max(1, len(array)), COPIED):
                writer.put(name, array[rows], rows.start)
            owner.file.forget(name)
