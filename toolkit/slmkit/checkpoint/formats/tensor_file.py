"""The interface of a format: tensors by name, as floats, and as codes where it stores codes.

A format is one class that implements ``TensorFile``; ``weights.open_weights`` chooses it.
``Shards`` renames and drops entries, so whatever a read needs hangs on the entry, not on its name.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from slmkit.checkpoint.safetensors import Entry
from slmkit.ops import Floats
from slmkit.quant.codes import Codes
from slmkit.recipe.scheme import Scheme

IMPORTED = "imported"  # Scheme.method of codes that a checkpoint brings


class TensorFile(Protocol):
    """The tensors of one or more files by name. ``SafetensorsFile`` is one."""

    entries: dict[str, Entry]

    @property
    def name(self) -> str:
        """For messages: the file's name."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 of what the tensors are read from: the file's bytes, or the files' hashes."""
        ...

    def floats(self, name: str, rows: Any = slice(None)) -> Floats:
        """``rows`` of a tensor as a new float32 array, dequantized if it is stored as codes."""
        ...

    def forget(self, name: str) -> None:
        """Release the tensor's memory-mapped pages; they are read again on the next access."""
        ...


@runtime_checkable
class CodedFile(TensorFile, Protocol):
    """A file that stores some matrices as integers and scales.

    Its coded entries have ``coded=True``, the names and shapes of the float weights that they stand
    for, and a ``dtype`` in the format's own words, such as "Q4_0" or "GPTQ int4 g128".
    """

    transformed: bool  # vectors are stored as ops use them: no ``WeightTransforms`` are applied

    def scheme(self, name: str) -> Scheme | None:
        """The scheme whose codes are the stored numbers, with ``method: imported``; None if no
        scheme holds them. It may read all scales of the tensor."""
        ...

    def rounded(self, name: str) -> bool:
        """Whether the scales or zero points of a tensor's codes are not quite the stored ones."""
        ...

    def codes(self, name: str, rows: Any) -> Codes:
        """``rows`` of a matrix in its ``scheme``: ``Codes.dequantize`` is equal to ``floats``,
        unless they are ``rounded``."""
        ...
