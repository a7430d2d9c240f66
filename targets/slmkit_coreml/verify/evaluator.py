"""Execute a saved package on any machine: coremltools' own loader, its own meaning of every op.

The program is rebuilt from the files on disk, integers are decompressed by coremltools and palettes
beside it (``kernels.decompressed``), and each operation is computed by coremltools'
``value_inference``; only those that have none are ours: ``kernels.MISSING``, and the two that read
and update a state. Every value is held in float32. Two precisions: ``float32`` rounds nothing
between operations, so that it tells whether the graph is right; ``float16`` rounds every
operation's output to float16, an estimate of the device.

Decompressed weights are kept up to a limit, over all packages of a model; those beyond it are
decompressed for each use and dropped, so that a model of any size runs.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.converters.mil.frontend.milproto import load as loader
from coremltools.converters.mil.mil import types

from slmkit.errors import BackendError
from slmkit_coreml.layout import Array
from slmkit_coreml.package import WEIGHTS, read_model
from slmkit_coreml.verify.kernels import MISSING, decompressed

KEPT = 4 * 10**9  # bytes of decompressed weights
OFTEN = KEPT // 10  # bytes more that are kept, between two times that free memory is given back


class Held:
    """Stands in for a MIL value: MIL's own setter would narrow float32 to the declared type."""

    __slots__ = ("val",)

    def __init__(self, val: Any) -> None:
        self.val = val


class Store:
    """Decompressed weights, first come first kept: read in turns, no other rule serves better."""

    def __init__(self, limit: int = KEPT) -> None:
        self.room = limit
        self.kept: dict[Any, Array] = {}

    def get(self, key: Any, make: Callable[[], Array]) -> Array:
        """The weight of this key."""
        if key in self.kept:
            return self.kept[key]
        value = make()
        if value.nbytes <= self.room:
            self.room -= value.nbytes
            self.kept[key] = value
        return value


class Package:
    """A saved package, ready to run its functions."""

    def __init__(self, path: Path, precision: str, store: Store | None = None) -> None:
        message = read_model(path)
        blobs = _blobs(message)
        self.path, self.store = path, store or Store()
        self.program = loader.load(message, message.specificationVersion, str(path / WEIGHTS))
        self.halves = precision == "float16"
        self.states: dict[str, Array] = {}
        self.weights: dict[int, Any] = {}  # blob -> the operation that decompresses it
        self.blobs: dict[Any, int] = {}  # variable -> blob
        self.steps = {
            name: _last_uses(function) for name, function in self.program.functions.items()
        }
        for name, function in self.program.functions.items():
            for op in function.operations:
                self._constant(op, blobs.get((name, op.name), id(op)))
        _give_back()

    def run(self, name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of a function by name. Raises BackendError for an op that has no meaning here."""
        function = self.program.functions[name]
        for key, variable in function.inputs.items():
            if types.is_state(variable._sym_type):
                self.states.setdefault(key, np.zeros(variable.shape, np.float32))
            else:
                variable._sym_val = Held(self._rounded(np.asarray(inputs[key])))
        for op, done in self.steps[name].items():
            self._compute(op)
            for variable in done:
                variable._sym_val = None
        return {output.name: np.asarray(output.val) for output in function.outputs}

    def reset(self) -> None:
        """Forget what the states hold: zeros again."""
        self.states.clear()

    def _constant(self, op: Any, blob: int) -> None:
        """Float constants widened; of one weight in several functions, the codes kept once."""
        if op.op_type == "const" and getattr(op.outputs[0].val, "dtype", None) == np.float16:
            op.outputs[0]._sym_val = Held(_widened(op.outputs[0].val))
        if not op.op_type.startswith("constexpr_"):
            return
        self.blobs[op.outputs[0]] = blob
        if self.weights.setdefault(blob, op) is not op:
            _forget_codes(op)

    def _weight(self, variable: Any) -> Array:
        """A constexpr's output, decompressed."""
        blob = self.blobs[variable]
        op = self.weights[blob]
        room = self.store.room
        weight = self.store.get((self.path, blob), lambda: self._rounded(decompressed(op)))
        if self.store.room < room:  # it is kept from now on
            _forget_codes(op)
            if room // OFTEN > self.store.room // OFTEN:
                _give_back()
        return weight

    def _value(self, op: Any) -> Any:
        if op.op_type == "read_state":
            return self.states[op.input.name].copy()
        if op.op_type == "coreml_update_state":
            self.states[op.state.name] = np.array(op.value.val)
            return op.value.val
        compute = MISSING.get(op.op_type)
        return compute(op) if compute else op.value_inference()

    def _compute(self, op: Any) -> None:
        weights = [each for each in _variables(op) if each in self.blobs]
        for each in weights:
            each._sym_val = Held(self._weight(each))
        try:
            values = self._value(op)
        except NotImplementedError:
            values = None
        if values is None:
            raise BackendError(
                f"the evaluator has no meaning for the operation {op.op_type} ({op.name})",
                "please report this",
            )
        for each in weights:
            each._sym_val = None
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


def _give_back() -> None:
    """Free memory to the system, where the C library can: holes between weights fit no weight."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _forget_codes(op: Any) -> None:
    """Free what a constexpr decompresses; a constant holds its value in two places."""
    for variable in _variables(op):
        variable._sym_val = None
        if variable.op is not None and variable.op.op_type == "const":
            variable.op.val._sym_val = None


def _blobs(message: Any) -> dict[tuple[str, str], int]:
    """Where in weight.bin the codes of each constexpr lie: two of one place are the same weight."""
    found: dict[tuple[str, str], int] = {}
    for name, function in message.mlProgram.functions.items():
        for op in function.block_specializations[function.opset].operations:
            if op.type.startswith("constexpr_"):
                first = op.inputs["indices" if "lut" in op.type else "data"].arguments[0]
                if first.value.HasField("blobFileValue"):
                    found[name, op.outputs[0].name] = first.value.blobFileValue.offset
    return found


def _last_uses(function: Any) -> dict[Any, list[Any]]:
    """Each operation to compute, and what no later one reads: a model of many experts makes
    thousands of values."""
    operations = [op for op in function.operations if not _is_constant(op)]
    makers = set(operations)
    last: dict[Any, Any] = {}
    for op in operations:
        last |= {each: op for each in (*op.outputs, *_all_variables(op)) if each.op in makers}
    done: dict[Any, list[Any]] = {op: [] for op in operations}
    for variable in set(last) - set(function.outputs):
        done[last[variable]].append(variable)
    return done


def _all_variables(op: Any) -> Iterator[Any]:
    """Inputs of an operation, and those in lists."""
    for each in op.inputs.values():
        yield from each if isinstance(each, tuple | list) else [each]


def _variables(op: Any) -> list[Any]:
    """Inputs of an operation, those in lists left out: no weight is in one."""
    return [each for each in op.inputs.values() if not isinstance(each, tuple | list)]


def _widened(value: Any) -> Array:
    return np.asarray(value, dtype=np.float32)


def _is_constant(op: Any) -> bool:
    return bool(op.op_type == "const" or op.op_type.startswith("constexpr_"))
