"""Parameters of a library: the bundle's codes under MLC's names, in the layout that its GPU reads.

A symmetric code c (-8 .. 7, or -128 .. 127) is stored as n = 7 - c (or 127 - c) with the negated
scale, so that (n - 7) * -scale = c * scale: this is how MLC decodes q4f16, for every code.
Two-level scales are folded into one: channel scale times multiplier has at most eight significant
bits, and float16 holds eleven. A scale that float16 cannot hold exactly raises BackendError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.backend.interface import Model
from slmkit.errors import BackendError
from slmkit.quant.codes import CodesFile, group_of, padded_width
from slmkit.recipe.scheme import Scheme

N_MAJOR, K_MAJOR = "N-major", "K-major"  # see gpus.json
WORD = 32  # bits
Array = NDArray[Any]
FUSED = {  # linears of one input that MLC stores as one matrix, and its name for it
    ("q_proj", "k_proj", "v_proj"): "qkv_proj",
    ("gate_proj", "up_proj"): "gate_up_proj",
}


@dataclass(frozen=True)
class Param:
    """One parameter: an entry of the library's ``_metadata`` and of ``tensor-cache.json``."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Matrix:
    """One matrix of the library, (N, K): one or several of the checkpoint's, stacked."""

    name: str
    sources: tuple[str, ...]  # names in the checkpoint
    rows: int  # N
    width: int  # K
    scheme: Scheme
    layout: str  # N_MAJOR or K_MAJOR

    @property
    def group_size(self) -> int:
        """Inputs that share a scale."""
        return group_of(self.scheme, self.width)

    @property
    def zero_point(self) -> int:
        """The stored code that means 0 in a symmetric scheme: 7 or 127."""
        return (1 << ((self.scheme.bits or 8) - 1)) - 1

    @property
    def params(self) -> tuple[Param, ...]:
        """Words of codes, scales and, if asymmetric, zero points; or the float16 weights."""
        if self.scheme.bits is None:
            return (Param(f"{self.name}.weight", self._shape(self.width), "float16"),)
        padded = padded_width(self.scheme, self.width)
        groups = self._shape(-(-padded // self.group_size))
        words = self._shape(-(-padded * self.scheme.bits // WORD))
        params = [
            Param(f"{self.name}.q_weight", words, "uint32"),
            Param(f"{self.name}.q_scale", groups, "float16"),
        ]
        if not self.scheme.symmetric:
            params.append(Param(f"{self.name}.q_zero", groups, "uint8"))
        return tuple(params)

    def values(self, codes: CodesFile) -> Iterator[Array]:
        """The arrays of ``params``, in order, each computed when it is needed."""
        if self.scheme.bits is None:
            yield self._stack([codes.halves(name) for name in self.sources])
            return
        yield self._stack([self._words(codes.packed(name)) for name in self.sources])
        yield self._stack([self._scales(codes, name) for name in self.sources])
        if not self.scheme.symmetric:
            yield self._stack([codes.zero_points(name) for name in self.sources])

    def _shape(self, columns: int) -> tuple[int, int]:
        """The shape of a parameter with ``columns`` numbers per row, in the matrix's layout."""
        return (columns, self.rows) if self.layout == K_MAJOR else (self.rows, columns)

    def _stack(self, parts: list[Array]) -> Array:
        """Stack the rows of the sources and bring them into the matrix's layout."""
        whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return np.ascontiguousarray(whole.T if self.layout == K_MAJOR else whole)

    def _words(self, packed: Array) -> Array:
        """(N, bytes) -> (N, words), the first code in the lowest bits; symmetric codes negated."""
        missing = -packed.shape[1] % (WORD // 8)
        if missing:
            packed = np.pad(packed, [(0, 0), (0, missing)])
        stored = ~packed if self.scheme.symmetric else packed  # c + 8 -> 7 - c
        words: Array = np.ascontiguousarray(stored).view("<u4")
        return words

    def _scales(self, codes: CodesFile, name: str) -> Array:
        """Scales in float16, negated if symmetric. Raises BackendError if they are not exact."""
        scales = codes.scales(name)
        stored = (-scales if self.scheme.symmetric else scales).astype(np.float16)
        if not np.array_equal(np.abs(stored.astype(np.float32)), np.abs(scales)):
            raise BackendError(
                f"scales of {name} are not exact in float16",
                "please report this: codes keep them so",
            )
        return stored


@dataclass(frozen=True)
class Vector:
    """One vector of the library, float16: one or several of the checkpoint's, concatenated."""

    name: str
    sources: tuple[str, ...]
    width: int

    @property
    def params(self) -> tuple[Param, ...]:
        """The vector itself, as one parameter."""
        return (Param(self.name, (self.width,), "float16"),)

    def values(self, codes: CodesFile) -> Iterator[Array]:
        """The array of the parameter."""
        yield np.concatenate([codes.vector(name) for name in self.sources]).astype(np.float16)


@dataclass(frozen=True)
class Table:
    """All parameters of a library, in the order of its ``packed_params``."""

    matrices: Mapping[str, Matrix]  # by the name of the first source
    vectors: Mapping[str, Vector]  # likewise
    embedding: str  # the matrix whose rows are looked up
    head: str  # the matrix that computes the logits

    @property
    def tensors(self) -> list[Matrix | Vector]:
        """Matrices, then vectors, in order."""
        return [*self.matrices.values(), *self.vectors.values()]

    @property
    def params(self) -> list[Param]:
        """Every parameter, in order."""
        return [param for tensor in self.tensors for param in tensor.params]

    def fused(self, names: tuple[str, ...]) -> Matrix | None:
        """The matrix that holds exactly these linears; None if they are stored apart."""
        matrix = self.matrices.get(names[0])
        return matrix if matrix and matrix.sources == names else None

    def values(self, codes: CodesFile) -> Iterator[tuple[str, Array]]:
        """Name and array of every parameter, in order, each computed when it is needed: the codes
        that were read are not kept in memory."""
        for tensor in self.tensors:
            for param, array in zip(tensor.params, tensor.values(codes), strict=True):
                if param.shape != array.shape or param.dtype != str(array.dtype):
                    raise BackendError(
                        f"the parameter {param.name} came out as {array.dtype}{array.shape}",
                        "please report this",
                    )
                yield param.name, array
            for name in tensor.sources:
                codes.forget(name)


def table_of(model: Model, schemes: Mapping[str, Scheme], layout: str) -> Table:
    """The parameters of a model's library.

    Linears have this layout; embeddings are always N-major, because their rows are looked up.
    """
    matrices: dict[str, Matrix] = {}
    vectors: dict[str, Vector] = {}
    assigned: set[str] = set()
    expert_stacks = {stack[0]: stack for stack in _expert_stacks(model, schemes)}
    for name, shape in model.shapes.items():
        if name in assigned:
            continue
        if name in expert_stacks:
            sources, title = expert_stacks[name], _without_expert_number(name)
        else:
            sources, title = _fused_sources(model, schemes, name)
        assigned |= set(sources)
        rows = sum(model.shapes[source][0] for source in sources)
        if len(shape) == 1:
            vectors[name] = Vector(title, sources, rows)
        else:
            own_layout = N_MAJOR if name in model.looked_up else layout
            matrices[name] = Matrix(title, sources, rows, shape[1], schemes[name], own_layout)
    (embedding,) = model.looked_up
    (head,) = (name for name in model.multiplied if ".layers." not in name)
    return Table(matrices, vectors, embedding, head)


def _expert_stacks(model: Model, schemes: Mapping[str, Scheme]) -> Iterator[tuple[str, ...]]:
    """Per layer, the experts' gate and up matrices as one stack and the downs as another.

    Only of layers whose experts all have the same scheme.
    """
    for experts in model.moe_layers:
        gate_up = tuple(name for expert in experts for name in expert.gate_up)
        down = tuple(expert.down for expert in experts)
        if len({schemes[name] for name in (*gate_up, *down)}) == 1:
            yield gate_up
            yield down


def _without_expert_number(name: str) -> str:
    """``mlp.experts.0.gate_proj`` -> ``mlp.experts.gate_proj``, the name of the stack."""
    return re.sub(r"\.0(?=\.[a-z]\w*$|$)", "", name)


def _fused_sources(
    model: Model, schemes: Mapping[str, Scheme], tensor: str
) -> tuple[tuple[str, ...], str]:
    """The tensors that are stored as one with this first one, and the name of that tensor.

    Linears are fused if their schemes and widths are the same; biases, if their linears are fused
    and all have one.
    """
    name, bias = tensor.removesuffix(".bias"), ".bias" if tensor.endswith(".bias") else ""
    parent, _, leaf = name.rpartition(".")
    for leaves, title in FUSED.items():
        names = tuple(f"{parent}.{other}" for other in leaves)
        tensors = tuple(other + bias for other in names)
        if leaf != leaves[0] or not {*names, *tensors} <= set(model.shapes):
            continue
        if len({(schemes[other], model.shapes[other][1]) for other in names}) == 1:
            return tensors, f"{parent}.{title}{bias}"
    return (tensor,), tensor
