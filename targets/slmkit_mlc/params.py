"""The parameters of a library: the bundle's codes under MLC's names, in the layout of its GPU.

A symmetric code c (-8 .. 7, or -128 .. 127) is stored as n = 7 - c (or 127 - c) beside its
negated scale, so that (n - 7) * -scale = c * scale: MLC's own reading of q4f16, with all codes.
Two-level scales are folded: channel scale times multiplier has at most eight significant bits,
and float16 holds eleven. The file format refuses a scale that float16 cannot hold.
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

N_MAJOR, K_MAJOR = "N-major", "K-major"
WORD = 32  # bits
Array = NDArray[Any]
JOINED = {  # linears of one input that are one matrix here: MLC's names
    ("q_proj", "k_proj", "v_proj"): "qkv_proj",
    ("gate_proj", "up_proj"): "gate_up_proj",
}


@dataclass(frozen=True)
class Param:
    """One parameter: a row of the library's ``_metadata`` and of ``tensor-cache.json``."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Matrix:
    """One matrix of the library: some of the checkpoint's, row after row."""

    name: str
    sources: tuple[str, ...]  # names in the checkpoint
    rows: int  # N
    width: int  # K
    scheme: Scheme
    layout: str

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return group_of(self.scheme, self.width)

    @property
    def zero(self) -> int:
        """The stored number that means 0, of a symmetric weight."""
        return (1 << ((self.scheme.bits or 8) - 1)) - 1

    @property
    def params(self) -> tuple[Param, ...]:
        """What is stored: words of codes, scales, zero points; or the numbers."""
        if self.scheme.bits is None:
            return (Param(f"{self.name}.weight", self._lying(self.width), "float16"),)
        padded = padded_width(self.scheme, self.width)
        groups = self._lying(-(-padded // self.group))
        words = self._lying(-(-padded * self.scheme.bits // WORD))
        found = [
            Param(f"{self.name}.q_weight", words, "uint32"),
            Param(f"{self.name}.q_scale", groups, "float16"),
        ]
        if not self.scheme.symmetric:
            found.append(Param(f"{self.name}.q_zero", groups, "uint8"))
        return tuple(found)

    def values(self, codes: CodesFile) -> Iterator[Array]:
        """The parameters' numbers, in their order, each made when it is asked for."""
        if self.scheme.bits is None:
            yield self._laid([codes.halves(name) for name in self.sources])
            return
        yield self._laid([self._words(codes.packed(name)) for name in self.sources])
        yield self._laid([self._scales(codes, name) for name in self.sources])
        if not self.scheme.symmetric:
            yield self._laid([codes.zero_points(name) for name in self.sources])

    def _lying(self, columns: int) -> tuple[int, int]:
        return (columns, self.rows) if self.layout == K_MAJOR else (self.rows, columns)

    def _laid(self, parts: list[Array]) -> Array:
        whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return np.ascontiguousarray(whole.T if self.layout == K_MAJOR else whole)

    def _words(self, packed: Array) -> Array:
        """(N, bytes) -> (N, words): the first code in the lowest bits; symmetric codes turned."""
        missing = -packed.shape[1] % (WORD // 8)
        if missing:
            packed = np.pad(packed, [(0, 0), (0, missing)])
        turned = ~packed if self.scheme.symmetric else packed
        words: Array = np.ascontiguousarray(turned).view("<u4")
        return words

    def _scales(self, codes: CodesFile, name: str) -> Array:
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
    """A norm's weight or biases, one after the other."""

    name: str
    sources: tuple[str, ...]
    width: int

    @property
    def params(self) -> tuple[Param, ...]:
        """The numbers, as the codes file holds them."""
        return (Param(self.name, (self.width,), "float16"),)

    def values(self, codes: CodesFile) -> Iterator[Array]:
        """The parameter's numbers."""
        yield np.concatenate([codes.vector(name) for name in self.sources]).astype(np.float16)


@dataclass(frozen=True)
class Table:
    """All parameters of a library, in the order of its packed tuple."""

    matrices: Mapping[str, Matrix]  # by the name of the first source
    vectors: Mapping[str, Vector]
    embedding: str  # the table that tokens are looked up in
    head: str  # the matrix that gives the logits

    @property
    def stored(self) -> list[Matrix | Vector]:
        """What is stored, in order."""
        return [*self.matrices.values(), *self.vectors.values()]

    @property
    def params(self) -> list[Param]:
        """Every parameter, in order."""
        return [param for each in self.stored for param in each.params]

    def joined(self, names: tuple[str, ...]) -> Matrix | None:
        """The one matrix of several linears, if they are stored as one."""
        found = self.matrices.get(names[0])
        return found if found and found.sources == names else None

    def values(self, codes: CodesFile) -> Iterator[tuple[str, Array]]:
        """Names and numbers, one after the other."""
        for each in self.stored:
            for param, numbers in zip(each.params, each.values(codes), strict=True):
                if param.shape != numbers.shape or param.dtype != str(numbers.dtype):
                    raise BackendError(
                        f"the parameter {param.name} came out as {numbers.dtype}{numbers.shape}",
                        "please report this",
                    )
                yield param.name, numbers


def table_of(model: Model, schemes: Mapping[str, Scheme], layout: str) -> Table:
    """The parameters of a model. Tables that are looked up are N-major: rows are read."""
    matrices: dict[str, Matrix] = {}
    vectors: dict[str, Vector] = {}
    taken: set[str] = set()
    mixed = {group[0]: group for group in _mixtures(model, schemes)}
    for name, shape in model.shapes.items():
        if name in taken:
            continue
        group, title = _group(model, schemes, name)
        if name in mixed:
            group, title = mixed[name], _without_number(name)
        taken |= set(group)
        if len(shape) == 1:
            width = sum(model.shapes[each][0] for each in group)
            vectors[name] = Vector(title, group, width)
        else:
            rows = sum(model.shapes[each][0] for each in group)
            lying = N_MAJOR if name in model.looked_up else layout
            matrices[name] = Matrix(title, group, rows, shape[1], schemes[name], lying)
    (embedding,) = model.looked_up
    (head,) = (name for name in model.multiplied if ".layers." not in name)
    return Table(matrices, vectors, embedding, head)


def _mixtures(model: Model, schemes: Mapping[str, Scheme]) -> Iterator[tuple[str, ...]]:
    """The experts' matrices of a layer, gate and up after each other, and downs, if all of them
    are coded alike."""
    for experts in model.moe_layers:
        names = [name for each in experts for name in (*each.gate_up, each.down)]
        if len({schemes[name] for name in names}) == 1:
            yield tuple(name for each in experts for name in each.gate_up)
            yield tuple(each.down for each in experts)


def _without_number(name: str) -> str:
    """``mlp.experts.0.gate_proj`` -> ``mlp.experts.gate_proj``, the name for all of them."""
    return re.sub(r"\.0(?=\.[a-z]\w*$|$)", "", name)


def _group(model: Model, schemes: Mapping[str, Scheme], tensor: str) -> tuple[tuple[str, ...], str]:
    """The tensors that are stored with this one, and under which name."""
    name, bias = tensor.removesuffix(".bias"), ".bias" if tensor.endswith(".bias") else ""
    parent, _, leaf = name.rpartition(".")
    for leaves, title in JOINED.items():
        names = tuple(f"{parent}.{each}" for each in leaves)
        if leaf != leaves[0] or not {*names, *(each + bias for each in names)} <= set(model.shapes):
            continue
        if len({(schemes[each], model.shapes[each][1]) for each in names}) == 1:
            return tuple(each + bias for each in names), f"{parent}.{title}{bias}"
    return (tensor,), tensor
