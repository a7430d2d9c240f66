"""The value type of the ``coreml`` artifact's interpreters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coremltools.converters.mil import Builder as mb  # noqa: N813

NOT_HERE = ()  # parts of a value that another chunk computes


@dataclass(frozen=True, eq=False)
class Value:
    """One MIL variable, or several that hold consecutive channels.

    ``shape``: (D,) or (H, d). ``parts`` is NOT_HERE for a value of another chunk.
    """

    parts: tuple[Any, ...]
    shape: tuple[int, ...]

    @property
    def variable(self) -> Any:
        """One variable; only the ``ane`` layout has several parts, with the channels on axis 1."""
        return self.parts[0] if len(self.parts) == 1 else mb.concat(values=self.parts, axis=1)

    def map_parts(self, function: Callable[[Any], Any]) -> Value:
        """Apply an elementwise function to each part, so that the logits stay in parts."""
        return Value(tuple(function(part) for part in self.parts), self.shape)
