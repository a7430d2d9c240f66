"""Execute a saved package on any machine: coremltools' own loader, its own meaning of every op.

The program is rebuilt from the files on disk, constants are decompressed by coremltools, and each
operation is computed by coremltools' ``value_inference``; only those that have none are ours:
``MISSING``, and the two that read and update a state. Every value is held in float32. Two
precisions: ``float32`` rounds nothing between operations, so that it tells whether the graph is
right; ``float16`` rounds every operation's output to float16, an estimate of the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.converters.mil.frontend.milproto import load as loader
from coremltools.converters.mil.mil import types
from coremltools.proto import Model_pb2
from numpy.typing import NDArray

from slmkit.errors import BackendError
from slmkit_coreml.package import MODEL, WEIGHTS

Array = NDArray[Any]


class Held:
    """Stands in for a MIL value: MIL's own setter would narrow float32 to the declared type."""

    __slots__ = ("val",)

    def __init__(self, val: Any) -> None:
        self.val = val


class Package:
    """A saved package, ready to run its functions."""

    def __init__(self, path: Path, precision: str) -> None:
        message = Model_pb2.Model()
        message.ParseFromString((path / MODEL).read_bytes())
        version = message.specificationVersion
        self.program = loader.load(message, version, str(path / WEIGHTS))
        self.halves = precision == "float16"
        self.states: dict[str, Array] = {}
        for function in self.program.functions.values():
            for op in function.operations:
                self._constant(op)

    def run(self, name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of a function by name. Raises BackendError for an op that has no meaning here."""
        function = self.program.functions[name]
        for key, variable in function.inputs.items():
            if types.is_state(variable._sym_type):
                self.states.setdefault(key, np.zeros(variable.shape, np.float32))
            else:
                variable._sym_val = Held(self._rounded(np.asarray(inputs[key])))
        for op in function.operations:
            if not _is_constant(op):
                self._compute(op)
        return {output.name: np.asarray(output.val) for output in function.outputs}

    def _constant(self, op: Any) -> None:
        """Codes decompressed, float16 constants widened: both hold the same numbers as before."""
        if op.op_type.startswith("constexpr_"):
            op.outputs[0]._sym_val = Held(_widened(op.materialized_val_inference()))
        elif op.op_type == "const" and getattr(op.outputs[0].val, "dtype", None) == np.float16:
            op.outputs[0]._sym_val = Held(_widened(op.outputs[0].val))

    def reset(self) -> None:
        """Forget what the states hold: zeros again."""
        self.states.clear()

    def _value(self, op: Any) -> Any:
        if op.op_type == "read_state":
            return self.states[op.input.name].copy()
        if op.op_type == "coreml_update_state":
            self.states[op.state.name] = np.array(op.value.val)
            return op.value.val
        compute = MISSING.get(op.op_type)
        return compute(op) if compute else op.value_inference()

    def _compute(self, op: Any) -> None:
        try:
            values = self._value(op)
        except NotImplementedError:
            values = None
        if values is None:
            raise BackendError(
                f"the evaluator has no meaning for the operation {op.op_type} ({op.name})",
                "please report this",
            )
        found = values if isinstance(values, list | tuple) else [values]
        for output, value in zip(op.outputs, found, strict=True):
            output._sym_val = Held(self._rounded(np.asarray(value)))

    def _rounded(self, value: Array) -> Array:
        if value.dtype.kind != "f":
            return value
        if self.halves:
            with np.errstate(over="ignore"):  # infinity: as the device would have it
                value = value.astype(np.float16)
        return _widened(value)


def _widened(value: Any) -> Array:
    return np.asarray(value).astype(np.float32)


def _is_constant(op: Any) -> bool:
    return bool(op.op_type == "const" or op.op_type.startswith("constexpr_"))


def _conv(op: Any) -> Array:
    """A 1x1 convolution. [1, I, 1, T] -> [1, O, 1, T]"""
    x, weight = op.x.val, op.weight.val
    if weight.shape[2:] != (1, 1) or op.pad_type.val != "valid":
        raise NotImplementedError
    product: Array = weight.reshape(weight.shape[0], -1) @ x.reshape(x.shape[1], -1)
    return product.reshape(1, -1, *x.shape[2:])


def _silu(op: Any) -> Array:
    """x * sigmoid(x): coremltools' backend makes one op of the two."""
    x = op.x.val
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, 0
        result: Array = x / (1 + np.exp(-x))
    return result


MISSING: dict[str, Callable[[Any], Array]] = {"conv": _conv, "silu": _silu}
