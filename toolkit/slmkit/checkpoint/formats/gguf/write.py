"""Write a GGUF file: a model's codes as they are, its facts and its tokenizer as metadata."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.formats.gguf.encode import FLOAT16, blocks, kind_of, needs_minimum
from slmkit.checkpoint.formats.gguf.library import kinds, library, numbers
from slmkit.checkpoint.formats.gguf.metadata import LEAVE, Facts
from slmkit.checkpoint.formats.gguf.names import Place, places, stored_rows
from slmkit.checkpoint.safetensors import row_blocks
from slmkit.errors import RefusedError
from slmkit.interpreters.recorder import Model, Weight
from slmkit.ops import Floats
from slmkit.quant.codes import CodesFile

BLOCK = 1 << 20  # numbers written at a time
VERSION = 2  # general.quantization_version of the types
Progress = Callable[[int], None]  # elements done since the last call


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file: its type, its shape, and its rows a block at a time."""

    name: str
    kind: str
    shape: tuple[int, ...]
    rows: Callable[[], Iterator[NDArray[Any]]]

    @property
    def bytes(self) -> int:
        """Size of the data."""
        _, count, size = kinds()[numbers()[self.kind]]
        return math.prod(self.shape) // count * size


def write_gguf(
    path: Path,
    model: Model,
    facts: Facts,
    codes: CodesFile,
    metadata: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Write a model's codes. Raises RefusedError for codes that GGUF does not hold exactly.

    ``metadata``: more keys, with their prefix: of the tokenizer, and about the file.
    """
    spec = model.spec
    found = places(model.weights, facts.architecture, spec.layers, spec.heads, spec.kv_heads)
    tensors = [*_tensors(model, found, codes), *_factors(facts)]
    write_tensors(path, facts, tensors, metadata, progress)


def write_tensors(
    path: Path,
    facts: Facts,
    tensors: list[Tensor],
    metadata: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Write a file of given tensors."""
    gguf = library()
    writer = gguf.GGUFWriter(path, facts.architecture)
    own = {f"{facts.architecture}.{key}": value for key, value in facts.values.items()}
    writer.add_quantization_version(VERSION)
    for key, value in {**own, **metadata}.items():
        _add(writer, key, value)
    for each in tensors:
        kind = gguf.GGMLQuantizationType(numbers()[each.kind])
        shape = gguf.quant_shape_to_byte_shape(each.shape, kind) if _coded(each) else each.shape
        dtype = np.dtype(np.uint8 if _coded(each) else each.kind.lower().replace("f", "float"))
        writer.add_tensor_info(each.name, shape, dtype, each.bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        _write_data(writer, tensors, progress)
    finally:
        writer.close()


def _write_data(writer: Any, tensors: list[Tensor], progress: Progress) -> None:
    output = writer.fout[0]
    for each in tensors:
        writer.write_padding(output, output.tell())
        for block in each.rows():
            output.write(np.ascontiguousarray(block).data)
            progress(math.prod(block.shape))
        writer.write_padding(output, output.tell())


def _tensors(model: Model, found: Mapping[str, Place], codes: CodesFile) -> Iterator[Tensor]:
    stacks: dict[str, list[tuple[Weight, Place]]] = {}
    for tensor, weight in model.weights.items():
        if tensor not in found:
            raise RefusedError(f"GGUF has no name for {tensor}", LEAVE)
        stacks.setdefault(found[tensor].name, []).append((weight, found[tensor]))
    for name, members in stacks.items():
        if len(members) > 1 and any(place.expert is None for _, place in members):
            raise RefusedError(f"two tensors of the model are GGUF's {name}", LEAVE)
        yield _tensor(name, members, codes)


def _tensor(name: str, members: list[tuple[Weight, Place]], codes: CodesFile) -> Tensor:
    weight, place = members[0]
    if len(weight.shape) == 1:
        return Tensor(name, "F32", weight.shape, lambda: iter([_vector(codes, weight, place)]))
    all_ = [each for each, _ in members]
    kinds_ = {kind_of(each.name, codes.schemes[each.name], each.shape[1]) for each in all_}
    if len(kinds_) > 1:
        raise RefusedError(f"the experts of {name} have codes of several kinds", LEAVE)
    (kind,) = kinds_
    if kind == "Q4_0" and any(_minimum(codes, each) for each in all_):
        kind = "Q4_1"
    shape = weight.shape if place.expert is None else (len(members), *weight.shape)

    def rows() -> Iterator[NDArray[Any]]:
        for each, where in members:
            yield from _rows(codes, each, where, kind)

    return Tensor(name, kind, shape, rows)


def _minimum(codes: CodesFile, weight: Weight) -> bool:
    scheme = codes.schemes[weight.name]
    return not scheme.symmetric and any(
        needs_minimum(codes.codes(weight.name, rows))
        for rows in row_blocks(weight.shape[0], weight.shape[1], BLOCK)
    )


def _rows(codes: CodesFile, weight: Weight, place: Place, kind: str) -> Iterator[NDArray[Any]]:
    order = _order(weight.shape[0], place.heads)
    for block in row_blocks(weight.shape[0], weight.shape[1], BLOCK):
        rows: Any = block if order is None else order[block]
        if kind == FLOAT16:
            yield codes.halves(weight.name)[rows]
        else:
            yield blocks(weight.name, kind, codes.codes(weight.name, rows))
    codes.forget(weight.name)


def _vector(codes: CodesFile, weight: Weight, place: Place) -> Floats:
    values, order = codes.vector(weight.tensor), _order(weight.shape[0], place.heads)
    return values if order is None else values[order]


def _order(rows: int, heads: int) -> NDArray[np.int64] | None:
    """The model's rows in the file's order; None: the same."""
    return np.argsort(stored_rows(rows, heads)) if heads else None


def _factors(facts: Facts) -> Iterator[Tensor]:
    for name, values in facts.factors.items():
        yield Tensor(name, "F32", values.shape, lambda own=values: iter([own]))  # type: ignore[misc]


def _coded(tensor: Tensor) -> bool:
    return not tensor.kind.startswith("F")


def _add(writer: Any, key: str, value: Any) -> None:
    """Metadata by the value's own type; integers are uint32 as llama.cpp wants them."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
