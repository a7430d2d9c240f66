"""The states of a package while the evaluator runs it.

An update of a part is written where the state lies, as Core ML does, if nothing else still reads
what was there: a KV cache of all layers is not copied for each layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil.mil.ops.defs._utils import solve_slice_by_index_slice

from slmkit_coreml.layout import Array

READ, UPDATE = "read_state", "coreml_update_state"


class States:
    """Arrays by the name of their state; operations are given views that cannot be written."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}
        self._views: list[Any] = []  # variables of this run whose values lie in an array

    def begin(self, name: str, shape: tuple[int, ...]) -> None:
        """A run begins: the state is there, of zeros at first."""
        self.arrays.setdefault(name, np.zeros(shape, np.float32))
        self._views.clear()

    def clear(self) -> None:
        """Set all to zeros."""
        self.arrays.clear()

    def read(self, name: str) -> Array:
        """The state as it is now."""
        view = self.arrays[name].view()
        view.flags.writeable = False
        return view

    def store(self, name: str, value: Array) -> Array:
        """The state after an update. What ``write`` returned is the state already."""
        if value.base is not self.arrays[name]:
            self.arrays[name] = np.array(value, np.float32)
        return self.read(name)

    def write(self, op: Any, done: list[Any]) -> Array | None:
        """The state after a ``slice_update``, which is written where it lies.

        ``done``: the variables that no later operation reads. None if the state must be copied:
        the result is not, or not only, its state's next value, or somebody still reads what would
        be overwritten.
        """
        name = _state_of(op.x.op)
        readers = op.outputs[0].child_ops
        alone = len(readers) == 1 and readers[0].op_type == UPDATE and op.x in done
        if name is None or not alone or readers[0].state.name != name:
            return None
        if op.x.val.base is not self.arrays[name]:  # an older value
            return None
        part = self.arrays[name][_slices(op)]
        if any(
            each._sym_val is not None and np.may_share_memory(each._sym_val.val, part)
            for each in self._views
        ):
            return None
        part[...] = np.reshape(op.update.val, part.shape)
        return self.read(name)

    def note(self, variable: Any) -> None:
        """Remember a variable whose value may lie in a state."""
        if self._shares(variable.val):
            self._views.append(variable)

    def apart(self, value: Array) -> Array:
        """A value that later updates do not change."""
        return value.copy() if self._shares(value) else value

    def _shares(self, value: Array) -> bool:
        return any(np.may_share_memory(value, each) for each in self.arrays.values())


def _state_of(op: Any) -> str | None:
    """The name of the state whose value an operation gives; None for other operations."""
    if op is None or op.op_type not in (READ, UPDATE):
        return None
    return str((op.input if op.op_type == READ else op.state).name)


def _slices(op: Any) -> Any:
    """The part that a ``slice_update`` writes, as coremltools computes it."""
    optional = (op.stride, op.begin_mask, op.end_mask, op.squeeze_mask)
    values = [None if each is None else each.val for each in optional]
    return solve_slice_by_index_slice(op.x.shape, op.begin.val, op.end.val, *values)
